"""Dedupe, throttle, digest, budget and preferences, on a virtual clock, one event after the other."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from msgspec import structs
from support.policy_builders import RECEIVED, event, policy

from engine.planning.draft import DigestTimer, Routing, route
from engine.planning.limits.counters import apply_throttle, consume_budget
from engine.planning.limits.digest import (
    Batch,
    DigestBuffer,
    NotDueYet,
    append,
    confirm,
    confirm_flush,
    remove,
    seal,
    take_due,
)
from engine.planning.limits.stages import apply_limits, route_due_digest, undo_buffering
from engine.planning.limits.state import event_fingerprint, run_in_memory
from engine.planning.planner import Plan, plan_steps, render_plan
from engine.planning.recipients import Choices, no_preferences, select_channels
from engine.planning.simulation import Simulator
from engine.policy.testing.runner import run_case
from engine.rules.rulebook import GLOBAL_BUDGET, Budget, Digest, Limits, Rule, Rulebook, Throttle

MINUTE = 60_000_000  # microseconds
TEMPLATES = {
    "templates/t/sms.txt": "{{ events | map(attribute='payload.ip') | join(' ') }}{% if more %} +{{ more }}{% endif %}"
}


def book(folder: Path, rule: str, **files: str) -> Rulebook:
    text = f"rules: [{{id: r, event: notice.login.abnormal, template: t, notify: [sms], {rule}}}]"
    return policy(folder, text, **{**TEMPLATES, **files}).require()


class Clock:
    """A server on a virtual clock, with the state of its limits in memory."""

    def __init__(self, rulebook: Rulebook) -> None:
        self.rulebook = rulebook
        self.values: dict[str, bytes] = {}
        self.timers: dict[str, int] = {}

    def plan(self, minute: float, reqid: str, **payload: Any) -> Plan:
        now = RECEIVED + int(minute * MINUTE)
        given_ = {"userid": "u1", "phone": "+8613800000000", "ip": reqid, **payload}
        planned = run_in_memory(plan_steps(self.rulebook, event(given_, reqid=reqid), now), self.values)
        for timer in planned.timers:
            self.timers[timer.key] = timer.at
        return planned

    def outcome(self, minute: float, reqid: str, **payload: Any) -> str:
        """Return ``sent``, or the reason against it, for each message."""
        planned = self.plan(minute, reqid, **payload)
        held = [each.reason for each in planned.held]
        gone = [each.reason for each in planned.suppressed]
        return ", ".join(["sent"] * len(planned.deliveries) + [f"{each} held" for each in held] + gone)

    def digest(self, minute: float, key: str = "", *, stored: bool = True) -> Plan | NotDueYet | None:
        now = RECEIVED + int(minute * MINUTE)
        key = key or next(iter(self.timers))
        (rule,) = self.rulebook.rules
        result = run_in_memory(route_due_digest(self.rulebook, rule, key, now, no_preferences), self.values)
        if not isinstance(result, Routing):
            return result
        if stored:
            assert result.digest is not None
            run_in_memory(confirm(key, rule.limits, result.digest.number), self.values)
        return render_plan(result)

    def undo_buffering_of(self, reqid: str, buffered: Collection[str] = ()) -> tuple[DigestTimer, ...]:
        """Undo the buffering of an event, except for the rules whose recorded plan has it buffered."""
        about = event({"userid": "u1", "phone": "+8613800000000", "ip": reqid}, reqid=reqid)
        return run_in_memory(undo_buffering(route(self.rulebook, about), buffered), self.values)

    def digest_text(self, minute: float) -> str:
        planned = self.digest(minute)
        assert isinstance(planned, Plan), planned
        (delivery,) = planned.deliveries
        return delivery.message.text


def test_dedupe_lets_the_first_of_a_window_pass(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "dedupe: {key: [userid, city], window: 10m}"))
    assert clock.outcome(0, "a", city="X") == "sent"
    assert clock.outcome(1, "b", city="X") == "dedupe"
    assert clock.outcome(1, "c", city="Y") == "sent"
    assert clock.outcome(1, "d") == "sent"  # no city is a city of its own
    assert clock.outcome(2, "a", city="X") == "sent"  # the same again, as after a crash
    assert clock.outcome(10, "e", city="X") == "sent"
    assert clock.outcome(11, "f", city="X") == "dedupe"


def test_an_event_that_passed_an_earlier_window_passes_again(tmp_path: Path) -> None:
    """Its plan was not recorded. Other events were suppressed for it, and it may wait in a digest."""
    clock = Clock(book(tmp_path, "dedupe: {key: userid, window: 10m}"))
    assert [clock.outcome(minute, name) for minute, name in ((0, "a"), (10, "b"), (20, "c"))] == ["sent"] * 3
    assert [clock.outcome(21, name) for name in "abcd"] == ["sent", "sent", "sent", "dedupe"]
    assert clock.outcome(30, "d") == "sent"


def test_keys_distinguish_types_and_boundaries(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "dedupe: {key: [city, country], window: 10m}"))
    assert clock.outcome(0, "a", city="1", country="2") == "sent"
    assert clock.outcome(0, "b", city="12", country="") == "sent"
    assert clock.outcome(0, "c", city="1", country="2") == "dedupe"


def test_a_throttle_counts_in_any_period(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "throttle: {key: userid, limit: 2, per: 10m}"))
    assert [clock.outcome(minute, str(minute)) for minute in (0, 9, 9.5)] == ["sent", "sent", "throttle"]
    assert clock.outcome(10, "d") == "sent"  # the first is ten minutes ago
    assert clock.outcome(11, "e") == "throttle"
    assert clock.outcome(11, "other", userid="u2") == "sent"
    assert clock.outcome(11, "d") == "sent"  # again
    # It goes out now and not then: the stretch counts from now.
    assert [clock.outcome(minute, f"at {minute}") for minute in (19.5, 20, 20.5)] == [
        "sent",
        "throttle",
        "throttle",
    ]
    assert clock.outcome(21, "f") == "sent"


def test_the_time_of_a_throttle_never_goes_back(tmp_path: Path) -> None:
    """The clocks of replicas differ, and an event may have waited in one of them."""
    clock = Clock(book(tmp_path, "throttle: {key: userid, limit: 2, per: 10m}"))
    arrivals = ((0, "a"), (1, "b"), (12, "c"), (2, "late"), (3, "later still"))
    assert [clock.outcome(*each) for each in arrivals] == ["sent", "sent", "sent", "sent", "throttle"]
    assert clock.outcome(21, "d") == "throttle"  # "late" counts as of 12


def test_events_beyond_a_throttle_can_be_digested(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "throttle: {key: userid, limit: 1, per: 10m, on_limit: digest}"))
    assert clock.outcome(0, "a") == "sent"
    assert clock.outcome(1, "b") == "throttle held"
    assert clock.outcome(2, "c") == "throttle held"
    assert isinstance(clock.digest(9), NotDueYet)
    # It waits with the others although one more could pass now, so that it does not overtake them.
    assert clock.outcome(10.5, "d") == "throttle held"
    assert clock.digest_text(11) == "b c d"
    assert clock.outcome(12, "e") == "throttle held"  # the digest counts as one event
    assert clock.digest_text(21) == "e"


def test_a_digest_waits_then_at_most_every_interval(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "digest: {key: userid, wait: 2m, interval: 30m, max_events: 2}"))
    held = clock.plan(0, "a").held[0]
    assert (held.reason, held.until) == ("digest", RECEIVED + 2 * MINUTE)
    assert [clock.outcome(1, name) for name in "bcd"] == ["digest held"] * 3
    assert clock.outcome(1.5, "a") == "digest held"  # again: the digest has it once
    assert clock.digest_text(2) == "a b +2"
    assert clock.plan(3, "e").held[0].until == RECEIVED + 32 * MINUTE
    assert clock.outcome(3, "c") == "digest held"  # again, after its digest
    assert clock.digest_text(32) == "e"
    assert clock.digest(33) is None


def test_a_digest_that_was_not_stored_is_made_again_without_later_events(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "digest: {key: userid, wait: 2m}"))
    clock.plan(0, "a")
    first = clock.digest(2, stored=False)
    clock.plan(2.5, "b")
    again = clock.digest(3)
    assert isinstance(first, Plan)
    assert isinstance(again, Plan)
    assert [d.id for d in first.deliveries] == [d.id for d in again.deliveries]
    assert first.deliveries[0].message == again.deliveries[0].message
    assert clock.digest_text(5) == "b"


def test_a_timer_that_finds_an_earlier_batch_is_set_again(tmp_path: Path) -> None:
    """A replica crashed after it sealed the batch. Its timer and the next one both flush that batch."""
    clock = Clock(book(tmp_path, "digest: {key: userid, wait: 2m}"))
    clock.plan(0, "a")
    clock.digest(2, stored=False)
    clock.plan(2.5, "b")
    batch = clock.digest(5, stored=False)
    assert isinstance(batch, Plan)
    assert batch.digest is not None
    assert [each.reqid for each in batch.digest.events] == ["a"]
    left = run_in_memory(
        confirm(batch.digest.key, clock.rulebook.rules[0].limits, batch.digest.number), clock.values
    )
    assert left == RECEIVED + int(4.5 * MINUTE)
    assert clock.digest_text(5) == "b"


def test_an_event_of_an_earlier_digest_is_recognised(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "digest: {key: userid, wait: 1m}"))
    digests = {}
    for minute, name in ((0, "a"), (2, "b"), (4, "c")):
        digests[name] = clock.plan(minute, name).held[0].digest
        assert clock.digest_text(minute + 1) == name
    clock.plan(6, "d")
    again = {name: clock.plan(6.1, name) for name in "abc"}
    assert {name: planned.held[0].digest for name, planned in again.items()} == digests
    assert not any(planned.timers for planned in again.values())
    assert clock.digest_text(7) == "d"
    assert len({*digests.values()}) == 3


def test_an_event_with_another_recorded_plan_leaves_the_buffer(tmp_path: Path) -> None:
    """Two replicas planned it, and the other one stored its plan first."""
    limits = "throttle: {key: userid, limit: 1, per: 10m, on_limit: digest}"
    clock = Clock(book(tmp_path, limits))
    assert [clock.outcome(0, name) for name in "abc"] == ["sent", "throttle held", "throttle held"]
    (key,) = clock.timers
    for name in "abx":  # one that was sent, one that waits, and an unknown one
        # The timer was that of b, so the one that removes it sets it.
        assert clock.undo_buffering_of(name) == (DigestTimer(key=key, rule="r", at=RECEIVED + 10 * MINUTE),)
    assert clock.digest_text(10) == "c"
    assert clock.undo_buffering_of("c") == ()


def test_an_event_with_another_recorded_plan_does_not_wait_for_a_budget(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "budget: 1/h"))
    assert [clock.outcome(0, name) for name in "abac"] == ["sent", *["budget held"] * 3]
    (key,) = clock.timers
    assert clock.undo_buffering_of("b") == (DigestTimer(key=key, rule="r", at=RECEIVED + 60 * MINUTE),)
    assert clock.undo_buffering_of("c", buffered={"r"}) == ()
    clock.undo_buffering_of("a")
    assert clock.digest_text(60) == "c"


def test_a_removed_event_that_was_only_counted_is_subtracted() -> None:
    digest = Digest(key=(), wait=1.0, max_events=1)
    buffer = DigestBuffer()
    for name in "abc":
        buffer, _ = append("k", buffer, event({}, reqid=name), digest, due=5_000_000)
    less = remove(buffer, event_fingerprint(event({}, reqid="c")))
    assert ([each.reqid for each in less.events], less.more, len(less.ids)) == (["a"], 1, 2)
    assert remove(less, "nobody") is less


def test_digests_of_a_new_buffer_get_new_numbers(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "digest: {key: userid, wait: 1m}"))
    first = clock.plan(0, "a").held[0].digest
    clock.digest_text(1)
    clock.values.clear()
    assert clock.plan(3000, "b").held[0].digest != first


def test_a_digest_has_the_events_of_its_recipient_only(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "digest: {key: city, wait: 2m}"))
    clock.plan(0, "a", city="X", phone="+8613800000001")
    clock.plan(0, "b", city="X", phone="+8613800000002", userid="u2")
    clock.plan(1, "c", city="X", phone="+8613800000001")
    planned = clock.digest(2)
    assert isinstance(planned, Plan)
    assert {d.to[0][-1]: d.message.text for d in planned.deliveries} == {"1": "a c", "2": "b"}
    assert planned.event.reqid.startswith("digest-")


def test_a_digest_over_a_channel_without_addresses_is_one_message(tmp_path: Path) -> None:
    rule = "{id: r, event: notice.login.abnormal, template: t, notify: [terminal], digest: {key: city, wait: 2m}}"
    templates = {"templates/t/default.txt": "{{ events | map(attribute='payload.userid') | join(' ') }}"}
    clock = Clock(policy(tmp_path, f"rules: [{rule}]", **templates).require())
    for user in ("u1", "u2", "u1"):
        clock.plan(0, f"{user}{len(clock.timers)}", city="X", userid=user)
    clock.plan(0, "last", city="X", userid="u3")
    assert clock.digest_text(2) == "u1 u2 u1 u3"


def test_a_rule_in_shadow_mode_or_without_recipients_does_not_count(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "enabled: shadow, dedupe: {key: userid, window: 10m}"))
    assert clock.outcome(0, "a") == "shadow"
    assert clock.values == {}
    clock = Clock(book(tmp_path / "b", "dedupe: {key: userid, window: 10m}"))
    assert clock.outcome(0, "a", phone=None) == "no_address"
    assert clock.outcome(1, "b") == "sent"


def test_events_beyond_a_budget_are_digested_in_the_next_window(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "budget: 2/h"))
    assert [clock.outcome(0, name) for name in "ab"] == ["sent", "sent"]
    beyond = clock.plan(1, "c")
    assert [(held.reason, held.until) for held in beyond.held] == [("budget", RECEIVED + 60 * MINUTE)]
    assert [(each.name, each.until) for each in beyond.exhausted_budgets] == [("r", RECEIVED + 60 * MINUTE)]
    assert clock.outcome(2, "d") == "budget held"
    assert clock.outcome(2, "c") == "budget held"  # again: the digest has it once
    assert clock.outcome(3, "other", userid="u2", phone="+8613800000002") == "budget held"
    mine, others = clock.timers
    assert isinstance(clock.digest(59, mine), NotDueYet)
    assert clock.digest_text(60) == "c d"
    digest = clock.digest(60, others)
    assert isinstance(digest, Plan)
    assert [each.message.text for each in digest.deliveries] == ["other"]
    # Digests are messages too: the budget of this hour is exhausted.
    assert clock.outcome(61, "e") == "budget held"


def test_an_event_that_waits_for_a_budget_still_waits_when_it_is_redelivered(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "budget: 1/h"))
    assert [clock.outcome(59, name) for name in "ab"] == ["sent", "budget held"]
    given_ = {"userid": "u1", "phone": "+8613800000000", "ip": "b"}
    again = plan_steps(clock.rulebook, event(given_, reqid="b"), RECEIVED + 61 * MINUTE, comes_again=True)
    (held,) = run_in_memory(again, clock.values).held
    assert held.reason == "budget"
    assert clock.digest_text(62) == "b"
    once_more = plan_steps(clock.rulebook, event(given_, reqid="b"), RECEIVED + 63 * MINUTE, comes_again=True)
    assert run_in_memory(once_more, clock.values).held[0].digest == held.digest


def test_a_digest_waits_for_its_budget(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "budget: 1/h, digest: {key: userid, wait: 2m}"))
    clock.plan(0, "a")
    assert clock.digest_text(2) == "a"
    clock.plan(3, "b")
    waiting = clock.digest(5)
    assert isinstance(waiting, NotDueYet)
    assert (waiting.until, len(waiting.exhausted_budgets)) == (RECEIVED + 60 * MINUTE, 1)
    assert clock.digest_text(60) == "b"


def test_a_budget_can_drop_the_messages_beyond_it(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "budget: {limit: 1, per: 1h, on_limit: drop}"))
    assert [clock.outcome(minute, str(minute)) for minute in (0, 1, 60)] == ["sent", "budget", "sent"]
    assert clock.timers == {}
    clock = Clock(
        book(tmp_path / "b", "budget: {limit: 1, per: 1h, on_limit: drop}, digest: {key: userid, wait: 2m}")
    )
    clock.plan(0, "a")
    assert clock.digest_text(2) == "a"
    clock.plan(3, "b")
    dropped = clock.digest(5)
    assert isinstance(dropped, Plan)
    assert [each.reason for each in dropped.suppressed] == ["budget"]


def test_the_messages_of_one_event_are_sent_all_or_none_and_held_ones_count(
    tmp_path: Path,
) -> None:
    rules = """
        defaults: {budget: {limit: 3, per: 1h}}
        time_intervals: {night: {times: ["00:00-23:59"]}}
        rules:
          - {id: both, event: notice.login.abnormal, template: t, notify: [email, sms]}
          - id: late
            event: notice.login.abnormal
            template: t
            notify: [terminal]
            mute_time_intervals: [night]
            on_muted: defer
        """
    rulebook = policy(tmp_path, rules).require()
    clock = Clock(rulebook)
    assert clock.outcome(0, "a", mailto="a@example.com") == "sent, sent, sent, muted held"
    second = clock.plan(1, "b", mailto="a@example.com")
    assert second.deliveries == ()
    assert {(held.rule, held.channel, held.reason) for held in second.held} == {
        ("both", "email", "budget"),
        ("both", "sms", "budget"),
        ("late", "terminal", "budget"),
    }
    assert {each.name for each in second.exhausted_budgets} == {GLOBAL_BUDGET}


def test_a_message_that_one_budget_refuses_is_refunded_to_the_others() -> None:
    values: dict[str, bytes] = {}
    own, whole = Budget(limit=10, per=3600.0), Budget(limit=4, per=3600.0)

    def exhausted(budgets: dict[str, Budget], messages: int) -> str:
        refused = run_in_memory(consume_budget(budgets, messages, RECEIVED), values)
        return refused.name if refused else ""

    both = {"r": own, GLOBAL_BUDGET: whole}
    assert [exhausted(both, messages) for messages in (3, 2, 1, 1)] == ["", GLOBAL_BUDGET, "", GLOBAL_BUDGET]
    assert [exhausted({"r": own}, 6), exhausted({"r": own}, 1)] == ["", "r"]
    # More messages than a whole budget would otherwise never be sent.
    assert [
        exhausted({"new": Budget(limit=2, per=60.0)}, 5),
        exhausted({"new": Budget(limit=2, per=60.0)}, 1),
    ] == ["", "new"]


def test_the_window_of_a_budget_never_goes_back() -> None:
    """Otherwise replicas whose clocks differ slightly would reset each other's count."""
    values: dict[str, bytes] = {}
    budget, hour = {"r": Budget(limit=2, per=3600.0)}, RECEIVED - RECEIVED % (60 * MINUTE)
    times = [hour, hour - 1, hour, hour - 1, hour, hour + 60 * MINUTE - 1]
    refused = [run_in_memory(consume_budget(budget, 1, now), values) is not None for now in times]
    assert refused == [False, False, True, True, True, True]
    assert run_in_memory(consume_budget(budget, 1, hour + 60 * MINUTE), values) is None


