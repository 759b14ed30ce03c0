"""From a stored delivery to a receipt: the channel sends and classifies, this decides.

A delivery is acknowledged only when its receipt is stored. One that comes a second time, after a
crash, is sent again only if the ledger has no mark that it went out.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, field

import nats.js.errors
from nats.aio.msg import Msg
from nats.js.kv import KeyValue

from . import history
from .broker import Connection, Outgoing, Publisher, Topology
from .catalogue import mask
from .channels import Channel
from .codec import decode_delivery, encode
from .errors import Deferred, Refused, UndecodableError, Unknown
from .intake import Clock
from .metrics import Metrics
from .model import Delivery, Kind, Outcome, Receipt
from .plan import rest_of
from .rulebook import ChannelSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """One message of the delivery stream, read."""

    msg: Msg
    delivery: Delivery
    number: int  # from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliverer:
    """Sends the deliveries of one channel."""

    spec: ChannelSpec
    channel: Channel
    topology: Topology
    connection: Connection
    publisher: Publisher
    ledger: KeyValue
    metrics: Metrics
    clock: Clock
    random: random.Random = field(default_factory=random.Random)

    async def handle(self, msg: Msg) -> None:
        """Send one delivery, write down how it went, acknowledge it or have it come again later."""
        try:
            delivery = decode_delivery(msg.data)
        except UndecodableError as error:
            await self._bury(msg, None, error.reason, str(error))
            await msg.ack()
            return
        attempt = _Attempt(msg=msg, delivery=delivery, number=msg.metadata.num_delivered)
        if attempt.number > 1 and await self._went_out(delivery):
            await msg.ack()
        elif self._age(delivery) > self.spec.retry.deadline:
            await self._give_up(attempt, Outcome.DEFERRED, "expired", "the deadline has passed")
        else:
            await self._send(attempt)

    async def _send(self, attempt: _Attempt) -> None:
        try:
            note = await self.channel.send(attempt.delivery)
        except Refused as error:
            await self._give_up(attempt, Outcome.REFUSED, "refused", str(error))
        except Deferred as error:
            if error.remaining:
                await self._split(attempt, str(error), error.remaining)
            else:
                await self._later(attempt, Outcome.DEFERRED, str(error), asked=error.retry_after)
        except Unknown as error:
            await self._later(attempt, Outcome.UNKNOWN, str(error))
        else:
            await self.publisher.store(
                history.sent_mark(self.topology, attempt.delivery),
                self._receipt(attempt, Outcome.SENT, note, final=True),
            )
            await attempt.msg.ack()
            self.metrics.latency.labels(self.spec.name).observe(self._age(attempt.delivery))

    async def _split(self, attempt: _Attempt, detail: str, remaining: tuple[str, ...]) -> None:
        """Some addresses are served: what is left is a delivery of its own, so that they are not again."""
        rest = rest_of(attempt.delivery, remaining)
        subject = self.topology.delivery_subject(rest.kind, rest.channel)
        await self.publisher.store(
            Outgoing(subject=subject, payload=encode(rest), id=rest.id),
            history.sent_mark(self.topology, attempt.delivery),
            self._receipt(attempt, Outcome.SENT, detail, final=True),
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
        await self.publisher.store(self._receipt(attempt, outcome, detail, final=False))
        await attempt.msg.nak(delay=retry.wait(attempt.number, chance=self.random.random(), asked=asked))

    async def _give_up(self, attempt: _Attempt, outcome: Outcome, reason: str, detail: str) -> None:
        await self._bury(attempt.msg, attempt.delivery, reason, detail)
        await self.publisher.store(self._receipt(attempt, outcome, detail, final=True))
        await attempt.msg.ack()

    async def _bury(self, msg: Msg, delivery: Delivery | None, reason: str, detail: str) -> None:
        """Put the delivery among the dead letters, whole, so that it can be sent after all."""
        kind = delivery.kind if delivery else Kind(msg.subject.split(".")[-2])
        about = {"channel": self.spec.name, "attempts": msg.metadata.num_delivered}
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
            id=delivery.id if delivery else f"delivery.{msg.metadata.sequence.stream}",
            payload=msg.data,
            about=about,
            room=self.connection.client.max_payload,
        )
        await self.publisher.store(letter)
        self.metrics.dead.labels(kind, reason).inc()
        log.warning("channel %s: dead letter: %s: %s", self.spec.name, reason, detail)

    async def _went_out(self, delivery: Delivery) -> bool:
        try:
            await self.ledger.get(history.mark_key(delivery))
        except nats.js.errors.KeyNotFoundError:
            return False
        return True

    def _receipt(self, attempt: _Attempt, outcome: Outcome, detail: str, *, final: bool) -> Outgoing:
        self.metrics.attempts.labels(self.spec.name, outcome).inc()
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
        )
        return history.received(self.topology, receipt)

    def _age(self, delivery: Delivery) -> float:
        """Seconds since the broker took the event."""
        return max(0.0, (self.clock() - delivery.created) / 1e6)
