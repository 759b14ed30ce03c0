"""A redelivered event: the recorded plan applies, whatever the limits would decide now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from support.policy_builders import RECEIVED, event, policy

from engine.broker import RESENT_HEADER, OutgoingMessage, Topology
from engine.history import entries
from engine.pipeline.dispatch import messages_for_plan
from engine.planning import records
from engine.planning.draft import route
from engine.planning.limits.state import run_in_memory
from engine.planning.planner import Plan, plan_from_record, plan_steps
from engine.planning.recipients import Choices, ChoicesOf, no_preferences
from engine.preferences.document import parse
from engine.rules.rulebook import Rulebook

HOUR = 3_600_000_000  # microseconds
NIGHT = RECEIVED + 12 * HOUR
PAYLOAD = {"userid": "u1", "mailto": "a@example.com", "phone": "+8613800000000", "ip": "203.0.113.9"}


def book(folder: Path, *rules: str, more: str = "") -> Rulebook:
    written = ", ".join(f"{{event: notice.login.abnormal, template: t, {rule}}}" for rule in rules)
    return policy(folder, f"rules: [{written}]\n{more}").require()


def first(rulebook: Rulebook, values: dict[str, bytes], now: int = RECEIVED, reqid: str = "r") -> Plan:
    return run_in_memory(plan_steps(rulebook, event(PAYLOAD, reqid=reqid), now), values)


def written_down(planned: Plan, at: int = RECEIVED) -> records.PlanRecord:
    """Return the plan as it is read from the history."""
    entry = entries.read_entry(entries.plan_entry(Topology(), planned, at=at, id_="x").payload)
    assert isinstance(entry, records.PlanRecord)
    return entry


def again(
    rulebook: Rulebook,
    recorded: records.PlanRecord,
    now: int = NIGHT,
    choices_of: ChoicesOf = no_preferences,
    reqid: str = "r",
) -> Plan:
    return plan_from_record(route(rulebook, event(PAYLOAD, reqid=reqid), choices_of), recorded, now)


@pytest.mark.parametrize(
    "limit",
    [
        "dedupe: {key: userid, window: 1m}",
        "throttle: {key: userid, limit: 1, per: 1m}",
        "throttle: {key: userid, limit: 1, per: 1m, on_limit: digest}",
        "digest: {key: userid, wait: 1m}",
    ],
)
def test_a_recorded_plan_applies_whatever_the_limits_say_now(tmp_path: Path, limit: str) -> None:
    rulebook = book(tmp_path, f"id: r, notify: [sms, email], {limit}")
    values: dict[str, bytes] = {}
    for name in ("a", "b", "c"):
        planned = first(rulebook, values, reqid=name)
        same = again(rulebook, written_down(planned), reqid=name)
        assert same.deliveries == planned.deliveries
        assert (same.suppressed, same.held) == (planned.suppressed, planned.held)
        # The record does not show whether it set the timer; a second timer does no harm.
        assert {*planned.timers} <= {*same.timers} and len({*same.timers}) == bool(planned.held)


HOURS = """
time_intervals:
  night: [{times: ["20:00-24:00", "00:00-06:00"], time_zone: UTC}]
"""


def test_time_windows_apply_as_of_the_recorded_plan(tmp_path: Path) -> None:
    rules = (
        "id: waits, notify: [sms, {first_of: [{channel: email}, {channel: sms}]}], mute_time_intervals: [night], on_muted: defer",
        "id: goes, notify: [sms], mute_time_intervals: [night]",
    )
    rulebook = book(tmp_path, *rules, more=HOURS)
    for at in (RECEIVED, NIGHT):
        planned = first(rulebook, {}, at)
        for now in (RECEIVED, NIGHT, NIGHT + 12 * HOUR):
            same = again(rulebook, written_down(planned, at), now)
            assert same.deliveries == planned.deliveries
            assert (same.suppressed, same.held) == (planned.suppressed, planned.held)
    assert any(delivery.not_before for delivery in first(rulebook, {}, NIGHT).deliveries)


def test_a_held_message_may_be_sent_when_its_window_has_opened(tmp_path: Path) -> None:
    rule = "id: waits, notify: [sms], mute_time_intervals: [night], on_muted: defer"
    planned = first(book(tmp_path, rule, more=HOURS), {}, NIGHT)
    (delivery,) = planned.deliveries

    def stored(now: int) -> OutgoingMessage:
        _, (outgoing,) = messages_for_plan(Topology(), planned, 10_000, now, {RESENT_HEADER: "1"})
        return outgoing

    assert "Nats-Schedule" in stored(delivery.not_before - 1).headers
    assert stored(delivery.not_before).headers == {
        RESENT_HEADER: "1"
    }  # its channel looks whether it was sent


def choosing(document: dict[str, Any]) -> ChoicesOf:
    choices: Choices = parse(document)
    return lambda _: choices


def test_later_quiet_hours_do_not_move_a_held_message(tmp_path: Path) -> None:
    rulebook = book(tmp_path, "id: r, category: tips, notify: [sms]")
    planned = first(rulebook, {})
    quiet = choosing({"quiet_hours": "00:00-23:59"})
    assert again(rulebook, written_down(planned), choices_of=quiet).deliveries == planned.deliveries


def test_a_rule_that_no_longer_asks_for_a_recorded_message_applies_as_of_now(tmp_path: Path) -> None:
    """It is unknown whether the recorded message was stored: twice is better than never."""
    planned = first(book(tmp_path / "a", "id: r, notify: [sms]", "id: q, notify: [sms]"), {})
    changed = book(tmp_path / "b", "id: r, notify: [email]", "id: q, notify: [sms]", "id: new, notify: [sms]")
    made = again(changed, written_down(planned))
    assert {(each.rule, each.channel) for each in made.deliveries} == {("r", "email"), ("q", "sms")}
    assert [match.rule.id for match in made.matches] == ["r", "q"]


def test_a_message_that_a_budget_withheld_stays_withheld(tmp_path: Path) -> None:
    rulebook = book(tmp_path, "id: r, notify: [sms, email]")
    planned = first(rulebook, {})
    entry = written_down(planned)
    shorter = structs.replace(entry, deliveries=entry.deliveries[:1])
    assert again(rulebook, shorter).deliveries == planned.deliveries[:1]