def test_a_refund_after_the_window_does_not_change_the_next() -> None:
    values: dict[str, bytes] = {}
    own, whole = Budget(limit=1, per=60.0), Budget(limit=1, per=3600.0)
    now = RECEIVED - RECEIVED % (60 * MINUTE) + MINUTE
    assert run_in_memory(consume_budget({GLOBAL_BUDGET: whole}, 1, now), values) is None
    steps = consume_budget({"r": own, GLOBAL_BUDGET: whole}, 1, now)  # its steps are interleaved with others
    answer, step = None, next(steps)
    for later in (False, True, False):
        if later:
            assert run_in_memory(consume_budget({"r": own}, 1, now + MINUTE), values) is None
        value, answer = step.fn(values.get(step.key, b""))
        if value is not None:
            values[step.key] = value
        try:
            step = steps.send(answer)
        except StopIteration as end:
            assert end.value.name == GLOBAL_BUDGET
    assert run_in_memory(consume_budget({"r": own}, 1, now + MINUTE), values) is not None


@pytest.mark.parametrize("per", [0.009, 0.011, 1.1, 4.35, 1e-9])
def test_a_window_ends_where_the_next_begins(per: float) -> None:
    budget = Budget(limit=1, per=per)
    for now in range(RECEIVED, RECEIVED + 1000):
        assert budget.begins(now) <= now < budget.ends(now) == budget.begins(budget.ends(now))


