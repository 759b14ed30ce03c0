"""What keeps people from too many messages, and what they choose: on a virtual clock, one event after the other."""

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
WORDS = {
    "templates/t/sms.txt": "{{ events | map(attribute='payload.ip') | join(' ') }}{% if more %} +{{ more }}{% endif %}"
}


def book(folder: Path, rule: str, **files: str) -> Rulebook:
    text = f"rules: [{{id: r, event: notice.login.abnormal, template: t, notify: [sms], {rule}}}]"
    return policy(folder, text, **{**WORDS, **files}).require()


class Clock:
    """Plans events as one server would, and rings when digests are due."""

    def __init__(self, rulebook: Rulebook) -> None:
        self.rulebook = rulebook
        self.cells: dict[str, bytes] = {}
        self.alarms: dict[str, int] = {}

    def plan(self, minute: float, reqid: str, **payload: Any) -> Plan:
        now = RECEIVED + int(minute * MINUTE)
        given_ = {"userid": "u1", "phone": "+8613800000000", "ip": reqid, **payload}
        planned = run_in_memory(plan_steps(self.rulebook, event(given_, reqid=reqid), now), self.cells)
        for alarm in planned.timers:
            self.alarms[alarm.key] = alarm.at
        return planned

    def verdict(self, minute: float, reqid: str, **payload: Any) -> str:
        """sent, or why not."""
        planned = self.plan(minute, reqid, **payload)
        held = [each.reason for each in planned.held]
        gone = [each.reason for each in planned.suppressed]
        return ", ".join(["sent"] * len(planned.deliveries) + [f"{each} held" for each in held] + gone)

    def digest(self, minute: float, key: str = "", *, settle: bool = True) -> Plan | NotDueYet | None:
        now = RECEIVED + int(minute * MINUTE)
        key = key or next(iter(self.alarms))
        (rule,) = self.rulebook.rules
        result = run_in_memory(route_due_digest(self.rulebook, rule, key, now, no_preferences), self.cells)
        if not isinstance(result, Routing):
            return result
        if settle:
            assert result.digest is not None
            run_in_memory(confirm(key, rule.limits, result.digest.number), self.cells)
        return render_plan(result)

    def withdraw(self, reqid: str, gathered: Collection[str] = ()) -> tuple[DigestTimer, ...]:
        """What another replica wrote down counts: the event waits for no more than that."""
        about = event({"userid": "u1", "phone": "+8613800000000", "ip": reqid}, reqid=reqid)
        return run_in_memory(undo_buffering(route(self.rulebook, about), gathered), self.cells)

    def words(self, minute: float) -> str:
        planned = self.digest(minute)
        assert isinstance(planned, Plan), planned
        (delivery,) = planned.deliveries
        return delivery.message.text


def test_dedupe_lets_the_first_of_a_window_pass(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "dedupe: {key: [userid, city], window: 10m}"))
    assert clock.verdict(0, "a", city="X") == "sent"
    assert clock.verdict(1, "b", city="X") == "dedupe"
    assert clock.verdict(1, "c", city="Y") == "sent"
    assert clock.verdict(1, "d") == "sent"  # no city is a city of its own
    assert clock.verdict(2, "a", city="X") == "sent"  # the same again, as after a crash
    assert clock.verdict(10, "e", city="X") == "sent"
    assert clock.verdict(11, "f", city="X") == "dedupe"


def test_who_passed_a_window_that_is_over_passes_again(tmp_path: Path) -> None:
    """It was not written down that it did; others were held back for it, and it may wait in a digest."""
    clock = Clock(book(tmp_path, "dedupe: {key: userid, window: 10m}"))
    assert [clock.verdict(minute, name) for minute, name in ((0, "a"), (10, "b"), (20, "c"))] == ["sent"] * 3
    assert [clock.verdict(21, name) for name in "abcd"] == ["sent", "sent", "sent", "dedupe"]
    assert clock.verdict(30, "d") == "sent"


