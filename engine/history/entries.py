"""The entries of the history: one for each plan, attempt, redrive, drop and claim. Written and read here.

Entries are on ``mss.history.<kind>.<reqid>``. The subject contains the kind, so a user who may read notices
cannot read audits. Entries contain no message text, and secrets are masked. The structs that are written are
the structs that are read; an optional field that has its default is not written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from msgspec import Struct, structs

from ..broker import OutgoingMessage, Topology
from ..broker.codec import encode
from ..model.masking import mask
from ..model.messages import Delivery, Event, Failure, Kind, Outcome, Receipt, RedriveId, Suppressed
from ..model.subjects import token
from ..planning.planner import Plan
from ..planning.records import (
    DeliveryRecord,
    DigestedEvent,
    DigestRecord,
    EventRecord,
    FallbackRecord,
    PlanRecord,
)
from ..rules.rulebook import Mode
from .dead_letters import DeadLetter


class ReceiptRecord(Struct, frozen=True, kw_only=True, tag_field="type", tag="receipt", omit_defaults=True):
    """The result of one attempt at a delivery."""

    at: int  # microseconds since the epoch
    delivery: str
    revision: str
    rule: str
    channel: str
    to: tuple[str, ...]
    attempt: int  # from 1
    outcome: Outcome
    detail: str
    final: bool  # there will be no other attempt
    redrive: RedriveId | None = None
    rest: str = ""  # id of the delivery to the addresses that were not served
    fallback: FallbackRecord | None = None  # the fallback that was sent instead


class _DecisionRecord(Struct, frozen=True, kw_only=True, tag_field="type"):
    """The decision of an operator on a dead letter."""

    at: int  # microseconds since the epoch
    dead_letter: str  # its unique id
    delivery: str
    rule: str
    channel: str


class RedriveRecord(_DecisionRecord, frozen=True, kw_only=True, tag="redriven"):
    """The redrive of a dead letter."""


class DropRecord(_DecisionRecord, frozen=True, kw_only=True, tag="dropped"):
    """The removal of a dead letter."""


class ClaimRecord(Struct, frozen=True, kw_only=True, tag_field="type", tag="claimed"):
    """The claim of a replica that plans an event again; see `plan_store`."""

    at: int  # microseconds since the epoch
    of: str  # run id of the event


HistoryEntry = PlanRecord | ReceiptRecord | RedriveRecord | DropRecord | ClaimRecord
_entries = msgspec.json.Decoder(HistoryEntry)
_Part = TypeVar("_Part", Suppressed, Failure)


def read_entry(data: bytes) -> HistoryEntry | None:
    """Decode one entry. Returns None for data that is no entry of this version."""
    try:
        entry: HistoryEntry = _entries.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return entry


def plan_entry(topology: Topology, plan: Plan, *, at: int, id_: str) -> OutgoingMessage:
    """Return the entry of a plan, with the rules that matched.

    ``id_`` is the same each time that the same message is planned.
    """
    event, secrets = plan.event, plan.secrets
    last = plan.matches[-1].rule if plan.matches else None
    record = PlanRecord(
        at=at,
        event=EventRecord(event.kind, event.key, event.reqid, event.sent, event.received),
        revision=plan.revision,
        rules=tuple([match.rule.id for match in plan.matches]),
        deliveries=tuple(
            [
                DeliveryRecord(
                    each.id,
                    each.rule,
                    each.channel,
                    each.user,
                    each.to,
                    each.locale,
                    tuple(map(_fallback, each.fallbacks)) if each.fallbacks else (),
                )
                for each in plan.deliveries
            ]
        ),
        suppressed=tuple([_masked(each, secrets) for each in plan.suppressed])
        if secrets
        else plan.suppressed,
        held=plan.held,
        failures=tuple([_masked(each, secrets) for each in plan.failures]) if secrets else plan.failures,
        shadow=tuple([match.rule.id for match in plan.matches if match.rule.mode is Mode.SHADOW]),
        stopped=last is not None and last.stop and last.mode is not Mode.SHADOW,
        redrive=plan.redrive,
        digest=DigestRecord(
            tuple([DigestedEvent(each.key, each.reqid) for each in plan.digest.events]), plan.digest.more
        )
        if plan.digest
        else None,
    )
    return _message(topology, event.kind, event.reqid, record, f"planned.{id_}")


def claim_entry(topology: Topology, event: Event, *, of: str, at: int, id_: str) -> OutgoingMessage:
    """Return the claim of a replica that plans the event ``of`` again.

    It has the message id of the plan ``id_``, so the stream stores only the first of the two.
    """
    return _message(topology, event.kind, event.reqid, ClaimRecord(at=at, of=of), f"planned.{id_}")


def receipt_entry(topology: Topology, receipt: Receipt, *, id_: str) -> OutgoingMessage:
    """Return the entry of one attempt at a delivery. ``id_`` is unique."""
    delivery = receipt.delivery
    record = ReceiptRecord(
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
        redrive=delivery.redrive,
        rest=receipt.rest,
        fallback=_fallback(receipt.fallback) if receipt.fallback else None,
    )
    return _message(topology, delivery.kind, delivery.reqid, record, f"receipt.{id_}")


def decision_entry(
    topology: Topology, decision: type[RedriveRecord | DropRecord], dead_letter: DeadLetter, *, at: int
) -> OutgoingMessage | None:
    """Return the entry of a redrive or a drop; None if the reqid of the dead letter is not known."""
    if not dead_letter.reqid:
        return None
    record = decision(
        at=at,
        dead_letter=dead_letter.id,
        delivery=dead_letter.delivery,
        rule=dead_letter.rule,
        channel=dead_letter.channel,
    )
    id_ = f"{decision.__struct_config__.tag}.{dead_letter.id}"
    return _message(topology, dead_letter.kind, dead_letter.reqid, record, id_)


def _message(topology: Topology, kind: Kind, reqid: str, record: HistoryEntry, id_: str) -> OutgoingMessage:
    subject = topology.history_subject(kind, token(reqid))
    return OutgoingMessage(subject=subject, payload=encode(record), id=id_)


def _fallback(delivery: Delivery) -> FallbackRecord:
    return FallbackRecord(delivery.id, delivery.channel, delivery.to, delivery.locale)


def _masked(part: _Part, secrets: tuple[str, ...]) -> _Part:
    return structs.replace(part, detail=mask(part.detail, secrets))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryHistory:
    """The receipts of a delivery since its last redrive."""

    attempt: int = 0  # the last one that has a receipt; 0: none
    sent: bool = False  # also before its last redrive
    not_sent: frozenset[int] = frozenset()  # attempts that definitely sent nothing
    is_unsure: bool = False  # an attempt may have sent it
    fell_back_at: int = 0  # when its fallback was sent, microseconds since the epoch; 0: it was not


def delivery_history(delivery: Delivery, entries: Iterable[bytes]) -> DeliveryHistory:
    """Summarise the receipts of ``delivery``. ``entries`` are all those of its reqid, oldest first."""
    own = [
        entry
        for entry in map(read_entry, entries)
        if isinstance(entry, ReceiptRecord) and entry.delivery == delivery.id
    ]
    # Attempts are counted from 1 again after a redrive.
    current = [receipt for receipt in own if receipt.redrive == delivery.redrive]
    return DeliveryHistory(
        attempt=current[-1].attempt if current else 0,
        sent=any(receipt.outcome is Outcome.SENT for receipt in own),
        not_sent=frozenset(each.attempt for each in current if each.outcome is Outcome.DEFERRED),
        is_unsure=any(receipt.outcome is Outcome.UNKNOWN for receipt in current),
        fell_back_at=max((receipt.at for receipt in current if receipt.fallback), default=0),
    )