@pytest.mark.parametrize(
    "limits",
    [
        "digest: {key: userid, wait: 2m}",
        "throttle: {key: userid, limit: 1, per: 2m, on_limit: digest}",
        "budget: 1/2m",
    ],
)
def test_events_are_kept_as_long_as_they_wait_for_a_budget(tmp_path: Path, limits: str) -> None:
    """This includes events that another limit buffered, and a rule that also has a shorter budget."""
    rule = f"{{id: r, event: notice.login.abnormal, template: t, notify: [sms], {limits}}}"
    simulator = Simulator(
        policy(tmp_path, f"defaults: {{budget: 1/7d}}\nrules: [{rule}]", **TEMPLATES).require()
    )
    routings: list[Routing] = []
    for number, minute in enumerate((0, 0.1, 10, 2000)):
        received = RECEIVED + int(minute * MINUTE)
        routings += simulator.digests(received)
        about = event({"userid": "u1", "phone": "+8613800000000", "ip": "x"}, reqid=str(number))
        routings.append(simulator.process(structs.replace(about, received=received)))
    routings += simulator.digests()
    alone = [each.event.reqid for each in routings if each.notifications and not each.digest]
    together = [each.reqid for routing in routings if routing.digest for each in routing.digest.events]
    assert sorted(alone + together) == ["0", "1", "2", "3"]


