"""What is written down of each event and each attempt, and of what was given up.

History lies on ``mss.history.<kind>.<reqid>``, dead letters on ``mss.dead.<kind>.<reason>``: the
kind is in the subject, so that who may read notices cannot read audits. Neither holds the words of
a message, and sensitive values are masked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from .broker import Outgoing, Topology
from .catalogue import mask
from .codec import encode
from .model import Delivery, Kind, Outcome, Receipt
from .plan import Plan
from .subjects import token

_LONGEST_DETAIL = 500  # characters


def planned(topology: Topology, plan: Plan, *, sequence: int, at: int) -> Outgoing:
    """The first entry of an event: which rules, which deliveries, what was suppressed and why."""
    event = plan.event
    entry = {
        "type": "planned",
        "at": at,
        "event": {
            "kind": event.kind,
            "key": event.key,
            "reqid": event.reqid,
            "sent": event.sent,
            "received": event.received,
        },
        "revision": plan.revision,
        "rules": [match.rule.id for match in plan.matches],
        "deliveries": [
            {"id": d.id, "rule": d.rule, "channel": d.channel, "user": d.user, "to": d.to, "locale": d.locale}
            for d in plan.deliveries
        ],
        "suppressed": plan.suppressed,
        "failures": plan.failures,
    }
    return Outgoing(
        subject=topology.history_subject(event.kind, token(event.reqid)),
        payload=encode(entry),
        id=f"planned.{event.kind}.{sequence}",
    )


def received(topology: Topology, receipt: Receipt, *, id_: str) -> Outgoing:
    """One attempt at a delivery. ``id_`` tells it from every other."""
    delivery = receipt.delivery
    entry = {
        "type": "receipt",
        "at": receipt.at,
        "delivery": delivery.id,
        "revision": delivery.revision,
        "rule": delivery.rule,
        "channel": delivery.channel,
        "to": delivery.to,
        "attempt": receipt.attempt,
        "outcome": receipt.outcome,
        "detail": mask(receipt.detail, delivery.secrets),
        "final": receipt.final,
    }
    return Outgoing(
        subject=topology.history_subject(delivery.kind, token(delivery.reqid)),
        payload=encode(entry),
        id=f"receipt.{id_}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What the history says of a delivery that may have been handed out before."""

    attempt: int = 0  # the last one that has a receipt
    sent: bool = False
    not_sent: frozenset[int] = frozenset()  # attempts that definitely did not go out


def past_of(delivery: Delivery, entries: Iterable[bytes]) -> Past:
    """Read from all that lies on the delivery's history subject, oldest first."""
    attempt, sent, not_sent = 0, False, set()
    for data in entries:
        try:
            entry = _receipts.decode(data)
        except msgspec.MsgspecError:
            continue
        if entry.delivery == delivery.id:
            attempt, sent = entry.attempt, sent or entry.outcome == Outcome.SENT
            if entry.outcome == Outcome.DEFERRED:
                not_sent.add(attempt)
    return Past(attempt=attempt, sent=sent, not_sent=frozenset(not_sent))


class _ReceiptEntry(msgspec.Struct):
    """The part of a receipt's entry that tells whether to send again."""

    delivery: str = ""
    attempt: int = 0
    outcome: str = ""


_receipts = msgspec.json.Decoder(_ReceiptEntry)


def dead(
    topology: Topology,
    *,
    kind: Kind,
    reason: str,
    detail: str,
    id: str,  # noqa: A002 -- the message id
    payload: bytes,
    about: Mapping[str, Any],
    room: int,
) -> Outgoing:
    """A dead letter: what was given up, as it was, with the reason in the headers.

    ``room`` is the broker's max_payload in bytes; a payload that does not fit beside its headers is
    cut and says so.
    """
    headers = {"Mss-Reason": reason, "Mss-Detail": _one_line(detail)}
    headers |= {f"Mss-{name.title()}": _one_line(str(value)) for name, value in about.items()}
    spare = max(0, room - 4096)
    if len(payload) > spare:
        headers["Mss-Truncated"] = str(len(payload))
        payload = payload[:spare]
    return Outgoing(
        subject=topology.dead_subject(kind, reason), payload=payload, id=f"dead.{id}", headers=headers
    )


def _one_line(text: str) -> str:
    """A header's value: ASCII, without line breaks, of bounded length."""
    return " ".join(text.split())[:_LONGEST_DETAIL].encode("ascii", "backslashreplace").decode()
