"""From a stored delivery to a receipt: the channel sends and classifies, this decides.

A delivery is acknowledged only when its receipt is stored. One that may have been handed out before
is looked up in the history first: what was sent is not sent again, and an attempt that has no receipt
is written down as unknown.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from nats.aio.msg import Msg
from prometheus_client import Counter, Histogram

from . import history
from .broker import Connection, Handout, Outgoing, Publisher, Settlement, Topology, handout, messages_on
from .catalogue import mask
from .channels import Channel
from .claims import Claims
from .codec import decode_delivery, encode
from .due import attempts_before, timer
from .entrance import Entrance
from .errors import Deferred, Refused, UndecodableError, Unknown
from .history import Past
from .intake import Clock
from .metrics import Metrics
from .model import Delivery, Kind, Outcome, Receipt
from .notices import Herald
from .plan import rest_of
from .rulebook import ChannelSpec
from .subjects import token

log = logging.getLogger(__name__)

_LONG_WAIT = 60.0  # seconds; beyond that a delivery does not count among those handed out
_LOST = "handed out before, and nobody wrote down how it ended"
_FORGOTTEN = "the broker was restarted, and may have handed it out before"
_ENDING = "the replica ended before it was sent"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """One message of the delivery stream, read."""

    msg: Msg
    handed: Handout
    delivery: Delivery
    number: int  # from 1

    @property
    def id(self) -> str:
        """Tells it from every other attempt, also at a copy of the same delivery."""
        return f"{self.delivery.id}.{self.handed.sequence}.{self.handed.number}"


@dataclass(frozen=True, kw_only=True)
class Deliverer:
    """Sends the deliveries of one channel."""

    spec: ChannelSpec
    channel: Channel
    entrance: Entrance
    topology: Topology
    connection: Connection
    publisher: Publisher
    claims: Claims
    herald: Herald
    metrics: Metrics
    clock: Clock
    random: random.Random = field(default_factory=random.Random)

    async def handle(self, msg: Msg) -> Settlement | None:
        """Send one delivery, and write down how it went; it is acknowledged or comes again later."""
        handed = handout(msg.reply)
        try:
            delivery = decode_delivery(msg.data)
        except UndecodableError as error:
            await self._bury(msg, None, error.reason, str(error))
            await msg.ack()
            return None
        attempt = _Attempt(
            msg=msg, handed=handed, delivery=delivery, number=attempts_before(msg) + handed.number
        )
        if await self._is_done(attempt):
            await msg.ack()
        elif self._age(delivery) > self.spec.retry.deadline:
            await self._give_up(attempt, Outcome.DEFERRED, "expired", "the deadline has passed")
        elif not await self.entrance.enter():
            await self.publisher.store(self._receipt(attempt, Outcome.DEFERRED, _ENDING, final=False))
            await msg.nak()
        elif self.spec.repeats_unknown or await self._claim(attempt):
            return await self._send(attempt)
        else:
            self.entrance.succeeded()
            await self._give_up(attempt, Outcome.UNKNOWN, "unknown", _LOST)
        return None

    async def _is_done(self, attempt: _Attempt) -> bool:
        """Whether it is sent already, or will be; an attempt that left no trace is written down."""
        delivery, is_new = attempt.delivery, await self.connection.is_new(attempt.msg, attempt.handed)
        if is_new and delivery.revival is None:
            return False
        if not await self.claims.is_first_back(delivery):
            return True  # the other one that was made of the same letter
        past = await self._past(delivery)
        before = attempt.number - 1
        if not (past.sent or is_new) and (before > past.attempt or not past.attempt):
            lost = replace(attempt, number=before)
            detail = _LOST if before else _FORGOTTEN
            await self.publisher.store(
                self._receipt(lost, Outcome.UNKNOWN, detail, final=False, id_=f"lost.{attempt.id}")
            )
        return past.sent

    async def _past(self, delivery: Delivery) -> Past:
        subject = self.topology.history_subject(delivery.kind, token(delivery.reqid))
        stream = self.topology.history_stream
        return history.past_of(
            delivery, [msg.data or b"" async for msg in messages_on(self.connection, stream, subject)]
        )

    async def _claim(self, attempt: _Attempt) -> bool:
        """Whether nobody can have sent it: what may have gone out is not to be sent again here."""

        async def was_not_sent(number: int) -> bool:
            return number in (await self._past(attempt.delivery)).not_sent

        return await self.claims.claim(attempt.delivery.run, attempt.number, was_not_sent)

    async def _send(self, attempt: _Attempt) -> Settlement | None:
        try:
            note = await self.channel.send(attempt.delivery)
        except Refused as error:
            self.entrance.succeeded()
            await self._give_up(attempt, Outcome.REFUSED, "refused", str(error))
        except Deferred as error:
            if error.provider_works:
                self.entrance.succeeded()
            else:
                self.entrance.failed(asked=error.retry_after)
            if error.remaining:
                await self._split(attempt, str(error), error.remaining)
            else:
                await self._later(attempt, Outcome.DEFERRED, str(error), asked=error.retry_after)
        except Unknown as error:
            self.entrance.failed()
            if self.spec.repeats_unknown:
                await self._later(attempt, Outcome.UNKNOWN, str(error))
            else:
                await self._give_up(attempt, Outcome.UNKNOWN, "unknown", str(error))
        except BaseException:
            self.entrance.failed()
            raise
        else:
            self.entrance.succeeded()
            receipt = self._receipt(attempt, Outcome.SENT, note, final=True)
            observe = partial(self._latency.observe, self._age(attempt.delivery))
            return Settlement(publisher=self.publisher, messages=(receipt,), settled=observe)
        return None

    async def _split(self, attempt: _Attempt, detail: str, remaining: tuple[str, ...]) -> None:
        """Some addresses are served: what is left is a delivery of its own, so that they are not again."""
        rest = rest_of(attempt.delivery, remaining)
        subject = self.topology.delivery_subject(rest.kind, rest.channel)
        await self.publisher.store(
            Outgoing(subject=subject, payload=encode(rest), id=rest.id),
            self._receipt(attempt, Outcome.SENT, detail, final=True, rest=rest.id),
        )
        await attempt.msg.ack()

    async def _later(
        self, attempt: _Attempt, outcome: Outcome, detail: str, *, asked: float | None = None
    ) -> None:
        """Have the broker hand the delivery out again after a while, or give up."""
        retry = self.spec.retry
        if retry.exhausted(attempt.number, age=self._age(attempt.delivery)):
            await self._give_up(attempt, outcome, "exhausted", detail)
            return
        receipt = self._receipt(attempt, outcome, detail, final=False)
        wait = retry.wait(attempt.number, chance=self.random.random(), asked=asked)
        if wait <= _LONG_WAIT:
            await self.publisher.store(receipt)
            await attempt.msg.nak(delay=wait)
            return
        at = self.clock() + int(wait * 1e6)
        await self.publisher.store(
            receipt,
            timer(self.topology, attempt.delivery, attempt.msg.data, attempts=attempt.number, at=at),
        )
        await attempt.msg.ack()

    async def _give_up(self, attempt: _Attempt, outcome: Outcome, reason: str, detail: str) -> None:
        await self._bury(attempt.msg, attempt.delivery, reason, detail, attempts=attempt.number)
        await self.publisher.store(self._receipt(attempt, outcome, detail, final=True))
        await attempt.msg.ack()
        await self.herald.dead_letter(attempt.delivery, reason, mask(detail, attempt.delivery.secrets))

    async def _bury(
        self, msg: Msg, delivery: Delivery | None, reason: str, detail: str, *, attempts: int = 1
    ) -> None:
        """Put the delivery among the dead letters, whole, so that it can be sent after all."""
        kind = delivery.kind if delivery else Kind(msg.subject.split(".")[-2])
        about = {"channel": self.spec.name, "attempts": attempts}
        if delivery:
            about |= {
                "delivery": delivery.id,
                "reqid": delivery.reqid,
                "rule": delivery.rule,
                "revision": delivery.revision,
            }
            detail = mask(detail, delivery.secrets)
        letter = history.dead(
            self.topology,
            kind=kind,
            reason=reason,
            detail=detail,
            id=delivery.run if delivery else f"delivery.{handout(msg.reply).sequence}",
            payload=msg.data,
            about=about,
            room=self.connection.client.max_payload,
        )
        await self.publisher.store(letter)
        self.metrics.dead.labels(kind, reason).inc()
        log.warning("channel %s: dead letter: %s: %s", self.spec.name, reason, detail)

    def _receipt(
        self,
        attempt: _Attempt,
        outcome: Outcome,
        detail: str,
        *,
        final: bool,
        id_: str = "",
        rest: str = "",
    ) -> Outgoing:
        self._attempts[outcome].inc()
        delivery = attempt.delivery
        if outcome is not Outcome.SENT:
            log.info("channel %s: %s: %s", self.spec.name, outcome, mask(detail, delivery.secrets))
        receipt = Receipt(
            delivery=delivery,
            attempt=attempt.number,
            outcome=outcome,
            detail=detail,
            at=self.clock(),
            final=final,
            rest=rest,
        )
        return history.received(self.topology, receipt, id_=id_ or attempt.id)

    @cached_property
    def _attempts(self) -> dict[Outcome, Counter]:
        return {each: self.metrics.attempts.labels(self.spec.name, each) for each in Outcome}

    @cached_property
    def _latency(self) -> Histogram:
        return self.metrics.latency.labels(self.spec.name)

    def _age(self, delivery: Delivery) -> float:
        """Seconds since the broker took the event, or since it was brought back."""
        return max(0.0, (self.clock() - delivery.since) / 1e6)