def test_a_redelivered_event_that_waits_for_a_budget_skips_the_other_limits(tmp_path: Path) -> None:
    """Similar events came meanwhile: it would be recorded as suppressed, and its digest sent all the same."""
    clock = Clock(book(tmp_path, "throttle: {key: userid, limit: 1, per: 1m}, budget: 2/h"))
    assert [clock.outcome(minute, str(minute)) for minute in (0, 2, 4)] == ["sent", "sent", "budget held"]
    assert clock.outcome(6, "6") == "budget held"
    about = event({"userid": "u1", "phone": "+8613800000000", "ip": "4"}, reqid="4")
    again = plan_steps(clock.rulebook, about, RECEIVED + int(6.5 * MINUTE), comes_again=True)
    planned = run_in_memory(again, clock.values)
    assert ([held.reason for held in planned.held], planned.suppressed) == (["budget"], ())


class Throttled:
    """A throttle with a digest, step by step; with ``crash`` everything is done twice, as after a crash."""

    def __init__(self, limit: int, *, crash: bool) -> None:
        digest = Digest(key=(("u",),), wait=600.0)
        self.throttle = Throttle(key=(("u",),), limit=limit, per=600.0, digest=digest)
        self.limits = Limits(throttle=self.throttle)
        self.times = 2 if crash else 1
        self.values: dict[str, bytes] = {}
        self.timers: dict[str, int] = {}
        self.sent: dict[int, list[int]] = {}  # when, by user
        self.notified: list[str] = []

    def take(self, number: int, user: int, now: int) -> None:
        for _ in range(self.times):
            about = event({"u": user}, reqid=str(number))
            steps = apply_throttle("r", self.throttle, about, now, ttl=0.0)
            withheld = run_in_memory(steps, self.values)
        if withheld is not None:
            assert withheld.buffered is not None
            self.timers.setdefault(withheld.buffered.key, withheld.buffered.until)
        else:
            self.notified.append(str(number))
            self.sent.setdefault(user, []).append(now)

    def fire(self, now: int) -> None:
        for key in [key for key, at in sorted(self.timers.items()) if at <= now]:
            for _ in range(self.times):
                batch = run_in_memory(take_due(key, self.limits, now), self.values)
            if isinstance(batch, NotDueYet):
                self.timers[key] = batch.until
            elif isinstance(batch, Batch):
                run_in_memory(confirm(key, self.limits, batch.number), self.values)
                self.notified += [each.reqid for each in batch.events]
                self.sent.setdefault(batch.events[0].payload["u"], []).append(now)
                del self.timers[key]


