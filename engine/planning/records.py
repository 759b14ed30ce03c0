"""The record of a plan, as the history stores it. It has no message text, and secrets are masked.

The same structs are written and read. An optional field that has its default is not written.
"""

from __future__ import annotations

from msgspec import Struct

from ..model.messages import Failure, Held, Kind, RedriveId, Suppressed


class EventRecord(Struct, frozen=True):
    """An event, without its payload."""

    kind: Kind
    key: str
    reqid: str
    sent: int  # the sender's clock, microseconds since the epoch
    received: int  # the broker's clock, microseconds since the epoch


class FallbackRecord(Struct, frozen=True):
    """The next step of a fallback chain."""

    id: str
    channel: str
    to: tuple[str, ...]
    locale: str


class DeliveryRecord(Struct, frozen=True, omit_defaults=True):
    """A planned delivery, with its fallbacks in order."""

    id: str
    rule: str
    channel: str
    user: str
    to: tuple[str, ...]
    locale: str
    fallbacks: tuple[FallbackRecord, ...] = ()


class DigestedEvent(Struct, frozen=True):
    """An event in a digest. Its own history names the digest."""

    key: str
    reqid: str


class DigestRecord(Struct, frozen=True):
    """The events of a digest, and how many more there were."""

    events: tuple[DigestedEvent, ...]
    more: int


class PlanRecord(Struct, frozen=True, kw_only=True, tag_field="type", tag="planned", omit_defaults=True):
    """The plan of one event. There is one for each time that the event was planned."""

    at: int  # when it was planned, microseconds since the epoch
    event: EventRecord
    revision: str
    rules: tuple[str, ...]  # that matched; there may be 100,000 others
    deliveries: tuple[DeliveryRecord, ...]
    suppressed: tuple[Suppressed, ...]
    held: tuple[Held, ...]
    failures: tuple[Failure, ...]
    shadow: tuple[str, ...] = ()  # those of `rules` that are in shadow mode
    stopped: bool = False  # the last of `rules` has `stop`; later rules were not evaluated
    redrive: RedriveId | None = None
    digest: DigestRecord | None = None
