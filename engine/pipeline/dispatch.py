"""A plan as messages to store: deliveries for their channels, delayed deliveries, and digest timers.

A delayed delivery is in the timer stream, and the broker publishes it again at its time. Then it goes to
its channel, with the number of its attempts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from nats.aio.msg import Msg

from ..broker import RESENT_HEADER, Broker, OutgoingMessage, PendingAck, Topology, message_metadata
from ..broker.codec import encode
from ..broker.publisher import NO_HEADERS
from ..model.messages import Delivery, Failure, Suppressed
from ..model.times import iso_time
from ..planning.draft import DigestTimer, drop_last_fallback
from ..planning.planner import Plan

RESENT: Mapping[str, str] = MappingProxyType({RESENT_HEADER: "1"})  # of a message that may be stored already

_ATTEMPTS = "Mss-Attempts"  # header: attempts that were made before the message was published
_DELIVERY = "Mss-Delivery"


def messages_for_plan(
    topology: Topology, plan: Plan, max_payload: int, now: int, headers: Mapping[str, str] = NO_HEADERS
) -> tuple[Plan, list[OutgoingMessage]]:
    """Return the messages of a plan, and the plan without the parts that are too large to store.

    A chain loses the fallbacks for which ``max_payload`` bytes are too few. A delivery that is too large by
    itself becomes a failure. ``headers`` are for the deliveries that are due ``now``, in microseconds since
    the epoch; the others go to the timer stream.
    """
    plan = _drop_large_fallbacks(plan, max_payload)
    messages: list[OutgoingMessage] = []
    failures: dict[str, Failure] = {}  # by delivery
    for delivery in plan.deliveries:
        payload = encode(delivery)
        if len(payload) <= max_payload:
            messages.append(delivery_message(topology, delivery, payload, now=now, headers=headers))
            continue
        detail = f"{len(payload)} bytes, and the broker takes {max_payload}"
        failures[delivery.id] = Failure(
            rule=delivery.rule, channel=delivery.channel, detail=detail, delivery=delivery.id
        )
    if failures:
        kept = tuple(delivery for delivery in plan.deliveries if delivery.id not in failures)
        plan = replace(plan, deliveries=kept, failures=(*plan.failures, *failures.values()))
    return plan, [*messages, *(digest_timer(topology, timer) for timer in plan.timers)]


def _drop_large_fallbacks(plan: Plan, max_payload: int) -> Plan:
    if not any(delivery.fallbacks for delivery in plan.deliveries):
        return plan
    deliveries: list[Delivery] = []
    dropped: list[Suppressed] = []
    for delivery in plan.deliveries:
        kept = delivery
        while kept.fallbacks and (size := len(encode(kept))) > max_payload:
            detail = f"{size} bytes with this fallback, and the broker takes {max_payload}"
            channel = kept.fallbacks[-1].channel
            dropped.append(Suppressed(rule=kept.rule, channel=channel, reason="too_large", detail=detail))
            kept = drop_last_fallback(kept)
        deliveries.append(kept)
    return replace(plan, deliveries=tuple(deliveries), suppressed=(*plan.suppressed, *dropped))


def delivery_message(
    topology: Topology,
    delivery: Delivery,
    payload: bytes,
    *,
    now: int,
    headers: Mapping[str, str] = NO_HEADERS,
) -> OutgoingMessage:
    """Return the message for the channel of ``delivery``, or a timer if it is not due ``now``."""
    if delivery.not_before > now:
        return delivery_timer(topology, delivery, payload, attempts=0, at=delivery.not_before)
    subject = topology.delivery_subject(delivery.kind, delivery.channel)
    return OutgoingMessage(subject=subject, payload=payload, id=delivery.run_id, headers=headers)


def attempts_before(msg: Msg) -> int:
    """Return how many attempts were made before a message of the delivery stream was published."""
    text = (msg.headers or {}).get(_ATTEMPTS, "0")
    return int(text) if text.isdecimal() else 0


def delivery_timer(
    topology: Topology, delivery: Delivery, payload: bytes, *, attempts: int, at: int
) -> OutgoingMessage:
    """Return the message that makes ``delivery`` due at ``at``, microseconds since the epoch."""
    subject = topology.delivery_subject(delivery.kind, delivery.channel)
    return OutgoingMessage(
        subject=topology.timer_subject("delivery", delivery.id),
        payload=payload,
        id=f"timer.{delivery.id}.{attempts}.{at}",
        headers={
            **_schedule(at, topology.due_subject("delivery", subject)),
            _ATTEMPTS: str(attempts),
            _DELIVERY: delivery.id,
        },
    )


def digest_timer(topology: Topology, timer: DigestTimer, *, by: str = "") -> OutgoingMessage:
    """Return the message that makes a digest due. A later one of the same key replaces it.

    ``by`` distinguishes it from other messages with the same key and time.
    """
    return OutgoingMessage(
        subject=topology.timer_subject("digest", timer.key),
        payload=encode(timer),
        id=f"alarm.{timer.key}.{timer.at}.{by}",
        headers=_schedule(timer.at, topology.due_subject("digest", timer.key)),
    )


def _schedule(at: int, target: str) -> dict[str, str]:
    """Return headers with which the broker publishes a message on ``target`` at ``at``, or a second later."""
    # A schedule has whole seconds. It must not be early.
    moment = iso_time(-(-at // 1_000_000) * 1_000_000, "seconds")
    return {"Nats-Schedule": f"@at {moment}", "Nats-Schedule-Target": target}


@dataclass(frozen=True, slots=True)
class DelayedForwarder:
    """Moves deliveries that are due back to their channels."""

    broker: Broker

    def handle(self, msg: Msg) -> PendingAck:
        headers = msg.headers or {}
        attempts, delivery = headers.get(_ATTEMPTS, "0"), headers.get(_DELIVERY, "")
        message = OutgoingMessage(
            subject=self.broker.topology.delivery_of_due(msg.subject),
            payload=msg.data,
            id=f"{delivery}.{attempts}.{message_metadata(msg.reply).sequence}",
            headers={_ATTEMPTS: attempts},
        )
        return PendingAck(messages=(message,))
