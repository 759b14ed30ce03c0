"""mss explain: the rules that match, the reasons of the others, the plan, and the masked values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from support.locations import ROOT
from support.policy_builders import event, policy

from engine.cli import cli
from engine.planning.explain import explain, outline, sentence
from engine.planning.limits.state import run_in_memory, state_key
from engine.planning.planner import plan_steps
from engine.planning.recipients import no_preferences
from engine.preferences.document import parse
from engine.rules.conditions import ConditionResult
from engine.rules.paths import parse_path
from engine.rules.rulebook import Dedupe, Digest, Throttle

RULES = """
rules:
  - id: first
    event: notice.login.abnormal
    template: t
    when:
      result: success
      risk.score: {gte: 70, lt: 100}
      any:
        - country: [CN, HK]
        - not: {device.trusted: true}
    notify: [email, sms]
  - id: last
    event: notice.>
    template: t
    stop: true
    priority: 5
    notify: [terminal]
  - id: hidden
    event: notice.login.abnormal
    template: t
    priority: 9
    notify: [terminal]
  - {id: other, event: audit.x.y, template: t, notify: [terminal]}
"""
EVENT = "notice.login.abnormal"
PAYLOAD = {
    "userid": "u1",
    "mailto": "a@example.com",
    "result": "success",
    "risk": {"score": 80},
    "country": "CN",
}


def mss(folder: Path, payload: Any, *more: str, name: str = EVENT) -> Result:
    arguments = ["explain", str(folder), "--event", name, "--payload", "-", *more]
    return CliRunner().invoke(cli, arguments, input=json.dumps(payload))


def document(folder: Path, payload: Any, **files: str | bytes) -> dict[str, Any]:
    assert policy(folder, RULES, **files).ok
    result = mss(folder, payload, "--format", "json")
    assert result.exit_code == 0, result.output
    made: dict[str, Any] = json.loads(result.output)
    return made


def test_the_json_document_has_a_fixed_shape(tmp_path: Path) -> None:
    made = document(tmp_path, PAYLOAD)
    assert list(made) == ["event", "rules", "deliveries", "suppressed"]
    assert made["event"] == EVENT
    first, last, hidden = made["rules"]
    assert list(first) == ["id", "matched", "conditions", "stages"] and "stages" not in last
    assert first["stages"] == [
        {"stage": "address", "reached": True, "details": ["sms: the recipient has no phone"]}
    ]
    assert first["conditions"][0] == {
        "path": "result", "operator": "equals", "expected": "success", "actual": "success", "holds": True,
    }  # fmt: skip
    assert first["conditions"][1]["actual"] == 80
    assert [rule["matched"] for rule in made["rules"]] == [True, True, False]
    assert hidden["stopped_by"] == "last" and "stopped_by" not in last
    assert made["deliveries"] == [
        {
            "rule": "first", "channel": "email", "to": ["a@example.com"], "locale": "en",
            "title": "Subject", "body": "Hello u1",
        },
        {"rule": "last", "channel": "terminal", "to": [], "locale": "en", "title": "", "body": "Hello u1"},
    ]  # fmt: skip
    assert made["suppressed"] == [
        {"rule": "first", "channel": "sms", "reason": "no_address", "detail": "the recipient has no phone"}
    ]


def test_conditions_that_do_not_hold_are_shown(tmp_path: Path) -> None:
    made = document(tmp_path, {"result": "success", "device": {"trusted": True}})
    first = made["rules"][0]
    assert not first["matched"]
    result, score, either = first["conditions"]
    assert (result["holds"], score["holds"], either["holds"]) == (True, False, False)
    assert score["absent"] is True and score["actual"] is None
    assert either["operator"] == "any" and [each["holds"] for each in either["inside"]] == [False, False]


def test_a_template_that_cannot_be_rendered_is_reported(tmp_path: Path) -> None:
    made = document(tmp_path, PAYLOAD, **{"templates__t__default.txt": "{{ payload.gone }}"})
    assert [(f["rule"], f["channel"]) for f in made["failures"]] == [("last", "terminal")]
    assert "gone" in mss(tmp_path, PAYLOAD).output


def test_the_text_fits_a_terminal(tmp_path: Path) -> None:
    assert policy(tmp_path, RULES, **{"templates/t/default.txt": "word " * 60}).ok
    result = mss(tmp_path, {**PAYLOAD, "result": "failure"}, "--at", "2026-03-02T23:30:00+08:00")
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80 and not [line for line in lines if line != line.rstrip()]
    assert lines[0].startswith(f"{EVENT} at 2026-03-02T15:30:00Z, revision ")
    start = lines.index("no   first")
    assert lines[start + 1] == '     ✗ result equals "success": it is "failure"   <- the first that fails'
    assert "yes  last  stops the evaluation" in lines
    assert "no   hidden  last stopped the evaluation" in lines
    assert "1 more rule for other events" in lines
    assert "1 message" in lines
    assert "  terminal to nobody in particular, in en (last)" in lines


def test_only_the_first_condition_that_does_not_hold_is_marked(tmp_path: Path) -> None:
    assert policy(tmp_path, RULES).ok
    output = mss(tmp_path, {"result": "failure", "risk": {"score": 1}}).output
    assert output.count("the first that fails") == 1
    assert output.count("✗") > 1


def test_a_rule_in_shadow_mode_is_reported(tmp_path: Path) -> None:
    assert policy(
        tmp_path, "rules: [{id: r, event: notice.>, template: t, enabled: shadow, notify: [terminal]}]"
    ).ok
    output = mss(tmp_path, {}).output
    assert "yes  r  in shadow mode: nothing is sent" in output
    assert "terminal (r): shadow" in output and "0 messages" in output


SECRET_SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "code": {"type": "integer", "x-mss-sensitive": True},
            "link": {"type": "string", "x-mss-sensitive": True},
        },
    }
)


def test_a_payload_cannot_control_the_terminal(tmp_path: Path) -> None:
    assert policy(tmp_path, RULES, **{"templates/t/default.txt": "Hello {{ payload.name }}"}).ok
    output = mss(tmp_path, {"name": "\x1b]0;title\x07\x9b31m", "result": "\x1b[2J"}).output
    assert "Hello" in output and not [char for char in output if not char.isprintable() and char != "\n"]


@pytest.mark.parametrize("format_", ["text", "json"])
def test_secrets_are_masked_wherever_they_are(tmp_path: Path, format_: str) -> None:
    rules = """
    rules:
      - id: r
        event: notice.code
        template: t
        when: {code: {gte: 1}, link: {prefix: "https://"}, any: [{link: {exists: true}}, {code: 271828}]}
        dedupe: {key: [code, link], window: 1m}
        notify: [terminal, {channel: siem, when: {link: {suffix: x}, code: 1}}]
    """
    files = {
        "events/notice/code.schema.json": SECRET_SCHEMA,
        "templates/t/default.txt": "{{ payload.code }} {{ payload.link }}",
    }
    assert policy(tmp_path, rules, **files).ok
    result = mss(
        tmp_path, {"code": 271828, "link": "https://x.example/tok3n"}, "--format", format_, name="notice.code"
    )
    assert result.exit_code == 0, result.output
    assert "271828" not in result.output and "tok3n" not in result.output
    assert result.output.count("***") >= 8


LIMITED = """
time_intervals: {night: {times: ["22:00-07:00"], time_zone: recipient}}
defaults: {budget: 1000/h}
rules:
  - id: r
    event: notice.login.abnormal
    template: t
    category: security
    notify: [preferred, {channel: terminal, when: {risk.score: {gte: 90}}}]
    allow: [email, sms]
    mute_time_intervals: [night]
    dedupe: {key: [userid, ip], window: 10m}
    throttle: {key: [userid], limit: 5, per: 1h, on_limit: digest}
    budget: 100/h