@settings(max_examples=100, deadline=None)
@given(
    some.lists(some.tuples(some.integers(0, 40), some.integers(0, 3)), max_size=30),
    some.integers(1, 3),
    some.booleans(),
)
def test_no_user_gets_more_than_the_limit_and_every_event_is_sent_once(
    arrivals: list[tuple[int, int]], limit: int, crash: bool
) -> None:
    """Events of four users, at any minutes."""
    simulated = Throttled(limit, crash=crash)
    for number, (minute, user) in enumerate(sorted(arrivals)):
        simulated.fire(RECEIVED + minute * MINUTE)
        simulated.take(number, user, RECEIVED + minute * MINUTE)
    for minute in range(41, 400):
        simulated.fire(RECEIVED + minute * MINUTE)
    assert sorted(simulated.notified) == sorted(map(str, range(len(arrivals))))
    for times in simulated.sent.values():
        for start in times:
            assert sum(start <= each < start + 10 * MINUTE for each in times) <= limit


class Budgeted:
    """Two rules with a budget each and one of both, step by step; with ``crash`` everything is done twice."""

    def __init__(self, rulebook: Rulebook, *, crash: bool) -> None:
        self.rulebook = rulebook
        self.crash = crash
        self.values: dict[str, bytes] = {}
        self.timers: dict[str, tuple[int, Rule]] = {}
        self.sent: list[tuple[int, str, int]] = []  # when, by which rule, how many messages of one event
        self.interrupted: set[str] = set()  # digests whose flush was interrupted
        self.notified: list[tuple[str, str]] = []  # by which rule, of which event

    def take(self, number: int, user: int, now: int) -> None:
        given_ = {"userid": f"u{user}", "phone": f"+861380000000{user}", "ip": "x", "mailto": "a@example.com"}
        about = event(given_, reqid=str(number))
        for comes_again in (False, True) if self.crash else (False,):
            steps = apply_limits(route(self.rulebook, about), now, comes_again=comes_again)
            routing = run_in_memory(steps, self.values)
        assert not routing.suppressed
        for timer in routing.timers:
            self.timers[timer.key] = timer.at, self.rulebook.rules[timer.rule == "two"]
        for rule in self.rulebook.rules:
            if notifications := routing.notifications_of(rule):
                self.notified.append((rule.id, about.reqid))
                self.sent.append((now, rule.id, len(notifications)))

    def fire(self, now: int) -> None:
        for key, (at, rule) in sorted(self.timers.items()):
            if at > now:
                continue
            result = run_in_memory(
                route_due_digest(self.rulebook, rule, key, now, no_preferences), self.values
            )
            if self.crash and isinstance(result, Routing) and result.event.reqid not in self.interrupted:
                self.interrupted.add(result.event.reqid)
                result = run_in_memory(
                    route_due_digest(self.rulebook, rule, key, now, no_preferences), self.values
                )
            if isinstance(result, NotDueYet):
                self.timers[key] = result.until, rule
                continue
            del self.timers[key]
            if result is not None:
                assert result.digest is not None
                left = run_in_memory(confirm(key, rule.limits, result.digest.number), self.values)
                if left:
                    self.timers[key] = left, rule
                self.notified += [(rule.id, each.reqid) for each in result.digest.events]
                self.sent.append((now, rule.id, len(result.notifications)))


