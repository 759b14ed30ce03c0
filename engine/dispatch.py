"""From a plan to what is stored of it: deliveries for their channels, or for their time, and alarms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from .broker import Outgoing, Topology
from .codec import encode
from .draft import Alarm
from .due import alarm, timer
from .model import Delivery, Failure

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def dispatched(
    topology: Topology, deliveries: Iterable[Delivery], room: int, headers: Mapping[str, str] = NO_HEADERS
) -> tuple[list[Outgoing], list[Failure]]:
    """What is to be published of ``deliveries``, and those that the broker does not take.

    ``room`` is the largest payload in bytes. What waits for its time goes to the timers.
    """
    outgoing: list[Outgoing] = []
    failures: list[Failure] = []
    for delivery in deliveries:
        payload = encode(delivery)
        if len(payload) > room:
            detail = f"{len(payload)} bytes, and the broker takes {room}"
            failures.append(
                Failure(rule=delivery.rule, channel=delivery.channel, detail=detail, delivery=delivery.id)
            )
        elif delivery.released:
            outgoing.append(timer(topology, delivery, payload, attempts=0, at=delivery.released))
        else:
            subject = topology.delivery_subject(delivery.kind, delivery.channel)
            outgoing.append(Outgoing(subject=subject, payload=payload, id=delivery.run, headers=headers))
    return outgoing, failures


def rung(topology: Topology, alarms: Iterable[Alarm]) -> list[Outgoing]:
    """What has the broker say when a digest is due."""
    return [alarm(topology, each) for each in alarms]