def test_keys_keep_types_apart_and_do_not_run_together(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "dedupe: {key: [city, country], window: 10m}"))
    assert clock.verdict(0, "a", city="1", country="2") == "sent"
    assert clock.verdict(0, "b", city="12", country="") == "sent"
    assert clock.verdict(0, "c", city="1", country="2") == "dedupe"


def test_a_throttle_counts_any_stretch_of_time(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "throttle: {key: userid, limit: 2, per: 10m}"))
    assert [clock.verdict(minute, str(minute)) for minute in (0, 9, 9.5)] == ["sent", "sent", "throttle"]
    assert clock.verdict(10, "d") == "sent"  # the first is ten minutes ago
    assert clock.verdict(11, "e") == "throttle"
    assert clock.verdict(11, "other", userid="u2") == "sent"
    assert clock.verdict(11, "d") == "sent"  # again
    # It goes out now and not then: the stretch counts from now.
    assert [clock.verdict(minute, f"at {minute}") for minute in (19.5, 20, 20.5)] == [
        "sent",
        "throttle",
        "throttle",
    ]
    assert clock.verdict(21, "f") == "sent"


def test_a_throttle_s_time_never_goes_back(tmp_path: Path) -> None:
    """Replicas have clocks of their own, and an event may have waited in one of them."""
    clock = Clock(book(tmp_path, "throttle: {key: userid, limit: 2, per: 10m}"))
    arrivals = ((0, "a"), (1, "b"), (12, "c"), (2, "late"), (3, "later still"))
    assert [clock.verdict(*each) for each in arrivals] == ["sent", "sent", "sent", "sent", "throttle"]
    assert clock.verdict(21, "d") == "throttle"  # "late" went out no earlier than at 12


def test_what_is_beyond_a_throttle_may_be_told_of_together(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "throttle: {key: userid, limit: 1, per: 10m, on_limit: digest}"))
    assert clock.verdict(0, "a") == "sent"
    assert clock.verdict(1, "b") == "throttle held"
    assert clock.verdict(2, "c") == "throttle held"
    assert isinstance(clock.digest(9), NotDueYet)
    # It waits with the others although one more might pass by now, so that nothing overtakes.
    assert clock.verdict(10.5, "d") == "throttle held"
    assert clock.words(11) == "b c d"
    assert clock.verdict(12, "e") == "throttle held"  # the digest was the one of these ten minutes
    assert clock.words(21) == "e"


def test_a_digest_waits_then_at_most_every_interval(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "digest: {key: userid, wait: 2m, interval: 30m, max_events: 2}"))
    held = clock.plan(0, "a").held[0]
    assert (held.reason, held.until) == ("digest", RECEIVED + 2 * MINUTE)
    assert [clock.verdict(1, name) for name in "bcd"] == ["digest held"] * 3
    assert clock.verdict(1.5, "a") == "digest held"  # again: it is in there once
    assert clock.words(2) == "a b +2"
    assert clock.plan(3, "e").held[0].until == RECEIVED + 32 * MINUTE
    assert clock.verdict(3, "c") == "digest held"  # again, after it was told of
    assert clock.words(32) == "e"
    assert clock.digest(33) is None


def test_a_digest_that_was_not_stored_is_made_again_and_leaves_later_events_alone(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "digest: {key: userid, wait: 2m}"))
    clock.plan(0, "a")
    first = clock.digest(2, settle=False)
    clock.plan(2.5, "b")
    again = clock.digest(3)
    assert isinstance(first, Plan)
    assert isinstance(again, Plan)
    assert [d.id for d in first.deliveries] == [d.id for d in again.deliveries]
    assert first.deliveries[0].message == again.deliveries[0].message
    assert clock.words(5) == "b"


def test_an_alarm_that_finds_an_earlier_batch_in_its_way_is_rung_again(tmp_path: Path) -> None:
    """Whoever sealed it died: its alarm and the next one come together, and both tell the first."""
    clock = Clock(book(tmp_path, "digest: {key: userid, wait: 2m}"))
    clock.plan(0, "a")
    clock.digest(2, settle=False)
    clock.plan(2.5, "b")
    batch = clock.digest(5, settle=False)
    assert isinstance(batch, Plan)
    assert batch.digest is not None
    assert [each.reqid for each in batch.digest.events] == ["a"]
    left = run_in_memory(
        confirm(batch.digest.key, clock.rulebook.rules[0].limits, batch.digest.number), clock.cells
    )
    assert left == RECEIVED + int(4.5 * MINUTE)
    assert clock.words(5) == "b"


