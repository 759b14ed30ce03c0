"""A trace is built from entries in any order."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from support.policy_builders import RECEIVED

from engine.broker import Topology
from engine.broker.codec import encode
from engine.history.entries import (
    ClaimRecord,
    HistoryEntry,
    RedriveRecord,
    claim_entry,
    plan_entry,
    read_entry,
    receipt_entry,
)
from engine.history.trace import DeliveryTrace, EventTrace, build_traces
from engine.model.messages import (
    Delivery,
    Event,
    Failure,
    Kind,
    Message,
    Outcome,
    Receipt,
    RedriveId,
    Severity,
    Suppressed,
)
from engine.planning.draft import link_fallbacks, next_fallback
from engine.planning.planner import Plan

TOPOLOGY = Topology()
EVENT = Event(kind=Kind.NOTICE, key="x", reqid="r1", payload={}, sent=RECEIVED, received=RECEIVED)
SENT, REFUSED, DEFERRED, UNKNOWN = Outcome.SENT, Outcome.REFUSED, Outcome.DEFERRED, Outcome.UNKNOWN


def delivery(name: str = "d1", redriven_at: int = 0, **more: Any) -> Delivery:
    values: dict[str, Any] = {
        "id": name, "kind": Kind.NOTICE, "key": "x", "reqid": "r1", "rule": "r", "revision": "rev",
        "channel": "email", "user": "u", "to": (f"{name}@x.test",), "locale": "en",
        "severity": Severity.NONE, "message": Message(), "secrets": ("hush",),
        "redrive": RedriveId(dead_letter="1-1", at=redriven_at) if redriven_at else None,
    }  # fmt: skip
    return Delivery(**{**values, **more})


def entry(data: bytes) -> HistoryEntry:
    found = read_entry(data)
    assert found is not None, data
    return found


def plan_of(*deliveries: Delivery, event: Event = EVENT, **more: Any) -> HistoryEntry:
    made = Plan(event=event, revision="rev", deliveries=deliveries, secrets=("hush",), **more)
    return entry(plan_entry(TOPOLOGY, made, id_=str(1), at=RECEIVED).payload)


def receipt(of: Delivery, number: int, outcome: Outcome, **more: Any) -> HistoryEntry:
    values = {"final": False, **more}
    made = Receipt(delivery=of, attempt=number, outcome=outcome, detail="", at=RECEIVED + number, **values)
    return entry(receipt_entry(TOPOLOGY, made, id_="1").payload)


def redriven(name: str, at: int) -> HistoryEntry:
    return entry(encode(RedriveRecord(at=at, dead_letter="1-1", delivery=name, rule="r", channel="email")))


def one(*entries: HistoryEntry) -> DeliveryTrace:
    (trace,) = build_traces(Kind.NOTICE, entries)
    (found,) = trace.deliveries
    return found


D = delivery()
BACK = delivery(redriven_at=RECEIVED + 100)


@pytest.mark.parametrize(
    ("entries", "status", "final", "duplicated"),
    [
        ([], "waiting", False, False),
        ([receipt(D, 1, SENT, final=True)], "sent", True, False),
        ([receipt(D, 1, DEFERRED)], "deferred", False, False),
        ([receipt(D, 1, DEFERRED), receipt(D, 2, DEFERRED, final=True)], "dead", True, False),
        ([receipt(D, 1, REFUSED, final=True)], "refused", True, False),
        ([receipt(D, 1, UNKNOWN)], "unknown", False, False),
        ([receipt(D, 1, UNKNOWN, final=True)], "unknown", True, False),
        ([receipt(D, 1, UNKNOWN), receipt(D, 2, DEFERRED), receipt(D, 3, SENT, final=True)], "sent", True, True),
        ([receipt(D, 1, DEFERRED), receipt(D, 2, SENT, final=True)], "sent", True, False),
        ([receipt(D, 1, SENT, final=True), receipt(D, 2, SENT, final=True)], "sent", True, True),
        ([receipt(D, 1, REFUSED, final=True), redriven("d1", RECEIVED + 100)], "waiting", False, False),
        ([receipt(D, 1, REFUSED, final=True), receipt(BACK, 1, DEFERRED)], "deferred", False, False),
        ([receipt(D, 1, REFUSED, final=True), redriven("d1", RECEIVED + 100), receipt(BACK, 1, SENT, final=True)],
         "sent", True, False),
        ([receipt(D, 1, UNKNOWN, final=True), receipt(BACK, 1, SENT, final=True)], "sent", True, True),
    ],
)  # fmt: skip
def test_a_delivery_has_the_status_of_its_last_attempt(
    entries: list[HistoryEntry], status: str, final: bool, duplicated: bool
) -> None:
    """The order of entries does not matter if the attempts since each redrive are in order."""
    parts = [
        [e for e in entries if getattr(e, "redrive", None) is None],
        [e for e in entries if getattr(e, "redrive", None)],
    ]
    for order in ([plan_of(D), *entries], [*entries, plan_of(D)], [*parts[1], plan_of(D), *parts[0]]):
        found = one(*order)
        assert (found.status, found.is_final, found.is_duplicated) == (status, final, duplicated)
        assert [a.outcome for a in found.attempts] == [e.outcome for e in entries if hasattr(e, "outcome")]


def test_a_repeated_entry_counts_once() -> None:
    assert one(plan_of(D), *[receipt(D, 1, SENT, final=True)] * 2).times_sent == 1


def test_a_chain_shows_the_fallbacks_that_were_sent_and_no_others() -> None:
    whole = link_fallbacks([D, delivery("d2", channel="sms"), delivery("d3", channel="fax")], 900.0)
    second = next_fallback(whole, at=RECEIVED)
    third = next_fallback(second, at=RECEIVED)
    first_end = receipt(whole, 2, DEFERRED, final=True, fallback=second)
    (trace,) = build_traces(Kind.NOTICE, [plan_of(whole)])
    assert [(d.id, d.status) for d in trace.deliveries] == [("d1", "waiting")]
    entries = [plan_of(whole), receipt(whole, 1, DEFERRED), first_end]
    for order in (entries, [first_end, plan_of(whole)]):
        (trace,) = build_traces(Kind.NOTICE, order)
        first, after = trace.deliveries
        assert (first.status, first.is_final, first.is_dead_lettered) == ("deferred", True, False)
        assert first.fallback is not None and first.fallback.id == after.id == second.id
        assert (after.channel, after.to, after.status) == ("sms", ("d2@x.test",), "waiting")
        assert not trace.is_final
    ends = [receipt(second, 1, REFUSED, final=True, fallback=third), receipt(third, 1, SENT, final=True)]
    for order in ([*entries, *ends], [*ends, *entries], ends):
        (trace,) = build_traces(Kind.NOTICE, order)
        assert {d.channel: d.status for d in trace.deliveries}["fax"] == "sent"
        assert trace.is_final


def test_each_event_has_one_trace_with_all_its_plans() -> None:
    other = Event(kind=Kind.NOTICE, key="y", reqid="r1", payload={}, sent=1, received=2)
    traces = build_traces(Kind.NOTICE, [plan_of(D), plan_of(D), plan_of(delivery("d2"), event=other)])
    assert [(s.name, len(s.plans), [d.id for d in s.deliveries]) for s in traces] == [
        ("notice.x", 2, ["d1"]),
        ("notice.y", 1, ["d2"]),
    ]


def test_the_rest_of_a_delivery_belongs_to_its_event() -> None:
    rest = delivery("rest")
    split = receipt(D, 1, SENT, final=True, rest="rest")
    (trace,) = build_traces(Kind.NOTICE, [plan_of(D), split])
    assert [(d.id, d.status) for d in trace.deliveries] == [("d1", "sent"), ("rest", "waiting")]
    assert not trace.is_final
    (trace,) = build_traces(Kind.NOTICE, [plan_of(D), split, receipt(rest, 1, DEFERRED)])
    assert [(d.id, d.status, d.to) for d in trace.deliveries] == [
        ("d1", "sent", ("d1@x.test",)),
        ("rest", "deferred", ("rest@x.test",)),
    ]
    assert not trace.is_final


def test_an_attempt_is_shown_without_its_plan() -> None:
    (trace,) = build_traces(Kind.NOTICE, [receipt(D, 1, SENT, final=True)])
    assert (trace.name, trace.plans, trace.deliveries[0].status) == ("notice", (), "sent")


def test_suppressed_deliveries_and_failures_are_shown_once_with_secrets_masked() -> None:
    suppressed = Suppressed(rule="r", channel="sms", reason="bad_address", detail="hush, no number")
    failures = (
        Failure(rule="r", channel="email", detail="hush fails", delivery="d1"),
        Failure(rule="r", channel="sms", detail="x", delivery="d2"),
    )
    first = plan_of(suppressed=(suppressed,), failures=failures)
    (trace,) = build_traces(Kind.NOTICE, [first, first])
    assert [(s.reason, s.detail) for s in trace.suppressed] == [("bad_address", "***, no number")]
    assert [(f.delivery, f.detail) for f in trace.failures] == [("d1", "*** fails"), ("d2", "x")]
    (trace,) = build_traces(Kind.NOTICE, [first, plan_of(D, redrive=RedriveId(dead_letter="1-1", at=1))])
    assert [f.delivery for f in trace.failures] == ["d2"]  # the other one was rendered since then


def test_a_claim_is_read_and_does_not_change_a_trace() -> None:
    claim = entry(claim_entry(TOPOLOGY, EVENT, of="e", at=1, id_="e.0").payload)
    assert claim == ClaimRecord(at=1, of="e")
    assert build_traces(Kind.NOTICE, [claim, plan_of(D)]) == build_traces(Kind.NOTICE, [plan_of(D)])
    assert build_traces(Kind.NOTICE, [claim]) == ()


def test_an_optional_field_with_its_default_is_not_stored() -> None:
    made = Plan(event=EVENT, revision="rev", deliveries=(D,))
    stored = json.loads(plan_entry(TOPOLOGY, made, id_="1", at=1).payload)
    assert "fallbacks" not in stored["deliveries"][0] and not {"shadow", "digest", "redrive"} & stored.keys()
    assert {"rules", "deliveries", "suppressed", "held", "failures"} <= stored.keys()


def test_an_unknown_entry_is_ignored() -> None:
    assert read_entry(b'{"type":"of-tomorrow","at":1}') is None
    assert read_entry(b"\xff{") is None
    assert read_entry(b"{}") is None


def test_many_entries_may_come_in_any_order() -> None:
    deliveries = [delivery(f"d{number}") for number in range(50)]
    entries = [plan_of(*deliveries), *(receipt(d, 1, SENT, final=True) for d in deliveries)]
    random.Random(1).shuffle(entries)
    (trace,) = build_traces(Kind.NOTICE, entries)
    assert isinstance(trace, EventTrace) and trace.is_final
    assert {d.id for d in trace.deliveries} == {d.id for d in deliveries}
