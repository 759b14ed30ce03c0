"""The entries of the history, as they are read back."""

from __future__ import annotations

import msgspec

from .model import Held, Outcome, RedriveId, Suppressed


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


class ReceiptRecord(msgspec.Struct, tag_field="type", tag="receipt"):
    """An entry: how one attempt ended."""

    at: int
    delivery: str
    rule: str
    channel: str
    attempt: int
    outcome: Outcome
    final: bool
    revision: str = ""
    to: tuple[str, ...] = ()
    detail: str = ""
    rest: str = ""  # the delivery that goes on for the addresses that were not served
    fallback: FallbackRecord | None = None  # that goes on over the next channel
    redrive: RedriveId | None = None


class _DecisionRecord(msgspec.Struct):
    """What an operator did with a dead letter."""

    at: int
    letter: str
    delivery: str = ""
    rule: str = ""
    channel: str = ""


class RedriveRecord(_DecisionRecord, tag_field="type", tag="redriven"):
    """An entry: an operator brought a dead letter back."""


class DropRecord(_DecisionRecord, tag_field="type", tag="dropped"):
    """An entry: an operator threw a dead letter away."""


class ClaimRecord(msgspec.Struct, tag_field="type", tag="claimed"):
    """An entry: a replica asks the gates anew about an event. It tells nothing of what becomes of it."""

    at: int
    of: str  # the event


HistoryEntry = PlanRecord | ReceiptRecord | RedriveRecord | DropRecord
_entries = msgspec.json.Decoder(HistoryEntry)
_claims = msgspec.json.Decoder(ClaimRecord)


def read_entry(data: bytes) -> HistoryEntry | None:
    """The entry in ``data``; None where it is none that is known here."""
    try:
        entry: HistoryEntry = _entries.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return entry


def read_claim(data: bytes) -> ClaimRecord | None:
    """The claim in ``data``; None where it is something else."""
    try:
        return _claims.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
