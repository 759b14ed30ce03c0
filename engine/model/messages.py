"""The nouns of MSS, one frozen class each: events, messages, deliveries and receipts.

The way of an event is Event -> Match (rulebook) -> Delivery -> Receipt. The classes are msgspec Structs, as
each event makes several: they cost an eighth of a dataclass to construct and half to encode.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from msgspec import Struct


class Kind(StrEnum):
    """The kinds of events. A request for an action is the fourth kind of message, but not an event."""

    NOTICE = "notice"
    AUDIT = "audit"
    LOG = "log"


class Severity(StrEnum):
    """The importance of a rule's messages for their readers."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Outcome(StrEnum):
    """The result of one delivery attempt."""

    SENT = "sent"
    REFUSED = "refused"  # not sent; a retry is pointless
    DEFERRED = "deferred"  # not sent; a retry may succeed
    UNKNOWN = "unknown"  # it may have been sent


HOPS = "Mss-Hops"  # header with the number of messages of MSS itself that led to this one, this one included
MAX_HOPS = 1  # an event that MSS publishes may notify operators; an event that results from this may not


class Event(Struct, frozen=True, kw_only=True):
    """One notice, audit or log message as received."""

    kind: Kind
    key: str  # the subject's tokens after the kind, for example login.abnormal; "" for a bare log
    reqid: str
    payload: Mapping[str, Any]
    sent: int  # the sender's clock, microseconds since the epoch
    received: int  # when the broker stored it, microseconds since the epoch
    hops: int = 0  # how many messages of MSS itself led to it

    @property
    def name(self) -> str:
        """``KIND.KEY``, to which the ``event`` of a rule is compared."""
        return f"{self.kind}.{self.key}" if self.key else str(self.kind)


class Recipient(Struct, frozen=True, kw_only=True):
    """A person to notify: the user of an event, or an entry under ``people``."""

    user: str = ""  # the application's id of the user, or the name under people
    addresses: Mapping[str, tuple[str, ...]] = {}  # by kind: email, phone, ...
    locale: str = ""  # from the event; "" if it has none
    zone: ZoneInfo | None = None  # None if unknown


class Inline(Struct, frozen=True, kw_only=True):
    """A picture inside a mail, which the HTML shows with ``cid:<name>``."""

    name: str
    media_type: str  # for example image/png
    data: bytes


class Message(Struct, frozen=True, kw_only=True):
    """Rendered content with a ``text``, an ``html`` or both."""

    title: str = ""  # a mail's subject
    text: str = ""
    html: str = ""
    markdown: bool = False  # True if text is Markdown
    inline: tuple[Inline, ...] = ()


class RedriveId(Struct, frozen=True, kw_only=True):
    """The identity of a redrive: a dead letter that was redriven, and when."""

    dead_letter: str  # its unique id
    at: int  # when an operator redrove it, microseconds since the epoch


class FallbackFrom(Struct, frozen=True, kw_only=True):
    """The failed deliveries that a fallback replaces."""

    channels: tuple[str, ...]  # of the failed deliveries, in order
    at: int  # when the fallback started, microseconds since the epoch


class Delivery(Struct, frozen=True, kw_only=True):
    """A rendered message with its addresses, ready for a channel.

    It is self-contained: rules, templates and channels may change while it waits.
    """

    id: str  # 32 hex digits, derived from reqid, rule, channel and recipient
    kind: Kind
    key: str
    reqid: str
    rule: str
    revision: str  # of the rulebook that planned it
    channel: str
    user: str  # "" if it is for no particular user
    to: tuple[str, ...]  # addresses; of a mail the first is To, the rest Cc; empty if the channel needs none
    locale: str  # of the message
    severity: Severity
    message: Message
    payload: Mapping[str, Any] | None = None  # for channels that send the event itself to a program
    secrets: tuple[str, ...] = ()  # values to mask wherever the delivery is shown
    created: int = 0  # when the broker stored the event, microseconds since the epoch
    hops: int = 0  # those of the event
    not_before: int = 0  # when it may be sent, microseconds since the epoch; 0: at once
    redrive: RedriveId | None = None  # None if it was never a dead letter
    fell_back_from: FallbackFrom | None = None  # None if it is not a fallback
    fallbacks: tuple[Delivery, ...] = ()  # if it fails, the first one is sent, with the rest as its fallbacks
    fallback_after: float = 0.0  # seconds in which it has to be sent, else it has failed; 0.0: no limit

    @property
    def deadline_start(self) -> int:
        """The start of its deadline, microseconds since the epoch."""
        fell_back = self.fell_back_from.at if self.fell_back_from and not self.redrive else 0
        return max(fell_back, self.awaited_since)

    @property
    def awaited_since(self) -> int:
        """When it was first due, or when it was redriven, microseconds since the epoch."""
        return self.redrive.at if self.redrive else max(self.created, self.not_before)

    @property
    def run_id(self) -> str:
        """Its id, different after each redrive: attempts are then counted from 1 again."""
        return f"{self.id}.{self.redrive.at}" if self.redrive else self.id


class Receipt(Struct, frozen=True, kw_only=True):
    """The record of one delivery attempt."""

    delivery: Delivery
    attempt: int  # from 1
    outcome: Outcome
    detail: str  # the provider's answer, secrets masked
    at: int  # microseconds since the epoch
    final: bool  # True if there are no more attempts
    rest: str = ""  # the id of the delivery to the addresses that were not served
    fallback: Delivery | None = None  # the fallback that is sent instead


class Suppressed(Struct, frozen=True, kw_only=True):
    """A delivery that a rule asks for and MSS does not make, with the reason."""

    rule: str
    channel: str
    # shadow, hops, condition, preference, no_address, bad_address, dedupe, throttle, budget, removed,
    # outside_active_time, muted, quiet_hours; in a fallback chain also not_rendered, too_large
    reason: str
    detail: str = ""


class Held(Struct, frozen=True, kw_only=True):
    """A message that waits: a rendered delivery for its time, or an event for its digest."""

    rule: str
    channel: str
    reason: str  # muted, quiet_hours; throttle, digest, budget
    until: int  # microseconds since the epoch
    delivery: str = ""  # the id of the rendered delivery
    digest: str = ""  # or the reqid of the digest that will contain the event


class Failure(Struct, frozen=True, kw_only=True):
    """A delivery whose template could not be rendered for the event."""

    rule: str
    channel: str
    detail: str
    delivery: str = ""  # the id that it would have
