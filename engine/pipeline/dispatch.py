"""A plan as messages to store: deliveries for their channels, delayed deliveries, and digest timers.

A delayed delivery is in the timer stream, and the broker publishes it again at its time. Then it goes to
its channel, with the number of its attempts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from nats.aio.msg import Msg

from ..broker import Broker, OutgoingMessage, PendingAck, Topology, message_metadata
from ..broker.codec import encode
from ..model.messages import Delivery, Failure, Suppressed
from ..model.times import iso_time
from ..planning.draft import DigestTimer, drop_last_fallback
from ..planning.planner import Plan

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

ATTEMPTS = "Mss-Attempts"  # header: attempts that were made before the message was published
_ID = "Mss-Delivery"


def messages_for_plan(
    topology: Topology, planned: Plan, room: int, now: int, headers: Mapping[str, str] = NO_HEADERS
) -> tuple[Plan, list[OutgoingMessage]]:
    """What is to be published of a plan, and the plan as far as the broker takes it.

    ``room`` is the largest payload in bytes. Chains lose the fall-backs for which there is none, what is too
    large as it is becomes a failure. What waits for its time goes to the timers, unless that has come
    ``now``, in microseconds since the epoch; ``headers`` are for what goes out at once.
    """
    planned = _fitted(planned, room)
    outgoing: list[OutgoingMessage] = []
    failures: list[Failure] = []
    for delivery in planned.deliveries:
        payload = encode(delivery)
        if len(payload) > room:
            detail = f"{len(payload)} bytes, and the broker takes {room}"
            failures.append(
                Failure(rule=delivery.rule, channel=delivery.channel, detail=detail, delivery=delivery.id)
            )
        elif delivery.not_before > now:
            outgoing.append(delivery_timer(topology, delivery, payload, attempts=0, at=delivery.not_before))
        else:
            subject = topology.delivery_subject(delivery.kind, delivery.channel)
            outgoing.append(
                OutgoingMessage(subject=subject, payload=payload, id=delivery.run_id, headers=headers)
            )
    if failures:
        planned = _without(planned, failures)
    return planned, [*outgoing, *digest_timers(topology, planned.timers)]


def digest_timers(
    topology: Topology, alarms: Iterable[DigestTimer], *, by: str = ""
) -> list[OutgoingMessage]:
    """What has the broker say when a digest is due; ``by`` tells who wants it from others who do."""
    return [digest_timer(topology, each, by=by) for each in alarms]


def _fitted(planned: Plan, room: int) -> Plan:
    """``planned`` with as many fall-backs in each chain as the broker takes in one message."""
    if not any(delivery.fallbacks for delivery in planned.deliveries):
        return planned
    deliveries: list[Delivery] = []
    dropped: list[Suppressed] = []
    for delivery in planned.deliveries:
        kept = delivery
        while kept.fallbacks and (size := len(encode(kept))) > room:
            detail = f"{size} bytes with this fall-back, and the broker takes {room}"
            channel = kept.fallbacks[-1].channel
            dropped.append(Suppressed(rule=kept.rule, channel=channel, reason="too_large", detail=detail))
            kept = drop_last_fallback(kept)
        deliveries.append(kept)
    return replace(planned, deliveries=tuple(deliveries), suppressed=(*planned.suppressed, *dropped))


def _without(planned: Plan, failures: list[Failure]) -> Plan:
    """``planned`` without the deliveries that ``failures`` are about."""
    gone = {failure.delivery for failure in failures}
    return replace(
        planned,
        deliveries=tuple(each for each in planned.deliveries if each.id not in gone),
        failures=(*planned.failures, *failures),
    )


def attempts_before(msg: Msg) -> int:
    """How many attempts a message of the delivery stream has behind it."""
    text = (msg.headers or {}).get(ATTEMPTS, "0")
    return int(text) if text.isdecimal() else 0


def delivery_timer(
    topology: Topology, delivery: Delivery, payload: bytes, *, attempts: int, at: int
) -> OutgoingMessage:
    """The message that brings ``delivery`` back at ``at``, microseconds since the epoch."""
    return OutgoingMessage(
        subject=topology.timer_subject("delivery", delivery.id),
        payload=payload,
        id=f"timer.{delivery.id}.{attempts}.{at}",
        headers={
            "Nats-Schedule": _schedule(at),
            "Nats-Schedule-Target": topology.due_subject(
                "delivery", topology.delivery_subject(delivery.kind, delivery.channel)
            ),
            ATTEMPTS: str(attempts),
            _ID: delivery.id,
        },
    )


def _schedule(at: int) -> str:
    """``at`` as the broker's header says it. It knows whole seconds: never too early."""
    return f"@at {iso_time(-(-at // 1_000_000) * 1_000_000, 'seconds')}"


def digest_timer(topology: Topology, wanted: DigestTimer, *, by: str = "") -> OutgoingMessage:
    """The message that says, at its time, that a digest is due. A later one of the same key replaces it.

    ``by`` tells it from others with the same key and time.
    """
    return OutgoingMessage(
        subject=topology.timer_subject("digest", wanted.key),
        payload=encode(wanted),
        id=f"alarm.{wanted.key}.{wanted.at}.{by}",
        headers={
            "Nats-Schedule": _schedule(wanted.at),
            "Nats-Schedule-Target": topology.due_subject("digest", wanted.key),
        },
    )


@dataclass(frozen=True, slots=True)
class DelayedForwarder:
    """Moves deliveries that are due back to their channels."""

    broker: Broker

    def handle(self, msg: Msg) -> PendingAck:
        headers = msg.headers or {}
        attempts, id_ = headers.get(ATTEMPTS, "0"), headers.get(_ID, "")
        delivery = OutgoingMessage(
            subject=self.broker.topology.delivery_of_due(msg.subject),
            payload=msg.data,
            id=f"{id_}.{attempts}.{message_metadata(msg.reply).sequence}",
            headers={ATTEMPTS: attempts},
        )
        return PendingAck(messages=(delivery,))
