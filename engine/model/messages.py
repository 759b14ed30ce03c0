"""The nouns of MSS, one frozen class each: an event, its messages, deliveries and receipts.

Each holds the one before it: Event -> Match (rulebook) -> Delivery -> Receipt. Classes that are made for
each event are msgspec Structs: they cost an eighth of a dataclass to construct and half to encode.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from msgspec import Struct


class Kind(StrEnum):
    """The kinds of events. A request, the fourth kind of message, is an action and no event."""

    NOTICE = "notice"
    AUDIT = "audit"
    LOG = "log"


class Severity(StrEnum):
    """How much a rule's message matters to its reader."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Outcome(StrEnum):
    """How one attempt at a delivery ended."""

    SENT = "sent"
    REFUSED = "refused"  # definitely not sent and never will be
    DEFERRED = "deferred"  # definitely not sent, try again
    UNKNOWN = "unknown"  # it may have gone out


HOPS = "Mss-Hops"  # header of what MSS publishes: how many messages of its own led to it, itself included
MAX_HOPS = 1  # an announcement of MSS's own may tell somebody; what that leads to may not


class Event(Struct, frozen=True, kw_only=True):
    """One notice, audit or log message as received."""

    kind: Kind
    key: str  # the subject's tokens after the kind, for example login.abnormal; "" for a bare log
    reqid: str
    payload: Mapping[str, Any]
    sent: int  # the sender's clock, microseconds since the epoch
    received: int  # when the broker took it, microseconds since the epoch
    hops: int = 0  # how many messages of MSS's own led to it

    @property
    def name(self) -> str:
        """``KIND.KEY``, what a rule's ``event`` is compared with."""
        return f"{self.kind}.{self.key}" if self.key else str(self.kind)


class Recipient(Struct, frozen=True, kw_only=True):
    """Who is told: a person of the event, or an entry under ``people``."""

    user: str = ""  # the application's id of the person, or the name under people
    addresses: Mapping[str, tuple[str, ...]] = {}  # by kind: email, phone, ...
    locale: str = ""  # as the event says it; "" where it does not
    zone: ZoneInfo | None = None  # None where nobody has said


class Inline(Struct, frozen=True, kw_only=True):
    """A picture inside a mail, shown where the HTML says ``cid:<name>``."""

    name: str
    media_type: str  # for example image/png
    data: bytes


class Message(Struct, frozen=True, kw_only=True):
    """Finished words. At least one of ``text`` and ``html`` is there."""

    title: str = ""  # a mail's subject
    text: str = ""
    html: str = ""
    markdown: bool = False  # text is Markdown
    inline: tuple[Inline, ...] = ()


class RedriveId(Struct, frozen=True, kw_only=True):
    """That something was a dead letter and was brought back."""

    letter: str  # which letter it was; no other one is called so
    at: int  # when an operator brought it back, microseconds since the epoch


class FallbackFrom(Struct, frozen=True, kw_only=True):
    """That a delivery goes on where others definitely failed."""

    channels: tuple[str, ...]  # of those others, in order
    at: int  # when it took over, microseconds since the epoch


class Delivery(Struct, frozen=True, kw_only=True):
    """A finished message with an address on it, ready to hand to a channel.

    It is self-contained: rules, templates and channels may change while it waits.
    """

    id: str  # 32 hex digits, derived from reqid, rule, channel and recipient
    kind: Kind
    key: str
    reqid: str
    rule: str
    revision: str  # of the rulebook that planned it
    channel: str
    user: str  # "" where nobody in particular is meant
    to: tuple[str, ...]  # addresses; a mail's first is To, the rest Cc; empty where a channel needs none
    locale: str  # of the words
    severity: Severity
    message: Message
    payload: Mapping[str, Any] | None = None  # for channels that carry the event itself to a machine
    secrets: tuple[str, ...] = ()  # values to mask wherever the delivery is shown
    created: int = 0  # when the broker took the event, microseconds since the epoch
    hops: int = 0  # as the event's
    not_before: int = 0  # until when it was held back, microseconds since the epoch; 0: not at all
    redrive: RedriveId | None = None  # from the dead letters
    fell_back_from: FallbackFrom | None = None  # from channels that failed
    fallbacks: tuple[Delivery, ...] = ()  # its fall-backs: the first goes on, with the rest, where it fails
    fallback_after: float = (
        0.0  # seconds in which it has to be sent, else it has failed; 0.0: no limit of its own
    )

    @property
    def deadline_start(self) -> int:
        """From when its deadline counts, microseconds since the epoch."""
        took_over = self.fell_back_from.at if self.fell_back_from and not self.redrive else 0
        return max(took_over, self.awaited_since)

    @property
    def awaited_since(self) -> int:
        """When it was to go out first, or it was brought back, microseconds since the epoch."""
        return self.redrive.at if self.redrive else max(self.created, self.not_before)

    @property
    def run_id(self) -> str:
        """Names this life of it: attempts are counted anew after each return from the dead letters."""
        return f"{self.id}.{self.redrive.at}" if self.redrive else self.id


class Receipt(Struct, frozen=True, kw_only=True):
    """How one attempt at a delivery ended."""

    delivery: Delivery
    attempt: int  # from 1
    outcome: Outcome
    detail: str  # the other side's words, secrets masked
    at: int  # microseconds since the epoch
    final: bool  # nothing more is tried
    rest: str = ""  # the id of the delivery that goes on for the addresses that were not served
    fallback: Delivery | None = None  # the fall-back that goes on


class Suppressed(Struct, frozen=True, kw_only=True):
    """A delivery that a rule asked for and that is not made, and why."""

    rule: str
    channel: str
    # shadow, hops, condition, preference, no_address, bad_address, dedupe, throttle, budget,
    # outside_active_time, muted, quiet_hours; of a chain also not_rendered, too_large
    reason: str
    detail: str = ""


class Held(Struct, frozen=True, kw_only=True):
    """A message that waits: finished, for its time, or for others to be told of with it."""

    rule: str
    channel: str
    reason: str  # muted, quiet_hours; throttle, digest, budget
    until: int  # microseconds since the epoch
    delivery: str = ""  # its id, where it is finished
    digest: str = ""  # the reqid of the digest that it will be in, where it is not


class Failure(Struct, frozen=True, kw_only=True):
    """A delivery that could not be written: a template fell over what the event brought."""

    rule: str
    channel: str
    detail: str
    delivery: str = ""  # the id that it would have had
