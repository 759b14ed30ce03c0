"""The entries of the history, as they are read back."""

from __future__ import annotations

import msgspec

from .model import Held, Outcome, Revival, Suppressed


class EventEntry(msgspec.Struct):
    kind: str
    key: str
    reqid: str
    sent: int
    received: int


class FallBack(msgspec.Struct, frozen=True):
    id: str
    channel: str
    to: tuple[str, ...] = ()
    locale: str = ""


class _Planned(msgspec.Struct):
    id: str
    rule: str
    channel: str
    user: str = ""
    to: tuple[str, ...] = ()
    locale: str = ""
    instead: tuple[FallBack, ...] = ()


class Unwritten(msgspec.Struct, frozen=True):
    rule: str
    channel: str
    detail: str = ""
    delivery: str = ""


class Plan(msgspec.Struct, tag_field="type", tag="planned"):
    """An entry: what an event leads to."""

    at: int
    event: EventEntry
    revision: str
    rules: tuple[str, ...] = ()
    deliveries: tuple[_Planned, ...] = ()
    suppressed: tuple[Suppressed, ...] = ()
    held: tuple[Held, ...] = ()
    failures: tuple[Unwritten, ...] = ()
    shadow: tuple[str, ...] = ()
    stopped: bool = False
    revival: Revival | None = None


class Receipt(msgspec.Struct, tag_field="type", tag="receipt"):
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
    instead: FallBack | None = None  # that goes on over the next channel
    revival: Revival | None = None


class _Decided(msgspec.Struct):
    """What an operator did with a dead letter."""

    at: int
    letter: str
    delivery: str = ""
    rule: str = ""
    channel: str = ""


class Revived(_Decided, tag_field="type", tag="redriven"):
    """An entry: an operator brought a dead letter back."""


class Dropped(_Decided, tag_field="type", tag="dropped"):
    """An entry: an operator threw a dead letter away."""


class Claimed(msgspec.Struct, tag_field="type", tag="claimed"):
    """An entry: a replica asks the gates anew about an event. It tells nothing of what becomes of it."""

    at: int
    of: str  # the event


Entry = Plan | Receipt | Revived | Dropped
_entries = msgspec.json.Decoder(Entry)
_claims = msgspec.json.Decoder(Claimed)


def read_entry(data: bytes) -> Entry | None:
    """The entry in ``data``; None where it is none that is known here."""
    try:
        entry: Entry = _entries.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return entry


def read_claim(data: bytes) -> Claimed | None:
    """The claim in ``data``; None where it is something else."""
    try:
        return _claims.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
