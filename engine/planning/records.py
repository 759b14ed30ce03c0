"""A plan as the history stores it."""

from __future__ import annotations

import msgspec

from ..model.messages import Held, RedriveId, Suppressed


class EventRecord(msgspec.Struct):
    kind: str
    key: str
    reqid: str
    sent: int
    received: int


class FallbackRecord(msgspec.Struct, frozen=True):
    id: str
    channel: str
    to: tuple[str, ...] = ()
    locale: str = ""


class _DeliveryRecord(msgspec.Struct):
    id: str
    rule: str
    channel: str
    user: str = ""
    to: tuple[str, ...] = ()
    locale: str = ""
    fallbacks: tuple[FallbackRecord, ...] = ()


class FailureRecord(msgspec.Struct, frozen=True):
    rule: str
    channel: str
    detail: str = ""
    delivery: str = ""


class PlanRecord(msgspec.Struct, tag_field="type", tag="planned"):
    """An entry: what an event leads to."""

    at: int
    event: EventRecord
    revision: str
    rules: tuple[str, ...] = ()
    deliveries: tuple[_DeliveryRecord, ...] = ()
    suppressed: tuple[Suppressed, ...] = ()
    held: tuple[Held, ...] = ()
    failures: tuple[FailureRecord, ...] = ()
    shadow: tuple[str, ...] = ()
    stopped: bool = False
    redrive: RedriveId | None = None
