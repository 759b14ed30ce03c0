"""Time windows, tested as operators do it: with the policy's own tests on a virtual clock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.policy_builders import event, policy, write

from engine.cli import cli
from engine.planning.planner import plan
from engine.policy.testing.runner import run_case

INTERVALS = """
defaults: {time_zone: Asia/Shanghai}
time_intervals:
  office: {weekdays: ["monday:friday"], times: ["09:00-17:30"]}
  night: {times: ["22:00-07:00"], time_zone: recipient}
people:
  secops: {email: sec@example.com, time_zone: Europe/Berlin}
"""
PAYLOAD = "{userid: u1, mailto: a@example.com, phone: '+8613800000000'}"


def differences(folder: Path, rule: str, at: str, expect: str) -> list[str]:
    made = policy(
        folder,
        f"{INTERVALS}\nrules: [{{id: r, event: notice.login.abnormal, template: t, {rule}}}]\n"
        f"tests:\n- name: x\n  at: '{at}'\n  given: {{event: notice.login.abnormal, payload: {PAYLOAD}}}\n"
        f"  expect: {{{expect}}}\n",
    )
    assert made.ok, made.problems
    return [each.message for each in run_case(made.require(), made.cases[0]).differences]


@pytest.mark.parametrize(
    ("at", "expect"),
    [
        ("2026-03-02T17:29:59+08:00", "deliveries: [{channel: sms}, {channel: terminal}], suppressed: []"),
        (
            "2026-03-02T17:30:00+08:00",
            "deliveries: [{channel: terminal}], suppressed: [{channel: sms, reason: outside_active_time}]",
        ),
        (
            "2026-03-01T10:00:00+08:00",  # a Sunday
            "deliveries: [{channel: terminal}], suppressed: [{channel: sms, reason: outside_active_time}]",
        ),
    ],
)
def test_an_entry_applies_in_its_intervals(tmp_path: Path, at: str, expect: str) -> None:
    rule = "notify: [{channel: sms, active_time_intervals: [office]}, terminal]"
    assert differences(tmp_path, rule, at, expect) == []


@pytest.mark.parametrize(
    ("to", "at", "goes"),
    [
        ("", "2026-03-02T23:30:00+08:00", "2026-03-03T07:00:00+08:00"),
        ("", "2026-03-02T21:59:59+08:00", "2026-03-02T21:59:59+08:00"),
        ("to: secops, ", "2026-03-28T23:30:00+01:00", "2026-03-29T07:00:00+02:00"),
        ("to: secops, ", "2026-10-24T23:30:00+02:00", "2026-10-25T07:00:00+01:00"),
    ],
)
def test_a_muted_message_waits_for_the_morning_of_the_recipient(
    tmp_path: Path, to: str, at: str, goes: str
) -> None:
    rule = f"{to}notify: [email], mute_time_intervals: [night]"
    expect = f"deliveries: [{{channel: email, at: '{goes}'}}], suppressed: []"
    assert differences(tmp_path, rule, at, expect) == []
    earlier = "2026-03-02T12:00:00+08:00"
    assert differences(tmp_path, rule, at, f"deliveries: [{{channel: email, at: '{earlier}'}}]") != []


def test_a_muted_message_can_be_dropped_and_an_entry_can_override_that(tmp_path: Path) -> None:
    rule = "notify: [sms, {channel: email, on_muted: defer}], mute_time_intervals: [night], on_muted: drop"
    expect = (
        "deliveries: [{channel: email, at: '2026-03-03T07:00:00+08:00'}], "
        "suppressed: [{channel: sms, reason: muted}]"
    )
    assert differences(tmp_path, rule, "2026-03-02T23:30:00+08:00", expect) == []


def test_the_deadline_of_a_held_delivery_starts_at_its_release(tmp_path: Path) -> None:
    made = policy(
        tmp_path,
        f"{INTERVALS}\nrules: [{{id: r, event: notice.login.abnormal, template: t, "
        "notify: [email], mute_time_intervals: [night]}]",
    ).require()
    night = 1_772_465_400_000_000  # 2026-03-02T23:30+08:00
    payload = {"userid": "u1", "mailto": "a@example.com"}
    (delivery,) = plan(made, event(payload), night).deliveries
    (held,) = plan(made, event(payload), night).held
    assert delivery.not_before == held.until == night + int(7.5 * 3600e6)
    assert delivery.deadline_start == max(delivery.not_before, delivery.created)
    assert held.delivery == delivery.id
    by_day = plan(made, event(payload), night - int(3 * 3600e6))
    assert not by_day.held
    assert by_day.deliveries[0].id == delivery.id


def test_explain_shows_until_when_a_message_is_held(tmp_path: Path) -> None:
    rules = (
        f"{INTERVALS}\nrules: [{{id: r, event: notice.login.abnormal, template: t, "
        "notify: [terminal], mute_time_intervals: [night]}]"
    )
    folder = write(
        tmp_path,
        {
            "p/rules.yaml": rules,
            "p/channels.yaml": "channels: {terminal: {type: console}}",
            "p/templates/t/default.txt": "Hello",
            "payload.json": "{}",
        },
    )
    arguments = ["explain", str(folder / "p"), "--event", "notice.login.abnormal",
                 "--payload", str(folder / "payload.json"), "--at", "2026-03-02T23:30:00+08:00"]  # fmt: skip
    text = CliRunner().invoke(cli, arguments)
    assert text.exit_code == 0, text.output
    assert "terminal (r): muted, until 2026-03-02T23:00:00Z" in text.output
    document = json.loads(CliRunner().invoke(cli, [*arguments, "--format", "json"]).output)
    assert document["held"] == [
        {"rule": "r", "channel": "terminal", "reason": "muted", "until": "2026-03-02T23:00:00Z"}
    ]
