"""A trace is folded from entries in whatever order they come."""

from __future__ import annotations

import random
from typing import Any

import pytest
from support.policy_builders import RECEIVED

from engine.broker import Topology
from engine.broker.codec import encode
from engine.history.entries import HistoryEntry, RedriveRecord, plan_entry, read_entry, receipt_entry
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


def delivery(name: str = "d1", life: int = 0, **more: Any) -> Delivery:
    values: dict[str, Any] = {
        "id": name, "kind": Kind.NOTICE, "key": "x", "reqid": "r1", "rule": "r", "revision": "rev",
        "channel": "email", "user": "u", "to": (f"{name}@x.test",), "locale": "en",
        "severity": Severity.NONE, "message": Message(), "secrets": ("hush",),
        "redrive": RedriveId(letter="1-1", at=life) if life else None,
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


def revived(name: str, at: int) -> HistoryEntry:
    return entry(encode(RedriveRecord(at=at, letter="1-1", delivery=name, rule="r", channel="email")))


def one(*entries: HistoryEntry) -> DeliveryTrace:
    (story,) = build_traces(Kind.NOTICE, entries)
    (found,) = story.deliveries
    return found


D = delivery()
BACK = delivery(life=RECEIVED + 100)


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
        ([receipt(D, 1, REFUSED, final=True), revived("d1", RECEIVED + 100)], "waiting", False, False),
        ([receipt(D, 1, REFUSED, final=True), receipt(BACK, 1, DEFERRED)], "deferred", False, False),
        ([receipt(D, 1, REFUSED, final=True), revived("d1", RECEIVED + 100), receipt(BACK, 1, SENT, final=True)],
         "sent", True, False),
        ([receipt(D, 1, UNKNOWN, final=True), receipt(BACK, 1, SENT, final=True)], "sent", True, True),
    ],
)  # fmt: skip
def test_status(entries: list[HistoryEntry], status: str, final: bool, duplicated: bool) -> None:
    """However the entries are shuffled, as long as the attempts of one life are in order."""
    lives = [
        [e for e in entries if getattr(e, "redrive", None) is None],
        [e for e in entries if getattr(e, "redrive", None)],
    ]
    for order in ([plan_of(D), *entries], [*entries, plan_of(D)], [*lives[1], plan_of(D), *lives[0]]):
        found = one(*order)
        assert (found.status, found.is_final, found.is_duplicated) == (status, final, duplicated)
        assert [a.outcome for a in found.attempts] == [e.outcome for e in entries if hasattr(e, "outcome")]


def test_an_entry_that_comes_twice_counts_once() -> None:
    assert one(plan_of(D), *[receipt(D, 1, SENT, final=True)] * 2).times_sent == 1


def test_a_chain_shows_where_it_went_on_and_not_what_was_not_needed() -> None:
    whole = link_fallbacks([D, delivery("d2", channel="sms"), delivery("d3", channel="fax")], 900.0)
    second = next_fallback(whole, at=RECEIVED)
    third = next_fallback(second, at=RECEIVED)
    first_end = receipt(whole, 2, DEFERRED, final=True, fallback=second)
    (story,) = build_traces(Kind.NOTICE, [plan_of(whole)])
    assert [(d.id, d.status) for d in story.deliveries] == [("d1", "waiting")]
    entries = [plan_of(whole), receipt(whole, 1, DEFERRED), first_end]
    for order in (entries, [first_end, plan_of(whole)]):
        (story,) = build_traces(Kind.NOTICE, order)
        first, after = story.deliveries
        assert (first.status, first.is_final, first.is_dead_lettered) == ("deferred", True, False)
        assert first.fallback is not None and first.fallback.id == after.id == second.id
        assert (after.channel, after.to, after.status) == ("sms", ("d2@x.test",), "waiting")
        assert not story.is_final
    ends = [receipt(second, 1, REFUSED, final=True, fallback=third), receipt(third, 1, SENT, final=True)]
    for order in ([*entries, *ends], [*ends, *entries], ends):
        (story,) = build_traces(Kind.NOTICE, order)
        assert {d.channel: d.status for d in story.deliveries}["fax"] == "sent"
        assert story.is_final


def test_events_are_told_apart_and_arrivals_put_together() -> None:
    other = Event(kind=Kind.NOTICE, key="y", reqid="r1", payload={}, sent=1, received=2)
    stories = build_traces(Kind.NOTICE, [plan_of(D), plan_of(D), plan_of(delivery("d2"), event=other)])
    assert [(s.name, len(s.plans), [d.id for d in s.deliveries]) for s in stories] == [
        ("notice.x", 2, ["d1"]),
        ("notice.y", 1, ["d2"]),
    ]


def test_the_rest_of_a_delivery_belongs_to_its_event() -> None:
    rest = delivery("rest")
    split = receipt(D, 1, SENT, final=True, rest="rest")
    (story,) = build_traces(Kind.NOTICE, [plan_of(D), split])
    assert [(d.id, d.status) for d in story.deliveries] == [("d1", "sent"), ("rest", "waiting")]
    assert not story.is_final
    (story,) = build_traces(Kind.NOTICE, [plan_of(D), split, receipt(rest, 1, DEFERRED)])
    assert [(d.id, d.status, d.to) for d in story.deliveries] == [
        ("d1", "sent", ("d1@x.test",)),
        ("rest", "deferred", ("rest@x.test",)),
    ]
    assert not story.is_final


def test_without_its_plan_an_attempt_is_still_shown() -> None:
    (story,) = build_traces(Kind.NOTICE, [receipt(D, 1, SENT, final=True)])
    assert (story.name, story.plans, story.deliveries[0].status) == ("notice", (), "sent")


def test_what_was_suppressed_and_not_written_is_there_once_and_without_secrets() -> None:
    suppressed = Suppressed(rule="r", channel="sms", reason="bad_address", detail="hush, no number")
    failures = (
        Failure(rule="r", channel="email", detail="hush fails", delivery="d1"),
        Failure(rule="r", channel="sms", detail="x", delivery="d2"),
    )
    first = plan_of(suppressed=(suppressed,), failures=failures)
    (story,) = build_traces(Kind.NOTICE, [first, first])
    assert [(s.reason, s.detail) for s in story.suppressed] == [("bad_address", "***, no number")]
    assert [(f.delivery, f.detail) for f in story.failures] == [("d1", "*** fails"), ("d2", "x")]
    (story,) = build_traces(Kind.NOTICE, [first, plan_of(D, redrive=RedriveId(letter="1-1", at=1))])
    assert [f.delivery for f in story.failures] == ["d2"]  # the other one is written by now


def test_an_unknown_entry_is_passed_over() -> None:
    assert read_entry(b'{"type":"of-tomorrow","at":1}') is None
    assert read_entry(b"\xff{") is None
    assert read_entry(b"{}") is None


def test_many_entries_in_any_order() -> None:
    deliveries = [delivery(f"d{number}") for number in range(50)]
    entries = [plan_of(*deliveries), *(receipt(d, 1, SENT, final=True) for d in deliveries)]
    random.Random(1).shuffle(entries)
    (story,) = build_traces(Kind.NOTICE, entries)
    assert isinstance(story, EventTrace) and story.is_final
    assert {d.id for d in story.deliveries} == {d.id for d in deliveries}
