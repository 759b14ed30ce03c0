"""Tests of actions in a policy: the reply, the messages, and the reasons for a difference."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.policy_builders import policy

from engine.policy.testing.runner import CaseResult, run_case

ACTION = "verify: {handler: notify, channel: [sms, email], to: {email: to, phone: phone}, template: t}"


def tried(folder: Path, given: str, expect: str, answers: str = "") -> CaseResult:
    test = f"{{name: x, given: {given}, channels: {{{answers}}}, expect: {{{expect}}}}}"
    made = policy(folder, f"actions: {{{ACTION}}}\ntests: [{test}]")
    (case,) = made.cases
    return run_case(made.require(), case)


BOTH = "{action: verify, payload: {to: a@example.com, phone: '+8613800000000'}}"


@pytest.mark.parametrize(
    ("answers", "expect"),
    [
        ("", "reply: {code: 0, message: ok}, deliveries: [{channel: sms}], failed: []"),
        (
            "sms: refused",
            "reply: {code: 0}, deliveries: [{rule: verify, channel: email}], failed: [{channel: sms}]",
        ),
        ("sms: deferred", "reply: {code: 0}, deliveries: [{channel: email, contains: Hello}]"),
        ("sms: unknown", "reply: {message: 'outcome unknown: it may have been carried out'}, deliveries: []"),
        ("sms: refused, email: deferred", "reply: {code: 1, message: 'not delivered: try again later'}"),
    ],
)
def test_a_test_gets_the_reply_of_the_server(tmp_path: Path, answers: str, expect: str) -> None:
    verdict = tried(tmp_path, BOTH, expect, answers)
    assert verdict.ok, verdict.differences


def test_each_request_has_its_reply_and_events_may_be_mixed_in(tmp_path: Path) -> None:
    given = f"[{BOTH}, {{event: log, payload: {{}}}}, {{action: verify, after: 5m, payload: {{phone: x}}}}]"
    expect = "reply: [{code: 0}, {code: 1, message: 'email address invalid: mail: no address'}], rules: []"
    verdict = tried(tmp_path, given, expect)
    assert verdict.ok, verdict.differences
    assert [plan.event.name for plan in verdict.plans] == ["log"]


def test_a_difference_shows_both_sides_and_the_reason(tmp_path: Path) -> None:
    verdict = tried(tmp_path, BOTH, "reply: {code: 0}, deliveries: [{channel: fax}]".replace("fax", "email"),
                    "sms: refused, email: refused")  # fmt: skip
    missing, reply = verdict.differences
    assert missing.about == "deliveries" and "email has the outcome refused in this test" in missing.because
    assert (reply.about, reply.rows[0].expected, reply.rows[0].actual) == ("reply", "0", "1")


def test_a_template_that_cannot_be_rendered_is_reported(tmp_path: Path) -> None:
    test = f"{{name: x, given: {BOTH}, expect: {{reply: {{code: 0}}}}}}"
    made = policy(
        tmp_path,
        f"actions: {{{ACTION.replace('[sms, email]', 'sms')}}}\ntests: [{test}]",
        **{"templates__t__sms.txt": "{{ payload.nothing }}"},
    )
    (difference,) = run_case(made.require(), made.cases[0]).differences
    assert "nothing" in difference.because[0]