"""
Counting = Dedupe | Throttle | Digest
NIGHT = ("--at", "2026-03-02T23:30:00Z")


def stages(folder: Path, *more: str, rules: str = LIMITED, **payload: Any) -> list[str]:
    """Return the lines about stages, unwrapped."""
    assert policy(folder, rules).ok
    output = mss(folder, {**PAYLOAD, **payload}, *NIGHT, *more).output
    lines = output.partition("\n\n")[2].partition("\n\n")[0].splitlines()[1:]
    return " ".join(f"| {line.strip()}" if line[5] != " " else line.strip() for line in lines).split("| ")[1:]


def test_stages_are_shown_in_their_order(tmp_path: Path) -> None:
    budgets = [
        "budget        100 messages in each 1h, the rest is digested",
        "budget        of the whole policy: 1000 messages in each 1h, the rest is digested",
    ]
    counted = [
        'dedupe        by userid "u1", ip (absent): the first within 10m passes',
        'throttle      by userid "u1": 5 pass in any 1h, the rest is digested',
    ]
    condition = "condition     terminal: risk.score gte 90: it is 80"
    waits = "time windows  email: muted, held until 2026-03-03T07:00:00Z"

    def shown(*more: str, rules: str = LIMITED, **payload: Any) -> list[str]:
        return [line.strip() for line in stages(tmp_path, *more, rules=rules, **payload)]

    assert shown() == [condition, *counted, waits, *budgets]
    assert shown("--preferences", "{u2: {}}")[1] == "preferences   u1 has no preferences"
    by_sms = shown("--preferences", '{"u1": {"security": ["sms"]}}')
    assert by_sms == [
        condition,
        "preferences   u1, for security: email off, sms on",
        "address       sms: the recipient has no phone",
        *(
            f"{name:<12}  not evaluated: no message is left"
            for name in ("dedupe", "throttle", "budget", "budget")
        ),
    ]
    critical = LIMITED.replace("category:", "critical: true\n    category:")
    assert shown("--preferences", "{u1: {default: []}}", rules=critical) == [
        condition,
        "preferences   u1, for security: email off, sms off; the rule is critical and notifies anyway",
        *counted,
        waits,
        *budgets,
    ]
    digest = LIMITED.replace("dedupe:", "digest: {key: userid, wait: 2m, interval: 30m}\n    dedupe:")
    assert shown(rules=digest)[1:] == [
        *counted,
        'digest        by userid "u1": digested 2m after the first event, and 30m after the last digest',
        *budgets,
    ]
    day = LIMITED.replace("22:00-07:00", "03:00-04:00")
    assert "time windows  open now" in shown(rules=day)
    dropped = LIMITED.replace(
        "mute_time_intervals: [night]", "mute_time_intervals: [night]\n    on_muted: drop"
    )
    assert (
        shown(rules=dropped)[-3:]
        == ["time windows  email: muted"] + ["budget        not evaluated: no message is left"] * 2
    )


@pytest.mark.parametrize(
    "chosen", [None, {"security": []}, {"security": ["sms"]}], ids=["none", "off", "unreachable"]
)
def test_a_limit_counts_an_event_under_the_key_that_is_shown(
    tmp_path: Path, chosen: dict[str, Any] | None
) -> None:
    rules = LIMITED.replace("dedupe:", "digest: {key: userid, wait: 2m}\n    dedupe:")
    book, one = policy(tmp_path, rules).require(), event(PAYLOAD)
    choices_of = {"u1": parse(chosen)}.get if chosen else no_preferences
    values: dict[str, bytes] = {}
    run_in_memory(plan_steps(book, one, one.received, choices_of), values)
    stages = [
        stage for stage in explain(book, one, choices_of).stages["r"] if isinstance(stage.limit, Counting)
    ]
    keys = {
        state_key(stage.name, "r", map(parse_path, stage.key), one) for stage in stages if stage.is_reached
    }
    assert len(stages) == 3 and keys == set(values) and bool(keys) is (chosen is None)


def test_preferences_decide_the_channels(tmp_path: Path) -> None:
    assert policy(tmp_path / "policy", LIMITED).ok
    chosen = tmp_path / "chosen.yaml"
    chosen.write_text(
        "u1: {security: [sms], quiet_hours: '22:00-07:00', addresses: {phone: '+8613800000000'}}\n"
    )
    result = mss(
        tmp_path / "policy",
        PAYLOAD,
        "--at",
        "2026-03-02T12:00:00Z",
        "--preferences",
        str(chosen),
        "--format",
        "json",
    )
    made = json.loads(result.output)
    assert [(each["channel"], each["to"]) for each in made["deliveries"]] == [("sms", ["+8613800000000"])]
    (rule,) = made["rules"]
    assert rule["stages"][2] == {
        "stage": "dedupe", "key": {"userid": ["u1"], "ip": []}, "reached": True,
        "details": ['by userid "u1", ip (absent): the first within 10m passes'],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("nowhere.yaml", "nowhere.yaml: No such file"),
        ("{u1: [", "'--preferences': 1:7: "),
        (
            "{u1: {locale: '??'}, u2: {quiet_hours: late}}",
            "u1: locale: '??' is no language such as zh-CN; u2: ",
        ),
        ("{security: [sms]}", "security: preferences are a mapping such as {security: [sms]}"),
    ],
)
def test_invalid_preferences_are_reported(tmp_path: Path, written: str, problem: str) -> None:
    assert policy(tmp_path, LIMITED).ok
    result = mss(tmp_path, PAYLOAD, "--preferences", written)
    assert result.exit_code == 2 and problem in " ".join(result.output.split()), result.output


def test_preferences_that_are_not_offered_are_reported_with_the_plan(tmp_path: Path) -> None:
    assert policy(tmp_path, LIMITED).ok
    chosen = '{"u1": {"secruity": ["sms"], "security": ["pigeon"]}}'
    result = mss(tmp_path, PAYLOAD, "--preferences", chosen, "--format", "json")
    assert json.loads(result.stdout)["deliveries"]
    assert result.stderr.splitlines() == [
        "the policy does not allow this preference of u1: secruity: there is no such category; did you mean 'security'?",
        "the policy does not allow this preference of u1: security: pigeon is not offered",
    ]


def test_a_misspelled_event_matches_no_rule(tmp_path: Path) -> None:
    assert policy(tmp_path, RULES.replace("notice.>", "log.>")).ok
    result = mss(tmp_path, {}, name="notice.login.abnromal")
    assert result.exit_code == 0
    assert "4 rules for other events" in result.output
    assert "No rule is for notice.login.abnromal; did you mean 'notice.login.abnormal'?" in result.output


@pytest.mark.parametrize(
    ("arguments", "input_"),
    [
        (["--event", "notice.x"], "{}"),
        (["--event", "notice", "--payload", "-"], "{}"),
        (["--event", "notices.x", "--payload", "-"], "{}"),
        (["--event", "notice.*", "--payload", "-"], "{}"),
        (["--event", "notice..x", "--payload", "-"], "{}"),
        (["--event", "notice.x", "--payload", "-"], "[]"),
        (["--event", "notice.x", "--payload", "-"], "{"),
        (["--event", "notice.x", "--payload", "-"], '{"a": NaN}'),
        (["--event", "notice.x", "--payload", "-"], "[" * 100_000),
        (["--event", "notice.x", "--payload", "-", "--at", "noon"], "{}"),
        (["--event", "notice.x", "--payload", "-", "--at", "2026-01-01T00:00:00"], "{}"),
        (["--payload", "-"], "{}"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], input_: str) -> None:
    result = CliRunner().invoke(cli, ["explain", str(ROOT / "rules"), *arguments], input=input_)
    assert result.exit_code == 2, result.output


@pytest.mark.parametrize("format_", ["text", "json"])
def test_a_policy_with_errors_is_not_explained(tmp_path: Path, format_: str) -> None:
    policy(tmp_path, "rules: [{id: r, event: notice.x.y, notify: [emial], template: t}]")
    result = mss(tmp_path, {}, "--format", format_)
    assert result.exit_code == 1 and "unknown channel 'emial'" in result.output


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "result": st.sampled_from(["success", "failure"]),
            "country": st.sampled_from(["CN", "DE", None]),
            "risk": st.fixed_dictionaries({"score": st.integers(60, 110)}),
            "device": st.fixed_dictionaries({"trusted": st.booleans()}),
        },
    ),
    st.sampled_from([EVENT, "notice.x", "audit.x.y", "audit.z"]),
)
def test_the_explanation_agrees_with_the_plan_of_the_server(
    tmp_path_factory: pytest.TempPathFactory, payload: dict[str, Any], name: str
) -> None:
    book = _rulebook(tmp_path_factory)
    explanation = explain(book, event(payload, name))
    assert [c.rule.id for c in explanation.considered if c.matched] == [
        match.rule.id for match in explanation.plan.matches
    ]
    assert len(explanation.considered) + explanation.others == len(book.rules)


_MADE: list[Any] = []


def _rulebook(factory: pytest.TempPathFactory) -> Any:
    if not _MADE:
        _MADE.append(policy(factory.mktemp("explain"), RULES).require())
    return _MADE[0]


def test_conditions_become_sentences() -> None:
    def leaf(**more: Any) -> ConditionResult:
        return ConditionResult(**{"path": "a", "operator": "equals", "expected": 1, "holds": False, **more})

    assert sentence(leaf(actual="1")) == 'a equals 1: it is "1"'
    assert sentence(leaf(present=False)) == "a equals 1: it is not there"
    assert sentence(leaf(actual=1, holds=True)) == "a equals 1"
    assert sentence(leaf(operator="all", expected={"gt": 1}, actual=None)) == 'a {"gt": 1}: it is null'
    assert sentence(leaf(actual="x" * 100)).endswith("x…")
    block = ConditionResult(
        path="", operator="any", expected=[], holds=False, inside=(leaf(actual=2), leaf(actual=3))
    )
    assert sentence(block) == "none of these holds: a equals 1: it is 2; a equals 1: it is 3"
    assert [(depth, holds) for depth, holds, _ in outline(block)] == [(0, False), (1, False), (1, False)]
