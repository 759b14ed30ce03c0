"""The delivery consumer: send, classify, retry, fall back. Entry: `DeliveryWorker`.

The channel sends and classifies; the worker decides. A delivery is acknowledged only when its receipt is
stored. The worker first reads the history of a delivery that may have been delivered before: a sent one is
not sent again, and an attempt without a receipt is recorded as unknown. After a definite failure its
fallback is sent, if it has one.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from msgspec import Struct, structs
from nats.aio.msg import Msg
from prometheus_client import Counter, Histogram

from ..broker import Broker, MessageMetadata, OutgoingMessage, PendingAck, message_metadata
from ..broker.codec import decode_delivery, encode
from ..broker.publisher import NO_HEADERS
from ..channels import Channel
from ..history import entries
from ..history.dead_letters import DeadLetter
from ..history.entries import DeliveryHistory
from ..metrics import Metrics
from ..model.errors import Deferred, Refused, UndecodableError, Unknown
from ..model.masking import mask
from ..model.messages import Delivery, Kind, Outcome, Receipt
from ..planning.draft import next_fallback, remaining_recipients
from ..rules.rulebook import ChannelSpec, RetryPolicy
from .claims import AttemptClaims
from .dispatch import attempts_before, delivery_message, delivery_timer
from .flow_control import FlowControl
from .operator_notices import OperatorNotifier

log = logging.getLogger(__name__)

_LONG_WAIT = 60.0  # seconds; a longer wait is spent in the timer stream
_CHECK_HISTORY = "Mss-Check-History"  # header: the history may know another copy of this delivery
_LOST = "an earlier attempt has no recorded result"
_NOT_BEGUN = "delivered to a worker before, which did not begin to send it"
_FORGOTTEN = "the broker was restarted, and may have delivered it before"
_ENDING = "the replica ended before it was sent"
_LATE = "the deadline has passed"
_UNSURE = "no fallback, because an earlier attempt may have gone out"

_EARLY = 1.0  # seconds by which the broker may redeliver too early


@dataclass(frozen=True, kw_only=True)
class DeliveryWorker:
    """Sends the deliveries of one channel."""

    spec: ChannelSpec
    channel: Channel
    flow_control: FlowControl
    broker: Broker
    notifier: OperatorNotifier
    metrics: Metrics
    clock: Callable[[], int]  # microseconds since the epoch
    random: random.Random = field(default_factory=random.Random)

    async def handle(self, msg: Msg) -> PendingAck | None:
        """Send one delivery and record the result. The message is acknowledged, or redelivered later."""
        try:
            attempt = DeliveryAttempt.read(msg, self.spec.retry)
        except UndecodableError as error:
            await self._store_dead_letter(msg, None, error.reason, str(error))
            await msg.ack()
            return None
        history = await self._load_history(attempt)
        if history is None or history.sent:
            await msg.ack()
        elif history.fell_back_at:
            await self._send_fallback(attempt, at=history.fell_back_at, headers={_CHECK_HISTORY: "1"})
        elif attempt.is_late(self.clock()):
            await self._fail(attempt, Outcome.DEFERRED, "expired", _LATE)
        elif not await self.flow_control.acquire(attempt.seconds_until_fallback(self.clock())):
            if self.flow_control.is_closing:
                await self._store(self._receipt(attempt, Outcome.DEFERRED, _ENDING, final=False))
                await msg.nak()
            else:
                await self._fail(attempt, Outcome.DEFERRED, "expired", _LATE)
        elif await self._claim(attempt):
            return await self._send(attempt)
        else:
            self.flow_control.record_success()
            await self._dead_letter(attempt, Outcome.UNKNOWN, "unknown", _LOST)
        return None

    async def _store(self, *messages: OutgoingMessage) -> None:
        await self.broker.publisher.store(*messages)

    async def _load_history(self, attempt: DeliveryAttempt) -> DeliveryHistory | None:
        """Return the history of a delivery, or None if another copy of it is sent.

        An attempt without a receipt is recorded first.
        """
        delivery, is_new = (
            attempt.delivery,
            await self.broker.connection.is_first_delivery(attempt.msg, attempt.metadata),
        )
        if is_new and delivery.redrive is None and _CHECK_HISTORY not in (attempt.msg.headers or {}):
            return DeliveryHistory()
        if not await self._claims.is_first_back(delivery):
            return None  # another command has redriven the same dead letter
        history = await self._read_history(delivery)
        before = attempt.number - 1
        if not (history.sent or history.fell_back_at or is_new) and (
            before > history.attempt or not history.attempt
        ):
            lost = structs.replace(attempt, number=before)
            if await self._has_begun(lost):
                outcome, detail = Outcome.UNKNOWN, _LOST if before else _FORGOTTEN
            else:
                outcome, detail = Outcome.DEFERRED, _NOT_BEGUN
            await self._store(self._receipt(lost, outcome, detail, final=False, id_=f"lost.{attempt.id}"))
        return history

    async def _has_begun(self, lost: DeliveryAttempt) -> bool:
        """Return whether an attempt without a receipt may have been sent."""
        delivery = lost.delivery
        if not delivery.fallbacks or lost.age(self.clock()) >= self.broker.topology.ledger_age:
            return True
        return await self._claims.begun(delivery.run_id) >= max(1, lost.number)

    async def _read_history(self, delivery: Delivery) -> DeliveryHistory:
        return entries.delivery_history(
            delivery, [entry async for entry in self.broker.history(delivery.kind, delivery.reqid)]
        )

    async def _claim(self, attempt: DeliveryAttempt) -> bool:
        """Return whether to send the attempt.

        A channel that does not repeat unknown results sends it only if no other attempt can have been sent.
        """
        if self.spec.repeats_unknown:
            if attempt.delivery.fallbacks:
                await self._claims.note(attempt.delivery.run_id, attempt.number)
            return True

        async def was_not_sent(number: int) -> bool:
            return number in (await self._read_history(attempt.delivery)).not_sent

        return await self._claims.claim(attempt.delivery.run_id, attempt.number, was_not_sent)

    async def _send(self, attempt: DeliveryAttempt) -> PendingAck | None:
        try:
            note = await self.channel.send(attempt.delivery)
        except Refused as error:
            self.flow_control.record_success()
            await self._fail(attempt, Outcome.REFUSED, "refused", str(error))
        except Deferred as error:
            if error.provider_works:
                self.flow_control.record_success()
            else:
                self.flow_control.record_failure(retry_after=error.retry_after)
            if error.remaining:
                await self._send_remaining(attempt, str(error), error.remaining)
            else:
                await self._retry_later(attempt, Outcome.DEFERRED, str(error), retry_after=error.retry_after)
        except Unknown as error:
            self.flow_control.record_failure()
            if self.spec.repeats_unknown:
                await self._retry_later(attempt, Outcome.UNKNOWN, str(error))
            else:
                await self._dead_letter(attempt, Outcome.UNKNOWN, "unknown", str(error))
        except BaseException:
            self.flow_control.record_failure()
            raise
        else:
            self.flow_control.record_success()
            receipt = self._receipt(attempt, Outcome.SENT, note, final=True)
            took = max(0.0, (self.clock() - attempt.delivery.awaited_since) / 1e6)
            observe = partial(self._latency.observe, took)
            return PendingAck(messages=(receipt,), settled=observe)
        return None

    async def _send_remaining(
        self, attempt: DeliveryAttempt, detail: str, remaining: tuple[str, ...]
    ) -> None:
        """Send the remaining addresses as a new delivery, so that the others do not get it again."""
        rest = remaining_recipients(attempt.delivery, remaining)
        subject = self.broker.topology.delivery_subject(rest.kind, rest.channel)
        await self._store(
            OutgoingMessage(subject=subject, payload=encode(rest), id=rest.id),
            self._receipt(attempt, Outcome.SENT, detail, final=True, rest=rest.id),
        )
        await attempt.msg.ack()

    async def _retry_later(
        self, attempt: DeliveryAttempt, outcome: Outcome, detail: str, *, retry_after: float | None = None
    ) -> None:
        """Have the broker redeliver after a wait, or end the delivery if its retries are exhausted."""
        retry = attempt.retry
        if retry.exhausted(attempt.number, age=attempt.age(self.clock())):
            await self._fail(attempt, outcome, "exhausted", detail)
            return
        receipt = self._receipt(attempt, outcome, detail, final=False)
        wait = retry.wait(attempt.number, chance=self.random.random(), retry_after=retry_after)
        wait = min(wait, attempt.seconds_until_fallback(self.clock()))
        if wait <= _LONG_WAIT:
            await self._store(receipt)
            await attempt.msg.nak(delay=wait)
            return
        at = self.clock() + int(wait * 1e6)
        await self._store(
            receipt,
            delivery_timer(
                self.broker.topology, attempt.delivery, attempt.msg.data, attempts=attempt.number, at=at
            ),
        )
        await attempt.msg.ack()

    async def _fail(self, attempt: DeliveryAttempt, outcome: Outcome, reason: str, detail: str) -> None:
        """End the delivery on this channel: send its fallback, unless this one may have been sent."""
        delivery = attempt.delivery
        if delivery.fallbacks and (
            outcome is Outcome.UNKNOWN or (await self._read_history(delivery)).is_unsure
        ):
            await self._dead_letter(attempt, outcome, reason, f"{detail}; {_UNSURE}")
        elif delivery.fallbacks:
            await self._fall_back(attempt, outcome, detail)
        else:
            await self._dead_letter(attempt, outcome, reason, detail)

    async def _fall_back(self, attempt: DeliveryAttempt, outcome: Outcome, detail: str) -> None:
        """Record the fallback, then send it. After a crash, the recorded one is sent."""
        at = self.clock()
        following = next_fallback(attempt.delivery, at=at)
        await self._store(self._receipt(attempt, outcome, detail, final=True, fallback=following, at=at))
        await self._send_fallback(attempt, at=at)
        self.metrics.fallbacks.labels(self.spec.name).inc()

    async def _send_fallback(
        self, attempt: DeliveryAttempt, *, at: int, headers: Mapping[str, str] = NO_HEADERS
    ) -> None:
        following = next_fallback(attempt.delivery, at=at)
        topology, payload = self.broker.topology, encode(following)
        message = delivery_message(topology, following, payload, now=at, headers=headers)
        await self._store(message)
        await attempt.msg.ack()
        log.info("channel %s: %s falls back to %s", self.spec.name, attempt.delivery.id, following.channel)

    async def _dead_letter(
        self, attempt: DeliveryAttempt, outcome: Outcome, reason: str, detail: str
    ) -> None:
        await self._store_dead_letter(attempt.msg, attempt.delivery, reason, detail, attempts=attempt.number)
        await self._store(self._receipt(attempt, outcome, detail, final=True))
        await attempt.msg.ack()
        masked = mask(detail, attempt.delivery.secrets)
        await self.notifier.notify_dead_letter(attempt.delivery, reason, masked)

    async def _store_dead_letter(
        self, msg: Msg, delivery: Delivery | None, reason: str, detail: str, *, attempts: int = 1
    ) -> None:
        """Store the whole delivery as a dead letter, so that it can be redriven."""
        dead_letter = DeadLetter(
            kind=delivery.kind if delivery else Kind(msg.subject.split(".")[-2]),
            reason=reason,
            detail=mask(detail, delivery.secrets) if delivery else detail,
            channel=self.spec.name,
            attempts=attempts,
        )
        id_ = f"delivery.{message_metadata(msg.reply).sequence}"
        if delivery:
            id_, failed = delivery.run_id, delivery.fell_back_from
            dead_letter = replace(
                dead_letter,
                reqid=delivery.reqid,
                rule=delivery.rule,
                delivery=delivery.id,
                revision=delivery.revision,
                chain=", ".join((*failed.channels, delivery.channel)) if failed else "",
            )
        largest = self.broker.max_payload
        await self._store(
            dead_letter.to_message(self.broker.topology, msg.data, id_=id_, max_payload=largest)
        )
        self.metrics.dead.labels(dead_letter.kind, reason).inc()
        log.warning("channel %s: dead letter: %s: %s", self.spec.name, reason, dead_letter.detail)

    def _receipt(
        self,
        attempt: DeliveryAttempt,
        outcome: Outcome,
        detail: str,
        *,
        final: bool,
        id_: str = "",
        rest: str = "",
        fallback: Delivery | None = None,
        at: int = 0,
    ) -> OutgoingMessage:
        self._attempts[outcome].inc()
        delivery = attempt.delivery
        if outcome is not Outcome.SENT:
            log.info("channel %s: %s: %s", self.spec.name, outcome, mask(detail, delivery.secrets))
        receipt = Receipt(
            delivery=delivery,
            attempt=attempt.number,
            outcome=outcome,
            detail=detail,
            at=at or self.clock(),
            final=final,
            rest=rest,
            fallback=fallback,
        )
        return entries.receipt_entry(self.broker.topology, receipt, id_=id_ or attempt.id)

    @cached_property
    def _claims(self) -> AttemptClaims:
        return AttemptClaims(self.broker.ledger)

    @cached_property
    def _attempts(self) -> dict[Outcome, Counter]:
        return {each: self.metrics.attempts.labels(self.spec.name, each) for each in Outcome}

    @cached_property
    def _latency(self) -> Histogram:
        return self.metrics.latency.labels(self.spec.name)


class DeliveryAttempt(Struct, frozen=True, kw_only=True):
    """One delivery from the stream, with the number of its attempt."""

    msg: Msg
    metadata: MessageMetadata
    delivery: Delivery
    number: int  # from 1
    channel_retry: RetryPolicy  # of the channel

    @classmethod
    def read(cls, msg: Msg, channel: RetryPolicy) -> DeliveryAttempt:
        """Decode a message. Raises UndecodableError if it is not a delivery."""
        metadata = message_metadata(msg.reply)
        number = attempts_before(msg) + metadata.num_delivered
        return cls(
            msg=msg,
            metadata=metadata,
            delivery=decode_delivery(msg.data),
            number=number,
            channel_retry=channel,
        )

    @property
    def id(self) -> str:
        """An id that differs from that of every other attempt, also of a copy of the delivery."""
        return f"{self.delivery.id}.{self.metadata.sequence}.{self.metadata.num_delivered}"

    @property
    def retry(self) -> RetryPolicy:
        """The retry policy of the channel, limited to the time before the fallback of the delivery."""
        within = self.delivery.fallback_after
        return (
            replace(self.channel_retry, deadline=min(self.channel_retry.deadline, within))
            if within
            else self.channel_retry
        )

    def age(self, now: int) -> float:
        """Return the seconds since the event was received, or since the redrive or the fallback."""
        return max(0.0, (now - self.delivery.deadline_start) / 1e6)

    def is_late(self, now: int) -> bool:
        """Return whether the deadline has passed."""
        early = _EARLY if self.delivery.fallbacks and self.number > 1 else 0.0
        return self.age(now) > self.retry.deadline - early

    def seconds_until_fallback(self, now: int) -> float:
        """Return the seconds until the fallback is sent instead; infinite without a fallback."""
        return max(0.0, self.retry.deadline - self.age(now)) if self.delivery.fallbacks else math.inf
