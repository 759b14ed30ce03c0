"""From a plan to what is stored of it: deliveries for their channels, or for their time, and alarms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from .broker import OutgoingMessage, Topology
from .chain import drop_last_fallback
from .codec import encode
from .draft import DigestTimer
from .due import delivery_timer, digest_timer
from .model import Delivery, Failure, Suppressed
from .plan import Plan

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


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
