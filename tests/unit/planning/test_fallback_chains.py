"""Fallback chains: in plans, in policy tests, and in the output of explain and graph."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from nats.aio.msg import Msg
from support.policy_builders import RECEIVED, event, policy

from engine.broker import MessageMetadata, Topology
from engine.broker.codec import decode_delivery, encode
from engine.cli import cli
from engine.cli.graph import graph_of
from engine.model.messages import Delivery
from engine.pipeline.deliver import DeliveryAttempt
from engine.pipeline.dispatch import messages_for_plan
from engine.planning.draft import drop_last_fallback, link_fallbacks, next_fallback, remaining_recipients
from engine.planning.planner import Plan, plan
from engine.policy.loader import Policy
from engine.policy.testing.coverage import coverage
from engine.policy.testing.runner import CaseResult, run_case
from engine.rules.rulebook import RetryPolicy

WHO = {"userid": "u1", "mailto": "a@example.com", "phone": "+8613800000000"}
TOPOLOGY = Topology()
CHAIN = "{first_of: [sms, email], within: 15m}"
MORE = "people: {ops: {email: [o@example.com, p@example.com], phone: ['+4915100000000', '+4915100000001']}}\n"


def rule(notify: str) -> str:
    return f"{MORE}rules: [{{id: r, event: notice.login.abnormal, template: t, notify: [{notify}]}}]"


def planned(folder: Path, notify: str, payload: Any = WHO, **files: str | bytes) -> Plan:
    return plan(policy(folder, rule(notify), **files).require(), event(payload))


def steps(delivery: Delivery) -> list[tuple[str, tuple[str, ...], float]]:
    return [(each.channel, each.to, each.fallback_after) for each in (delivery, *delivery.fallbacks)]


def skipped(plan_: Plan) -> list[tuple[str, str]]:
    return [(each.channel, each.reason) for each in plan_.suppressed]


def test_a_chain_is_one_delivery_that_contains_the_others(tmp_path: Path) -> None:
    made = planned(tmp_path, CHAIN)
    (delivery,) = made.deliveries
    assert steps(delivery) == [("sms", ("+8613800000000",), 900.0), ("email", ("a@example.com",), 0.0)]
    assert delivery.fallbacks[0].message.title == "Subject"
    assert decode_delivery(encode(delivery)) == delivery
    assert planned(tmp_path, CHAIN).deliveries == made.deliveries


def test_a_fallback_has_another_id_than_the_same_message_without_a_chain(tmp_path: Path) -> None:
    first, mail = planned(tmp_path / "a", f"{CHAIN}, email").deliveries
    assert (first.channel, mail.channel) == ("sms", "email")
    assert first.fallbacks[0].id != mail.id
    # The first step of a chain has the same id as without a chain.
    for notify in (f"sms, {CHAIN}", f"{CHAIN}, sms"):
        (only,) = planned(tmp_path / notify[:1], notify).deliveries
        assert [each.id for each in (only, *only.fallbacks)] == [
            each.id for each in (first, *first.fallbacks)
        ]


@pytest.mark.parametrize(
    ("notify", "payload", "left", "suppressed"),
    [
        (CHAIN, {"phone": None}, ["email"], [("sms", "no_address")]),
        (CHAIN, {"phone": "none"}, ["email"], [("sms", "bad_address")]),
        (CHAIN, {"mailto": None}, ["sms"], [("email", "no_address")]),
        (CHAIN, {"mailto": None, "phone": None}, [], [("sms", "no_address"), ("email", "no_address")]),
        ("{first_of: [{channel: sms, when: {risk.score: 1}}, email]}", {}, ["email"], [("sms", "condition")]),
        ("{first_of: [sms, email], when: {risk.score: 1}}", {}, [], [("sms", "condition")]),
        ("{first_of: [sms, {channel: email, to: ops}, terminal]}", {}, ["sms", "email", "terminal"], []),
    ],
)
def test_a_recipient_without_an_address_for_a_step_is_notified_over_the_next(
    tmp_path: Path, notify: str, payload: Any, left: list[str], suppressed: list[Any]
) -> None:
    made = planned(tmp_path, notify, {**WHO, **payload})
    assert [channel for d in made.deliveries for channel, _, _ in steps(d)] == left
    assert skipped(made) == suppressed
    assert all(each.fallback_after == 0.0 for d in made.deliveries for each in (d, *d.fallbacks)[-1:])


def test_addresses_that_need_a_message_each_are_tried_in_turn(tmp_path: Path) -> None:
    (delivery,) = planned(tmp_path, "{first_of: [sms, email], to: ops}").deliveries
    assert [to for _, to, _ in steps(delivery)] == [
        ("+4915100000000",), ("+4915100000001",), ("o@example.com", "p@example.com"),
    ]  # fmt: skip


def test_the_settings_of_a_chain_apply_to_each_step_and_a_step_can_override_them(tmp_path: Path) -> None:
    templates = {
        "templates__u__default.txt": "{{ vars.a }}{{ vars.b }}",
        "templates__v__sms.txt": "v{{ vars.a }}{{ vars.b }}",
    }
    (delivery,) = planned(
        tmp_path,
        "{first_of: [{channel: sms, template: v, vars: {b: 3}}, terminal], template: u, vars: {a: 1, b: 2}}",
        **templates,
    ).deliveries
    assert [each.message.text for each in (delivery, *delivery.fallbacks)] == ["v13", "12"]


def test_a_step_that_cannot_be_rendered_is_left_out_while_another_remains(tmp_path: Path) -> None:
    broken = {"templates__t__sms.txt": "{{ payload.risk.score }}"}
    made = planned(tmp_path, CHAIN, **broken)
    assert [d.channel for d in made.deliveries] == ["email"]
    assert (skipped(made), made.failures) == ([("sms", "not_rendered")], ())
    alone = planned(tmp_path, CHAIN, {**WHO, "mailto": None}, **broken)
    assert [each.channel for each in alone.failures] == ["sms"]


def test_a_fallback_replaces_the_failed_delivery(tmp_path: Path) -> None:
    (first,) = planned(tmp_path, "{first_of: [sms, email, terminal], within: 15m}").deliveries
    later = first.created + 7
    second = next_fallback(first, at=later)
    third = next_fallback(second, at=later + 2)
    assert (second.id, second.fallback_after, second.deadline_start) == (first.fallbacks[0].id, 900.0, later)
    assert third.fell_back_from is not None and third.fell_back_from.channels == ("sms", "email")
    assert (third.fallback_after, third.fallbacks, third.awaited_since) == (0.0, (), first.created)
    assert remaining_recipients(first, ("x",)).fallbacks == ()  # at another address the person was reached


def test_a_step_is_tried_until_its_timeout(tmp_path: Path) -> None:
    (first,) = planned(tmp_path, CHAIN).deliveries
    retry = RetryPolicy(deadline=3600.0)

    def attempt(number: int, delivery: Delivery = first) -> DeliveryAttempt:
        return DeliveryAttempt(
            msg=cast(Msg, None),
            metadata=MessageMetadata(1, 1, 0),
            delivery=delivery,
            number=number,
            channel_retry=retry,
        )

    def after(seconds: float) -> int:
        return first.created + int(seconds * 1e6)

    assert [attempt(1).is_late(after(s)) for s in (899.5, 900.5)] == [False, True]
    assert [attempt(2).is_late(after(s)) for s in (898.0, 899.5)] == [False, True]  # a wait may end early
    assert attempt(1).seconds_until_fallback(after(600.0)) == 300.0
    last = next_fallback(first, at=after(900.0))
    assert [attempt(2, last).is_late(after(s)) for s in (4499.5, 4500.5)] == [False, True]
    assert attempt(1, last).seconds_until_fallback(after(0.0)) == math.inf


def test_a_chain_that_is_too_large_loses_its_end(tmp_path: Path) -> None:
    (one, two, three) = (
        replace(planned(tmp_path, "sms").deliveries[0], id=str(n) * 32, fallback_after=0.0) for n in range(3)
    )
    whole = link_fallbacks([one, two, three], 900.0)
    assert drop_last_fallback(whole) == link_fallbacks([one, two], 900.0)
    assert drop_last_fallback(drop_last_fallback(whole)) == one
    made = Plan(event=event(WHO), revision="x", deliveries=(whole,))
    room = len(encode(link_fallbacks([one, two], 900.0)))
    assert messages_for_plan(TOPOLOGY, made, len(encode(whole)), 0)[0] == made
    fitted, outgoing = messages_for_plan(TOPOLOGY, made, room, 0)
    assert (fitted.deliveries, skipped(fitted)) == (
        (link_fallbacks([one, two], 900.0),),
        [("sms", "too_large")],
    )
    assert [decode_delivery(each.payload) for each in outgoing] == list(fitted.deliveries)


def test_a_message_that_is_too_large_is_a_failure_and_the_others_are_sent(tmp_path: Path) -> None:
    small = planned(tmp_path, "sms").deliveries[0]
    large = replace(small, id="f" * 32, message=replace(small.message, text="x" * 1000))
    made = Plan(event=event(WHO), revision="x", deliveries=(large, small))
    left, outgoing = messages_for_plan(TOPOLOGY, made, len(encode(small)), 0)
    assert left.deliveries == (small,)
    assert [each.id for each in outgoing] == [small.id]
    assert [(each.delivery, each.channel) for each in left.failures] == [(large.id, large.channel)]


HOURS = """
time_intervals:
  night: {times: ["22:00-07:00"], time_zone: UTC}
  never: {times: ["03:00-03:01"], time_zone: UTC}