def test_an_event_is_known_in_earlier_digests_too(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "digest: {key: userid, wait: 1m}"))
    digests = {}
    for minute, name in ((0, "a"), (2, "b"), (4, "c")):
        digests[name] = clock.plan(minute, name).held[0].digest
        assert clock.words(minute + 1) == name
    clock.plan(6, "d")
    again = {name: clock.plan(6.1, name) for name in "abc"}
    assert {name: planned.held[0].digest for name, planned in again.items()} == digests
    assert not any(planned.timers for planned in again.values())
    assert clock.words(7) == "d"
    assert len({*digests.values()}) == 3


def test_an_event_of_which_something_else_was_written_down_waits_no_more(tmp_path: Path) -> None:
    """Two replicas asked the gates about it, and the other one was quicker to write."""
    limits = "throttle: {key: userid, limit: 1, per: 10m, on_limit: digest}"
    clock = Clock(book(tmp_path, limits))
    assert [clock.verdict(0, name) for name in "abc"] == ["sent", "throttle held", "throttle held"]
    (key,) = clock.alarms
    for name in "abx":  # one that was sent, one that waits, one that is not known
        # It was b that was to ring: now whoever takes it out does.
        assert clock.withdraw(name) == (DigestTimer(key=key, rule="r", at=RECEIVED + 10 * MINUTE),)
    assert clock.words(10) == "c"
    assert clock.withdraw("c") == ()


def test_nor_does_it_wait_for_a_budget(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "budget: 1/h"))
    assert [clock.verdict(0, name) for name in "abac"] == ["sent", *["budget held"] * 3]
    (key,) = clock.alarms
    assert clock.withdraw("b") == (DigestTimer(key=key, rule="r", at=RECEIVED + 60 * MINUTE),)
    assert clock.withdraw("c", gathered={"r"}) == ()
    clock.withdraw("a")
    assert clock.words(60) == "c"


def test_what_is_only_counted_is_counted_no_more() -> None:
    digest = Digest(key=(), wait=1.0, max_events=1)
    pool = DigestBuffer()
    for name in "abc":
        pool, _ = append("k", pool, event({}, reqid=name), digest, due=5_000_000)
    less = remove(pool, event_fingerprint(event({}, reqid="c")))
    assert ([each.reqid for each in less.events], less.more, len(less.ids)) == (["a"], 1, 2)
    assert remove(less, "nobody") is less


def test_digests_of_a_pool_that_was_forgotten_are_others(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "digest: {key: userid, wait: 1m}"))
    first = clock.plan(0, "a").held[0].digest
    clock.words(1)
    clock.cells.clear()
    assert clock.plan(3000, "b").held[0].digest != first


def test_a_digest_tells_each_recipient_of_their_own(tmp_path: Path) -> None:
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
    words = {"templates/t/default.txt": "{{ events | map(attribute='payload.userid') | join(' ') }}"}
    clock = Clock(policy(tmp_path, f"rules: [{rule}]", **words).require())
    for user in ("u1", "u2", "u1"):
        clock.plan(0, f"{user}{len(clock.alarms)}", city="X", userid=user)
    clock.plan(0, "last", city="X", userid="u3")
    assert clock.words(2) == "u1 u2 u1 u3"


def test_a_rule_in_shadow_and_one_that_tells_nobody_leave_no_trace(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "enabled: shadow, dedupe: {key: userid, window: 10m}"))
    assert clock.verdict(0, "a") == "shadow"
    assert clock.cells == {}
    clock = Clock(book(tmp_path / "b", "dedupe: {key: userid, window: 10m}"))
    assert clock.verdict(0, "a", phone=None) == "no_address"
    assert clock.verdict(1, "b") == "sent"