@settings(max_examples=100, deadline=None)
@given(
    some.lists(some.tuples(some.integers(0, 40), some.integers(0, 3)), max_size=15),
    some.integers(1, 4),
    some.integers(1, 4),
    some.integers(1, 4),
    some.booleans(),
)
def test_no_window_exceeds_its_budgets_and_every_event_is_sent_once(
    arrivals: list[tuple[int, int]], one: int, two: int, both: int, crash: bool
) -> None:
    """Events of four users, at any minutes. An event that exceeds a whole budget has a window of its own."""
    simulated = Budgeted(_with_budgets(one, two, both), crash=crash)
    hour = RECEIVED - RECEIVED % (60 * MINUTE)
    for number, (minute, user) in enumerate(sorted(arrivals)):
        simulated.fire(hour + minute * MINUTE)
        simulated.take(number, user, hour + minute * MINUTE)
    for minute in range(41, 41 + 200 * len(arrivals)):
        simulated.fire(hour + minute * MINUTE)
    assert sorted(simulated.notified) == sorted(
        (rule, str(number)) for rule in ("one", "two") for number in range(len(arrivals))
    )
    for rules, limit, length in (({"one"}, one, 10), ({"two"}, two, 10), ({"one", "two"}, both, 20)):
        windows: dict[int, list[int]] = {}
        for at, rule, messages in simulated.sent:
            if rule in rules:
                windows.setdefault((at - hour) // (length * MINUTE), []).append(messages)
        assert all(sum(each) <= limit or len(each) == 1 for each in windows.values())


@cache
def _with_budgets(one: int, two: int, both: int) -> Rulebook:
    rules = f"""
        defaults: {{budget: {both}/20m}}
        rules:
          - {{id: one, event: notice.login.abnormal, template: t, notify: [sms], budget: {one}/10m}}
          - {{id: two, event: notice.login.abnormal, template: t, notify: [sms, email], budget: {two}/10m}}
        """
    with TemporaryDirectory() as folder:
        return policy(Path(folder), rules, **TEMPLATES).require()


def test_a_buffer_stays_below_the_size_that_the_broker_accepts() -> None:
    buffer = DigestBuffer()
    digest = Digest(key=(), wait=1.0, max_events=500)
    for number in range(40):
        buffer, _ = append("k", buffer, event({"x": "y" * 10_000}, reqid=str(number)), digest, due=5_000_000)
    assert len(buffer.events) + buffer.more == 40
    assert 20 < len(buffer.events) < 27
    alone, _ = append("k", DigestBuffer(), event({"x": "y" * 300_000}), digest, due=5_000_000)
    assert len(alone.events) == 1  # whatever its size: a digest has at least one event
    sealed = seal(buffer, 7)
    assert confirm_flush(confirm_flush(sealed, 9), 5).sealed is None
    assert confirm_flush(sealed, 9) is sealed


@pytest.mark.parametrize(
    ("chosen", "allowed", "expected"),
    [
        (None, ["email", "sms"], ("email",)),
        ({"security": ["sms"]}, ["email", "sms"], ("sms",)),
        ({"security": ["sms", "email"]}, ["email", "sms"], ("email", "sms")),
        ({"default": ["sms"]}, ["email", "sms"], ("sms",)),
        ({"default": ["sms"], "security": {"email": True}}, ["email", "sms"], ("email", "sms")),
        ({"security": {"email": False}}, ["email", "sms"], ("sms",)),
        ({"security": []}, ["email", "sms"], ()),
        ({"security": {"email": False, "sms": False}}, ["email", "sms"], ()),
        ({"security": ["telegram"]}, ["email", "sms"], ("email",)),
        ({"account": []}, ["email", "sms"], ("email",)),
    ],
)
def test_select_channels(chosen: Any, allowed: list[str], expected: tuple[str, ...]) -> None:
    choices = None if chosen is None else Choices(channels=chosen)
    assert select_channels(choices, "security", allowed, {"email", "sms"}) == expected


def trial(folder: Path, rule: str, preferences: str, expect: str) -> list[str]:
    """Return the differences of a policy test with one event of one user."""
    payload = "{userid: u1, mailto: a@example.com, phone: '+8613800000000', locale: en}"
    made = policy(
        folder,
        f"rules: [{{id: r, event: notice.login.abnormal, template: t, {rule}}}]\n"
        f"tests:\n- name: x\n  at: '2026-03-02T20:30:00Z'\n  preferences: {{u1: {preferences}}}\n"
        f"  given: {{event: notice.login.abnormal, payload: {payload}}}\n  expect: {{{expect}}}\n",
    )
    assert made.ok, made.problems
    return [str(each) for each in run_case(made.require(), made.cases[0]).differences]


PREFERRED = "category: security, notify: [preferred], allow: [email, sms]"
INSISTED = "category: security, notify: [email, sms, terminal]"


@pytest.mark.parametrize(
    ("rule", "preferences", "expect"),
    [
        (PREFERRED, "{security: [sms]}", "deliveries: [{channel: sms}], suppressed: []"),
        (PREFERRED, "{}", "deliveries: [{channel: email}], suppressed: []"),
        (
            PREFERRED,
            "{security: []}",
            "deliveries: [], suppressed: [{channel: email, reason: preference}, {channel: sms, reason: preference}]",
        ),
        (f"{PREFERRED}, critical: true", "{security: []}", "deliveries: [{channel: email}]"),
        (
            INSISTED,
            "{security: [sms]}",
            "deliveries: [{channel: sms}, {channel: terminal}], suppressed: [{channel: email, reason: preference}]",
        ),
        (f"{INSISTED}, critical: true", "{security: []}", "deliveries: [{}, {}, {}], suppressed: []"),
        (
            PREFERRED,
            "{quiet_hours: '22:00-07:00', time_zone: Asia/Shanghai}",
            "deliveries: [{channel: email, at: '2026-03-03T07:00:00+08:00'}]",
        ),
        (
            f"{PREFERRED}, critical: true",
            "{quiet_hours: '22:00-07:00', time_zone: Asia/Shanghai}",
            "deliveries: [{channel: email, at: '2026-03-02T20:30:00Z'}]",
        ),
        (
            PREFERRED,
            "{quiet_hours: '22:00-07:00', time_zone: America/New_York}",
            "deliveries: [{channel: email, at: '2026-03-02T20:30:00Z'}]",
        ),
    ],
)
def test_preferences_of_a_user_apply_in_a_test(
    tmp_path: Path, rule: str, preferences: str, expect: str
) -> None:
    assert trial(tmp_path, rule, preferences, expect) == []


def test_a_test_sees_digests_on_its_clock(tmp_path: Path) -> None:
    given_ = (
        "{event: notice.login.abnormal, payload: {userid: u1, phone: '+8613800000000', ip: %s}, after: %s}"
    )
    made = policy(
        tmp_path,
        "rules: [{id: r, event: notice.login.abnormal, template: t, notify: [sms], "
        "digest: {key: userid, wait: 2m}}]\n"
        "tests:\n- name: x\n  at: '2026-03-02T20:00:00Z'\n"
        f"  given: [{given_ % ('1.1.1.1', '1s')}, {given_ % ('1.1.1.2', '1m')}, {given_ % ('1.1.1.3', '5m')}]\n"
        "  expect:\n    rules: [r, r, r]\n    deliveries:\n"
        "    - {channel: sms, contains: 1.1.1.1 1.1.1.2, at: '2026-03-02T20:02:01Z'}\n"
        "    - {channel: sms, contains: 1.1.1.3, at: '2026-03-02T20:08:01Z'}\n",
        **TEMPLATES,
    )
    assert made.ok, made.problems
    assert [each.rows for each in run_case(made.require(), made.cases[0]).differences] == []
