"""The entries of the history: written for each event and each attempt, and read back.

Entries are on ``mss.history.<kind>.<reqid>``, dead letters on ``mss.dead.<kind>.<reason>``. The subject
contains the kind, so a user who may read notices cannot read audits. Entries contain no message text, and
sensitive values are masked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ..broker import OutgoingMessage, Topology
from ..broker.codec import encode
from ..model.masking import mask
from ..model.messages import Delivery, Event, Held, Kind, Outcome, Receipt, RedriveId
from ..model.subjects import token
from ..planning.draft import DigestRef
from ..planning.planner import Plan
from ..planning.records import FallbackRecord, PlanRecord
from ..rules.rulebook import Mode
from .dead_letters import DeadLetter


class _EventEntry(msgspec.Struct):
    kind: Kind
    key: str
    reqid: str
    sent: int
    received: int


class _FallBackEntry(msgspec.Struct):
    id: str
    channel: str
    to: tuple[str, ...]
    locale: str


class _DeliveryEntry(msgspec.Struct):
    id: str
    rule: str
    channel: str
    user: str
    to: tuple[str, ...]
    locale: str
    fallbacks: list[_FallBackEntry] | UnsetType


class _SuppressedEntry(msgspec.Struct):
    rule: str
    channel: str
    reason: str
    detail: str


class _FailureEntry(msgspec.Struct):
    rule: str
    channel: str
    delivery: str
    detail: str


class _PlannedEntry(msgspec.Struct, kw_only=True, tag="planned"):
    """The first entry of an event. Structs are encoded in half the time of mappings."""

    at: int
    event: _EventEntry
    revision: str
    rules: list[str]
    deliveries: list[_DeliveryEntry]
    suppressed: list[_SuppressedEntry]
    held: tuple[Held, ...]
    failures: list[_FailureEntry]
    shadow: list[str] | UnsetType
    stopped: bool | UnsetType
    redrive: RedriveId | UnsetType
    digest: dict[str, Any] | UnsetType


class _ReceiptEntry(msgspec.Struct, kw_only=True, tag="receipt"):
    """One attempt at a delivery."""

    at: int
    delivery: str
    revision: str
    rule: str
    channel: str
    to: tuple[str, ...]
    attempt: int
    outcome: Outcome
    detail: str
    final: bool
    redrive: RedriveId | UnsetType
    rest: str | UnsetType
    fallback: _FallBackEntry | UnsetType


def plan_entry(topology: Topology, plan: Plan, *, at: int, id_: str) -> OutgoingMessage:
    """The first entry of an event: which rules, which deliveries, what was suppressed and why.

    ``id_`` tells it from every other, and not from itself when it is planned again.

    Of the rules only those that matched: there may be 100,000 others.
    """
    event = plan.event
    shadow = [match.rule.id for match in plan.matches if match.rule.mode is Mode.SHADOW]
    last = plan.matches[-1].rule if plan.matches else None
    entry = _PlannedEntry(
        at=at,
        event=_EventEntry(event.kind, event.key, event.reqid, event.sent, event.received),
        revision=plan.revision,
        rules=[match.rule.id for match in plan.matches],
        deliveries=[
            _DeliveryEntry(
                d.id,
                d.rule,
                d.channel,
                d.user,
                d.to,
                d.locale,
                [_fall_back(each) for each in d.fallbacks] if d.fallbacks else UNSET,
            )
            for d in plan.deliveries
        ],
        suppressed=[
            _SuppressedEntry(s.rule, s.channel, s.reason, mask(s.detail, plan.secrets))
            for s in plan.suppressed
        ],
        held=plan.held,
        failures=[
            _FailureEntry(f.rule, f.channel, f.delivery, mask(f.detail, plan.secrets)) for f in plan.failures
        ],
        shadow=shadow or UNSET,
        # By the last of the rules; those after it were not asked.
        stopped=True if last is not None and last.stop and last.mode is not Mode.SHADOW else UNSET,
        redrive=plan.redrive or UNSET,
        digest=_digest(plan.digest) if plan.digest else UNSET,
    )
    return OutgoingMessage(
        subject=topology.history_subject(event.kind, token(event.reqid)),
        payload=encode(entry),
        id=f"planned.{id_}",
    )


def claim_entry(topology: Topology, event: Event, *, of: str, at: int, id_: str) -> OutgoingMessage:
    """That a replica asks the gates anew about the event that is called ``of``.

    ``id_`` is that of the plan which whoever had the event before may still write down: the stream takes
    only the first of the two.
    """
    return OutgoingMessage(
        subject=topology.history_subject(event.kind, token(event.reqid)),
        payload=encode({"type": "claimed", "at": at, "of": of}),
        id=f"planned.{id_}",
    )


def _digest(digest: DigestRef) -> dict[str, Any]:
    """Of what a digest tells: the events whose histories say that they wait for it."""
    events = [{"key": event.key, "reqid": event.reqid} for event in digest.events]
    return {"events": events, "more": digest.more}


def receipt_entry(topology: Topology, receipt: Receipt, *, id_: str) -> OutgoingMessage:
    """One attempt at a delivery. ``id_`` tells it from every other."""
    delivery = receipt.delivery
    entry = _ReceiptEntry(
        at=receipt.at,
        delivery=delivery.id,
        revision=delivery.revision,
        rule=delivery.rule,
        channel=delivery.channel,
        to=delivery.to,
        attempt=receipt.attempt,
        outcome=receipt.outcome,
        detail=mask(receipt.detail, delivery.secrets),
        final=receipt.final,
        redrive=delivery.redrive or UNSET,
        rest=receipt.rest or UNSET,
        fallback=_fall_back(receipt.fallback) if receipt.fallback else UNSET,
    )
    return OutgoingMessage(
        subject=topology.history_subject(delivery.kind, token(delivery.reqid)),
        payload=encode(entry),
        id=f"receipt.{id_}",
    )


def _fall_back(delivery: Delivery) -> _FallBackEntry:
    return _FallBackEntry(delivery.id, delivery.channel, delivery.to, delivery.locale)


def redrive_entry(topology: Topology, letter: DeadLetter, *, at: int) -> OutgoingMessage | None:
    """That an operator has brought a letter back; None where its reqid is not known."""
    return _decision_entry(topology, "redriven", letter, at)


def drop_entry(topology: Topology, letter: DeadLetter, *, at: int) -> OutgoingMessage | None:
    """That an operator has thrown a letter away; None where its reqid is not known."""
    return _decision_entry(topology, "dropped", letter, at)


def _decision_entry(topology: Topology, what: str, letter: DeadLetter, at: int) -> OutgoingMessage | None:
    reqid = letter.reqid
    if not reqid:
        return None
    entry = {
        "type": what,
        "at": at,
        "letter": letter.id,
        "delivery": letter.delivery,
        "rule": letter.rule,
        "channel": letter.channel,
    }
    return OutgoingMessage(
        subject=topology.history_subject(letter.kind, token(reqid)),
        payload=encode(entry),
        id=f"{what}.{letter.id}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryHistory:
    """What the history says of a delivery that may have been handed out before."""

    attempt: int = 0  # the last one that has a receipt
    sent: bool = False
    not_sent: frozenset[int] = frozenset()  # attempts that definitely did not go out
    is_unsure: bool = False  # an attempt may have gone out
    fell_back_at: int = 0  # when its fall-back went on, microseconds since the epoch; 0: it did not


def delivery_history(delivery: Delivery, entries: Iterable[bytes]) -> DeliveryHistory:
    """Read from all that lies on the delivery's history subject, oldest first."""
    attempt, sent, not_sent, is_unsure, taken_over = 0, False, set(), False, 0
    for data in entries:
        try:
            entry = _receipts.decode(data)
        except msgspec.MsgspecError:
            continue
        if entry.delivery != delivery.id:
            continue
        sent = sent or entry.outcome == Outcome.SENT
        if entry.redrive == delivery.redrive:  # attempts are counted anew after a return
            attempt = entry.attempt
            is_unsure = is_unsure or entry.outcome == Outcome.UNKNOWN
            taken_over = entry.at if entry.fallback else taken_over
            if entry.outcome == Outcome.DEFERRED:
                not_sent.add(attempt)
    return DeliveryHistory(
        attempt=attempt,
        sent=sent,
        not_sent=frozenset(not_sent),
        is_unsure=is_unsure,
        fell_back_at=taken_over,
    )


class _ReceiptSummary(msgspec.Struct):
    """The part of a receipt's entry that tells whether to send again."""

    delivery: str = ""
    attempt: int = 0
    outcome: str = ""
    at: int = 0
    fallback: dict[str, Any] | None = None
    redrive: RedriveId | None = None


_receipts = msgspec.json.Decoder(_ReceiptSummary)


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