def test_what_there_is_no_budget_for_is_told_of_together_when_there_is_again(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "budget: 2/h"))
    assert [clock.verdict(0, name) for name in "ab"] == ["sent", "sent"]
    beyond = clock.plan(1, "c")
    assert [(held.reason, held.until) for held in beyond.held] == [("budget", RECEIVED + 60 * MINUTE)]
    assert [(each.name, each.until) for each in beyond.exhausted_budgets] == [("r", RECEIVED + 60 * MINUTE)]
    assert clock.verdict(2, "d") == "budget held"
    assert clock.verdict(2, "c") == "budget held"  # again: it is in there once
    assert clock.verdict(3, "other", userid="u2", phone="+8613800000002") == "budget held"
    mine, others = clock.alarms
    assert isinstance(clock.digest(59, mine), NotDueYet)
    assert clock.words(60) == "c d"
    told_of = clock.digest(60, others)
    assert isinstance(told_of, Plan)
    assert [each.message.text for each in told_of.deliveries] == ["other"]
    # Digests are messages too: nothing is left of this hour.
    assert clock.verdict(61, "e") == "budget held"


def test_what_waits_for_a_budget_waits_as_well_when_it_comes_again_in_the_next_hour(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "budget: 1/h"))
    assert [clock.verdict(59, name) for name in "ab"] == ["sent", "budget held"]
    given_ = {"userid": "u1", "phone": "+8613800000000", "ip": "b"}
    again = plan_steps(clock.rulebook, event(given_, reqid="b"), RECEIVED + 61 * MINUTE, comes_again=True)
    (held,) = run_in_memory(again, clock.cells).held
    assert held.reason == "budget"
    assert clock.words(62) == "b"
    once_more = plan_steps(clock.rulebook, event(given_, reqid="b"), RECEIVED + 63 * MINUTE, comes_again=True)
    assert run_in_memory(once_more, clock.cells).held[0].digest == held.digest


def test_a_digest_waits_as_well_until_there_is_a_budget_for_it(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "budget: 1/h, digest: {key: userid, wait: 2m}"))
    clock.plan(0, "a")
    assert clock.words(2) == "a"
    clock.plan(3, "b")
    postponed = clock.digest(5)
    assert isinstance(postponed, NotDueYet)
    assert (postponed.until, len(postponed.exhausted_budgets)) == (RECEIVED + 60 * MINUTE, 1)
    assert clock.words(60) == "b"


def test_a_budget_may_drop_what_it_has_no_room_for(tmp_path: Path) -> None:
    clock = Clock(book(tmp_path, "budget: {limit: 1, per: 1h, on_limit: drop}"))
    assert [clock.verdict(minute, str(minute)) for minute in (0, 1, 60)] == ["sent", "budget", "sent"]
    assert clock.alarms == {}
    clock = Clock(
        book(tmp_path / "b", "budget: {limit: 1, per: 1h, on_limit: drop}, digest: {key: userid, wait: 2m}")
    )
    clock.plan(0, "a")
    assert clock.words(2) == "a"
    clock.plan(3, "b")
    dropped = clock.digest(5)
    assert isinstance(dropped, Plan)
    assert [each.reason for each in dropped.suppressed] == ["budget"]