"""
NIGHT = RECEIVED - RECEIVED % 86_400_000_000 + 23 * 3_600_000_000
MORNING = NIGHT + 8 * 3_600_000_000


@pytest.mark.parametrize(
    ("chain", "channels", "released", "suppressed"),
    [
        ("[sms, email], mute_time_intervals: [night]", ["sms", "email"], [MORNING, MORNING], []),
        ("[sms, email], mute_time_intervals: [night], on_muted: drop", [], [], ["sms", "email"]),
        ("[{channel: sms, mute_time_intervals: [night]}, email]", ["email"], [0], ["sms"]),
        ("[sms, {channel: email, mute_time_intervals: [night]}]", ["sms", "email"], [0, MORNING], []),
        ("[{channel: sms, active_time_intervals: [never]}, email]", ["email"], [0], ["sms"]),
    ],
)
def test_a_chain_begins_with_the_first_step_that_may_be_sent_now(
    tmp_path: Path, chain: str, channels: list[str], released: list[int], suppressed: list[str]
) -> None:
    book = policy(tmp_path, f"{HOURS}{rule(f'{{first_of: {chain}}}')}").require()
    made = plan(book, replace(event(WHO), received=NIGHT))
    steps = [each for d in made.deliveries for each in (d, *d.fallbacks)]
    assert [each.channel for each in steps] == channels
    assert [each.not_before for each in steps] == released
    assert [each.channel for each in made.suppressed] == suppressed
    assert [held.channel for held in made.held] == (channels[:1] if released[:1] == [MORNING] else [])


def tried(folder: Path, tests: str, notify: str = CHAIN) -> tuple[Policy, list[CaseResult]]:
    made = policy(folder, f"{rule(notify)}\ntests: [{tests}]")
    return made, [run_case(made.require(), case) for case in made.cases]


def case(answers: str, sent: str, failed: str = "") -> str:
    given = f"{{event: notice.login.abnormal, payload: {json.dumps(WHO)}}}"
    expect = f"{{deliveries: [{sent}], failed: [{failed}]}}"
    return f"{{name: 'with {answers}', given: {given}, channels: {{{answers}}}, expect: {expect}}}"


@pytest.mark.parametrize(
    ("answers", "sent", "failed"),
    [
        ("", "{channel: sms}", ""),
        ("sms: refused", "{channel: email, to: a@example.com, title: Subject}", "{channel: sms}"),
        ("sms: deferred", "{channel: email}", "{channel: sms}"),
        ("sms: unknown", "", "{channel: sms}"),
        ("sms: refused, email: refused", "", "{channel: sms}, {channel: email}"),
    ],
)
def test_a_test_of_the_policy_sees_where_a_chain_ends(
    tmp_path: Path, answers: str, sent: str, failed: str
) -> None:
    _, (verdict,) = tried(tmp_path, case(answers, sent, failed))
    assert verdict.ok, verdict.differences


def test_a_failing_test_reports_why_a_fallback_is_missing(tmp_path: Path) -> None:
    _, (verdict,) = tried(tmp_path, case("", "{channel: email}"))
    reasons = [reason for difference in verdict.differences for reason in difference.because]
    assert "r falls back to email only if sms definitely fails, and here its outcome is sent" in reasons


def test_each_step_counts_for_the_coverage(tmp_path: Path) -> None:
    def missing(folder: str, *cases: str) -> list[str]:
        made, verdicts = tried(tmp_path / folder, ", ".join(cases))
        found = coverage(made.require(), [each for verdict in verdicts for each in verdict.plans])
        return [str(each) for each in (*found.notify.missing, *found.locales.missing)]

    assert missing("a", case("", "{}")) == [
        "rule r, notify entry 1 step 2 (email)", "template t, email in en",
    ]  # fmt: skip
    assert missing("b", case("sms: refused", "{}", "{}")) == []


def test_explain_describes_the_chain(tmp_path: Path) -> None:
    policy(tmp_path, rule(CHAIN)).require()
    (tmp_path / "payload.json").write_text(json.dumps(WHO))
    command = [
        "explain",
        str(tmp_path),
        "--event",
        "notice.login.abnormal",
        "--payload",
        str(tmp_path / "payload.json"),
    ]
    output = CliRunner().invoke(cli, command).output
    assert "if sms definitely fails, or is not sent within 15m:" in output
    assert output.index("sms to +8613800000000") < output.index("email to a@example.com")
    document = json.loads(CliRunner().invoke(cli, [*command, "--format", "json"]).output)
    (delivery,) = document["deliveries"]
    assert (delivery["channel"], delivery["within"]) == ("sms", "15m")
    assert [(each["channel"], each["title"]) for each in delivery["fallbacks"]] == [("email", "Subject")]


def test_the_graph_shows_what_has_to_fail(tmp_path: Path) -> None:
    graph = graph_of(policy(tmp_path, rule(CHAIN)).require())
    assert [(arrow.target, arrow.label, arrow.dashed) for arrow in graph.outputs] == [
        ("sms", "", False), ("email", "if sms fails", True),
    ]  # fmt: skip