def test_the_messages_of_one_event_are_sent_all_or_none_and_those_that_wait_for_the_night_count(
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
    assert clock.verdict(0, "a", mailto="a@example.com") == "sent, sent, sent, muted held"
    second = clock.plan(1, "b", mailto="a@example.com")
    assert second.deliveries == ()
    assert {(held.rule, held.channel, held.reason) for held in second.held} == {
        ("both", "email", "budget"),
        ("both", "sms", "budget"),
        ("late", "terminal", "budget"),
    }
    assert {each.name for each in second.exhausted_budgets} == {GLOBAL_BUDGET}


def test_what_one_budget_refuses_the_others_get_back() -> None:
    cells: dict[str, bytes] = {}
    own, whole = Budget(limit=10, per=3600.0), Budget(limit=4, per=3600.0)

    def used_up(budgets: dict[str, Budget], messages: int) -> str:
        refused = run_in_memory(consume_budget(budgets, messages, RECEIVED), cells)
        return refused.name if refused else ""

    both = {"r": own, GLOBAL_BUDGET: whole}
    assert [used_up(both, messages) for messages in (3, 2, 1, 1)] == ["", GLOBAL_BUDGET, "", GLOBAL_BUDGET]
    assert [used_up({"r": own}, 6), used_up({"r": own}, 1)] == ["", "r"]
    # What is more than a whole budget would else never be sent.
    assert [
        used_up({"new": Budget(limit=2, per=60.0)}, 5),
        used_up({"new": Budget(limit=2, per=60.0)}, 1),
    ] == ["", "new"]


def test_a_window_of_a_budget_never_goes_back() -> None:
    """Replicas whose clocks differ by a moment would forget in turns what the other one has counted."""
    cells: dict[str, bytes] = {}
    budget, hour = {"r": Budget(limit=2, per=3600.0)}, RECEIVED - RECEIVED % (60 * MINUTE)
    times = [hour, hour - 1, hour, hour - 1, hour, hour + 60 * MINUTE - 1]
    refused = [run_in_memory(consume_budget(budget, 1, now), cells) is not None for now in times]
    assert refused == [False, False, True, True, True, True]
    assert run_in_memory(consume_budget(budget, 1, hour + 60 * MINUTE), cells) is None


def test_what_is_given_back_after_the_hour_takes_nothing_from_the_next() -> None:
    cells: dict[str, bytes] = {}
    own, whole = Budget(limit=1, per=60.0), Budget(limit=1, per=3600.0)
    now = RECEIVED - RECEIVED % (60 * MINUTE) + MINUTE
    assert run_in_memory(consume_budget({GLOBAL_BUDGET: whole}, 1, now), cells) is None
    row = consume_budget({"r": own, GLOBAL_BUDGET: whole}, 1, now)  # and it is asked slowly
    answer, step = None, next(row)
    for later in (False, True, False):
        if later:
            assert run_in_memory(consume_budget({"r": own}, 1, now + MINUTE), cells) is None
        value, answer = step.fn(cells.get(step.key, b""))
        if value is not None:
            cells[step.key] = value
        try:
            step = row.send(answer)
        except StopIteration as end:
            assert end.value.name == GLOBAL_BUDGET
    assert run_in_memory(consume_budget({"r": own}, 1, now + MINUTE), cells) is not None


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
def test_what_waits_for_a_budget_is_kept_for_as_long(tmp_path: Path, limits: str) -> None:
    """Also where another gate gathered it, and where the rule has a shorter budget too."""
    rule = f"{{id: r, event: notice.login.abnormal, template: t, notify: [sms], {limits}}}"
    course = Simulator(policy(tmp_path, f"defaults: {{budget: 1/7d}}\nrules: [{rule}]", **WORDS).require())
    drafts: list[Routing] = []
    for number, minute in enumerate((0, 0.1, 10, 2000)):
        received = RECEIVED + int(minute * MINUTE)
        drafts += course.digests(received)
        about = event({"userid": "u1", "phone": "+8613800000000", "ip": "x"}, reqid=str(number))
        drafts.append(course.process(structs.replace(about, received=received)))
    drafts += course.digests()
    alone = [each.event.reqid for each in drafts if each.notifications and not each.digest]
    together = [each.reqid for drafted in drafts if drafted.digest for each in drafted.digest.events]
    assert sorted(alone + together) == ["0", "1", "2", "3"]


def test_what_waits_for_a_budget_is_not_asked_about_again(tmp_path: Path) -> None:
    """Others may have come that are alike: it would be recorded as not sent, and told of all the same."""
    clock = Clock(book(tmp_path, "throttle: {key: userid, limit: 1, per: 1m}, budget: 2/h"))
    assert [clock.verdict(minute, str(minute)) for minute in (0, 2, 4)] == ["sent", "sent", "budget held"]
    assert clock.verdict(6, "6") == "budget held"
    about = event({"userid": "u1", "phone": "+8613800000000", "ip": "4"}, reqid="4")
    again = plan_steps(clock.rulebook, about, RECEIVED + int(6.5 * MINUTE), comes_again=True)
    planned = run_in_memory(again, clock.cells)
    assert ([held.reason for held in planned.held], planned.suppressed) == (["budget"], ())


class Throttled:
    """A throttle with a digest, driven by hand; ``crash``: everything is done twice, as after a death."""

    def __init__(self, limit: int, *, crash: bool) -> None:
        digest = Digest(key=(("u",),), wait=600.0)
        self.throttle = Throttle(key=(("u",),), limit=limit, per=600.0, digest=digest)
        self.limits = Limits(throttle=self.throttle)
        self.times = 2 if crash else 1
        self.cells: dict[str, bytes] = {}
        self.alarms: dict[str, int] = {}
        self.went: dict[int, list[int]] = {}  # when, by person
        self.told: list[str] = []

    def take(self, number: int, user: int, now: int) -> None:
        for _ in range(self.times):
            about = event({"u": user}, reqid=str(number))
            steps = apply_throttle("r", self.throttle, about, now, ttl=0.0)
            withheld = run_in_memory(steps, self.cells)
        if withheld is not None:
            assert withheld.buffered is not None
            self.alarms.setdefault(withheld.buffered.key, withheld.buffered.until)
        else:
            self.told.append(str(number))
            self.went.setdefault(user, []).append(now)

    def ring(self, now: int) -> None:
        for key in [key for key, at in sorted(self.alarms.items()) if at <= now]:
            for _ in range(self.times):
                batch = run_in_memory(take_due(key, self.limits, now), self.cells)
            if isinstance(batch, NotDueYet):
                self.alarms[key] = batch.until
            elif isinstance(batch, Batch):
                run_in_memory(confirm(key, self.limits, batch.number), self.cells)
                self.told += [each.reqid for each in batch.events]
                self.went.setdefault(batch.events[0].payload["u"], []).append(now)
                del self.alarms[key]


@settings(max_examples=100, deadline=None)
@given(
    some.lists(some.tuples(some.integers(0, 40), some.integers(0, 3)), max_size=30),
    some.integers(1, 3),
    some.booleans(),
)
def test_nobody_gets_more_than_the_limit_and_every_event_ends_once(
    arrivals: list[tuple[int, int]], limit: int, crash: bool
) -> None:
    """Events of four people in any order of minutes."""
    gate = Throttled(limit, crash=crash)
    for number, (minute, user) in enumerate(sorted(arrivals)):
        gate.ring(RECEIVED + minute * MINUTE)
        gate.take(number, user, RECEIVED + minute * MINUTE)
    for minute in range(41, 400):
        gate.ring(RECEIVED + minute * MINUTE)
    assert sorted(gate.told) == sorted(map(str, range(len(arrivals))))
    for times in gate.went.values():
        for start in times:
            assert sum(start <= each < start + 10 * MINUTE for each in times) <= limit


class Budgeted:
    """Two rules with a budget each and one of both, driven by hand; ``crash``: everything is asked twice, as after a death."""

    def __init__(self, rulebook: Rulebook, *, crash: bool) -> None:
        self.rulebook = rulebook
        self.crash = crash
        self.cells: dict[str, bytes] = {}
        self.alarms: dict[str, tuple[int, Rule]] = {}
        self.went: list[tuple[int, str, int]] = []  # when, by which rule, how many messages of one event
        self.died: set[str] = set()  # digests that were being told when somebody died
        self.told: list[tuple[str, str]] = []  # by which rule, of which event

    def take(self, number: int, user: int, now: int) -> None:
        given_ = {"userid": f"u{user}", "phone": f"+861380000000{user}", "ip": "x", "mailto": "a@example.com"}
        about = event(given_, reqid=str(number))
        for comes_again in (False, True) if self.crash else (False,):
            row = apply_limits(route(self.rulebook, about), now, comes_again=comes_again)
            drafted = run_in_memory(row, self.cells)
        assert not drafted.suppressed
        for alarm in drafted.timers:
            self.alarms[alarm.key] = alarm.at, self.rulebook.rules[alarm.rule == "two"]
        for rule in self.rulebook.rules:
            if orders := drafted.notifications_of(rule):
                self.told.append((rule.id, about.reqid))
                self.went.append((now, rule.id, len(orders)))

    def ring(self, now: int) -> None:
        for key, (at, rule) in sorted(self.alarms.items()):
            if at > now:
                continue
            told = run_in_memory(route_due_digest(self.rulebook, rule, key, now, no_preferences), self.cells)
            if self.crash and isinstance(told, Routing) and told.event.reqid not in self.died:
                self.died.add(told.event.reqid)
                told = run_in_memory(
                    route_due_digest(self.rulebook, rule, key, now, no_preferences), self.cells
                )
            if isinstance(told, NotDueYet):
                self.alarms[key] = told.until, rule
                continue
            del self.alarms[key]
            if told is not None:
                assert told.digest is not None
                left = run_in_memory(confirm(key, rule.limits, told.digest.number), self.cells)
                if left:
                    self.alarms[key] = left, rule
                self.told += [(rule.id, each.reqid) for each in told.digest.events]
                self.went.append((now, rule.id, len(told.notifications)))


@settings(max_examples=100, deadline=None)
@given(
    some.lists(some.tuples(some.integers(0, 40), some.integers(0, 3)), max_size=15),
    some.integers(1, 4),
    some.integers(1, 4),
    some.integers(1, 4),
    some.booleans(),
)
def test_no_window_has_more_than_its_budgets_and_every_event_is_told_once(
    arrivals: list[tuple[int, int]], one: int, two: int, both: int, crash: bool
) -> None:
    """Events of four people at any minutes. One event alone may be more than a budget: it has a window alone."""
    gate = Budgeted(_with_budgets(one, two, both), crash=crash)
    hour = RECEIVED - RECEIVED % (60 * MINUTE)
    for number, (minute, user) in enumerate(sorted(arrivals)):
        gate.ring(hour + minute * MINUTE)
        gate.take(number, user, hour + minute * MINUTE)
    for minute in range(41, 41 + 200 * len(arrivals)):
        gate.ring(hour + minute * MINUTE)
    assert sorted(gate.told) == sorted(
        (rule, str(number)) for rule in ("one", "two") for number in range(len(arrivals))
    )
    for rules, limit, length in (({"one"}, one, 10), ({"two"}, two, 10), ({"one", "two"}, both, 20)):
        windows: dict[int, list[int]] = {}
        for at, rule, messages in gate.went:
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
        return policy(Path(folder), rules, **WORDS).require()


def test_a_pool_takes_no_more_than_the_broker_does() -> None:
    pool = DigestBuffer()
    digest = Digest(key=(), wait=1.0, max_events=500)
    for number in range(40):
        pool, _ = append("k", pool, event({"x": "y" * 10_000}, reqid=str(number)), digest, due=5_000_000)
    assert len(pool.events) + pool.more == 40
    assert 20 < len(pool.events) < 27
    alone, _ = append("k", DigestBuffer(), event({"x": "y" * 300_000}), digest, due=5_000_000)
    assert len(alone.events) == 1  # whatever its size: a digest tells of something
    sealed = seal(pool, 7)
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
def test_what_is_preferred(chosen: Any, allowed: list[str], expected: tuple[str, ...]) -> None:
    choices = None if chosen is None else Choices(channels=chosen)
    assert select_channels(choices, "security", allowed, {"email", "sms"}) == expected


def trial(folder: Path, rule: str, preferences: str, expect: str) -> list[str]:
    """The differences of a test about two events of one person."""
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
def test_what_a_person_has_chosen(tmp_path: Path, rule: str, preferences: str, expect: str) -> None:
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
        **WORDS,
    )
    assert made.ok, made.problems
    assert [each.rows for each in run_case(made.require(), made.cases[0]).differences] == []
