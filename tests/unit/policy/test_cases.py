"""The tests of a policy: results, reasons of failures, and coverage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from support.locations import ROOT
from support.policy_builders import policy, write

from engine.cli import cli
from engine.documents import schemas
from engine.model.times import parse_time
from engine.policy.testing.cases import DEFAULT_AT
from engine.policy.testing.comparison import FieldComparison, match_expectations
from engine.policy.testing.coverage import coverage
from engine.policy.testing.runner import CaseResult, Difference, run_case

PAYLOAD = "{userid: u1, mailto: a@example.com, phone: '+8613800000000', result: success}"
RULE = "{id: r, event: notice.login.abnormal, template: t, notify: [email, sms], when: {result: success}}"


def mss(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def verdict(
    folder: Path,
    expect: str,
    *,
    rules: str = RULE,
    payload: str = PAYLOAD,
    more: str = "",
    **files: str | bytes,
) -> CaseResult:
    """How a test of one event comes out."""
    made = policy(
        folder,
        f"rules: [{rules}]\n"
        f"tests:\n- name: x\n  given: {{event: notice.login.abnormal, payload: {payload}}}\n  {more}\n"
        f"  expect: {{{expect}}}\n",
        **files,
    )
    assert made.ok, made.problems
    return run_case(made.require(), made.cases[0])


def only(verdict_: CaseResult) -> Difference:
    (difference,) = verdict_.differences
    return difference


def compared(difference: Difference) -> dict[str, tuple[str, str, bool]]:
    return {row.field: (row.expected, row.actual, row.agrees) for row in difference.rows}


@pytest.mark.parametrize(
    "expect",
    [
        "rules: [r]",
        "rules: [r], deliveries: [{channel: sms}, {channel: email}]",  # in any order
        "deliveries: [{}, {}]",
        "deliveries: [{}, {channel: sms}]",  # the first names nothing, and must not take the second's
        "deliveries: [{channel: sms}, {}]",
        "deliveries: [{to: a@example.com, rule: r, title: Subject}, {to: ['+86 138 0000 0000']}]",
        "deliveries: [{channel: email, locale: EN, contains: Hello   u1}, {contains: [Hello, u1]}]",
        "deliveries: [{channel: email, contains: Subject}, {}]",  # in the title
        "suppressed: []",
        "failed: []",
    ],
)
def test_these_expectations_hold(tmp_path: Path, expect: str) -> None:
    assert verdict(tmp_path, expect).differences == ()


@pytest.mark.parametrize(
    ("expect", "about"),
    [
        ("rules: []", "rules"),
        ("rules: [r, r]", "rules"),
        ("deliveries: []", "deliveries"),
        ("deliveries: [{channel: sms}]", "deliveries"),
        ("deliveries: [{channel: sms}, {channel: sms}, {channel: email}]", "deliveries"),
        ("deliveries: [{channel: email, title: subject}, {channel: sms}]", "deliveries"),
        ("deliveries: [{channel: email, to: [a@example.com, b@example.com]}, {channel: sms}]", "deliveries"),
        ("deliveries: [{channel: email, contains: [Hello, nobody]}, {channel: sms}]", "deliveries"),
        ("deliveries: [{channel: email, locale: zh-CN}, {channel: sms}]", "deliveries"),
        ("suppressed: [{channel: email}]", "suppressed"),
        ("failed: [{channel: email}]", "failed"),
    ],
)
def test_these_expectations_fail(tmp_path: Path, expect: str, about: str) -> None:
    assert {difference.about for difference in verdict(tmp_path, expect).differences} == {about}


def test_a_missing_rule_says_which_condition_did_not_hold(tmp_path: Path) -> None:
    difference = only(verdict(tmp_path, "rules: [r]", payload="{result: failure}"))
    assert difference.because == ('r does not match: result equals "success": it is "failure"',)
    assert difference.rows == (FieldComparison(field="rule", expected="r", actual="", agrees=False),)


@pytest.mark.parametrize(
    ("rules", "because"),
    [
        (
            "{id: s, event: notice.login.abnormal, template: t, notify: [sms], stop: true, priority: -1}, " + RULE,
            "r comes after s, which says stop",
        ),
        (
            "{id: r, event: [notice.x.y, audit.>], to: {phone: p}, template: t, notify: [sms]}",
            "r looks at notice.x.y, audit.>, and the event is notice.login.abnormal",
        ),
        (
            "{id: r, event: notice.login.abnormal, template: t, notify: [sms], enabled: false}",
            "r is switched off",
        ),
    ],
)  # fmt: skip
def test_other_reasons_why_a_rule_is_missing(tmp_path: Path, rules: str, because: str) -> None:
    assert because in verdict(tmp_path, "rules: [r]", rules=rules).differences[0].because


def test_two_orders_are_shown_side_by_side(tmp_path: Path) -> None:
    other = RULE.replace("id: r", "id: s")
    difference = only(verdict(tmp_path, "rules: [s, r]", rules=f"{RULE}, {other}"))
    assert difference.message == "the rules match in another order"
    assert [(row.expected, row.actual) for row in difference.rows].count(("s", "s")) == 1


def test_a_missing_delivery_has_a_reason(tmp_path: Path) -> None:
    nobody = verdict(tmp_path / "a", "deliveries: [{channel: sms}]", payload="{result: success}")
    assert only(nobody).because == ("r suppressed it over sms: no_address: the recipient has no phone",)
    entry = RULE.replace("[email, sms]", "[{channel: sms, when: {risk.score: {gte: 90}}}]")
    closed = only(verdict(tmp_path / "b", "deliveries: [{channel: sms}]", rules=entry))
    assert closed.because == (
        "r suppressed it over sms: condition",
        "risk.score gte 90: it is not there",
    )
    silent = verdict(tmp_path / "c", "deliveries: [{channel: email}, {channel: sms}, {channel: terminal}]")
    assert only(silent).because == ("no rule for notice.login.abnormal notifies anybody over terminal",)
    unmatched = only(verdict(tmp_path / "d", "deliveries: [{channel: sms}]", payload="{userid: u1}"))
    assert unmatched.because == ('r does not match: result equals "success": it is not there',)


def test_a_missing_delivery_does_not_list_every_rule(tmp_path: Path) -> None:
    rules = ", ".join(RULE.replace("id: r", f"id: r{number}") for number in range(8))
    difference = only(verdict(tmp_path, "deliveries: [{channel: sms}]", rules=rules, payload="{}"))
    assert len(difference.because) == 6
    assert difference.because[0].startswith("r0 does not match")
    assert difference.because[-1] == "3 more rules can make it and do not match"


def test_a_wrong_delivery_is_shown_with_the_nearest_expectation(tmp_path: Path) -> None:
    difference = only(
        verdict(tmp_path, "deliveries: [{channel: email, to: b@example.com, contains: Bye}, {channel: sms}]")
    )
    assert compared(difference) == {
        "channel": ("email", "email", True),
        "to": ("b@example.com", "a@example.com", False),
        "contains": ("Bye", "Hello u1", False),
    }


def test_to_lists_all_addresses_in_order(tmp_path: Path) -> None:
    two = PAYLOAD.replace("a@example.com", "[a@example.com, b@example.com]")
    for name, to, ok in (
        ("a", "[a@example.com, b@example.com]", True),
        ("b", "a@example.com", False),
        ("c", "[b@example.com, a@example.com]", False),  # the first is To, the rest Cc
    ):
        expect = f"deliveries: [{{channel: email, to: {to}}}, {{channel: sms}}]"
        assert verdict(tmp_path / name, expect, payload=two).ok is ok


def test_every_part_of_a_mail_must_contain_the_text(tmp_path: Path) -> None:
    html = {"templates__t__email.html": "<p>Good <b>day</b></p>"}
    assert verdict(tmp_path / "a", "deliveries: [{channel: email, contains: Hello}, {}]", **html).ok is False
    difference = only(verdict(tmp_path / "b", "deliveries: [{channel: email, contains: Hello}, {}]", **html))
    assert compared(difference)["contains"][1] == "(the HTML without it)\nGood day"
    both = {"templates__t__email.html": "<p>Hello <b>u1</b></p>"}
    assert verdict(tmp_path / "c", "deliveries: [{channel: email, contains: Hello u1}, {}]", **both).ok


@pytest.mark.parametrize("answer", ["refused", "deferred", "unknown"])
def test_a_delivery_that_its_channel_does_not_send_has_failed(tmp_path: Path, answer: str) -> None:
    answers = f"channels: {{email: {answer}}}"
    expect = "deliveries: [{channel: sms}], failed: [{channel: email, to: a@example.com}]"
    assert verdict(tmp_path / "a", expect, more=answers).ok
    difference = only(verdict(tmp_path / "b", "deliveries: [{channel: email}, {channel: sms}]", more=answers))
    assert difference.because == (f"email has the outcome {answer} in this test",)
    assert verdict(tmp_path / "c", "failed: [{channel: email}]").differences[0].because == (
        "r sent it over email",
    )
    assert verdict(tmp_path / "d", "deliveries: [{}, {}]", more="channels: {email: sent}").ok


def test_a_template_that_cannot_be_rendered_fails_any_test(tmp_path: Path) -> None:
    broken = {"templates__t__default.txt": "{{ payload.device.name }}"}
    difference = only(verdict(tmp_path, "rules: [r]", **broken))
    assert difference.about == "template"
    assert difference.message == "r could not render its message for sms"
    assert "device" in difference.because[0]


def test_the_virtual_clock_advances(tmp_path: Path) -> None:
    made = policy(
        tmp_path,
        """
        rules: [{id: r, event: notice.a.*, template: t, notify: [terminal]}]
        tests:
          - name: several events
            at: "2026-03-02T23:30:00+08:00"
            given:
              - {event: notice.a.b}
              - {event: notice.a.c, after: 5m}
              - {event: notice.x.y, after: 1h}
            expect:
              rules: [r, r]
              deliveries:
                - {contains: "15:30:00"}
                - {contains: "15:35:00"}
        """,
        **{"templates/t/default.txt": "{{ event.received }}"},
    )
    (case,) = made.cases
    assert [event.received - case.events[0].received for event in case.events] == [
        0,
        300_000_000,
        3_900_000_000,
    ]
    assert len({event.reqid for event in case.events}) == 3
    assert run_case(made.require(), case).differences == ()


def test_the_clock_starts_at_the_time_in_the_schema(tmp_path: Path) -> None:
    default = schemas.load("policy")["$defs"]["test"]["properties"]["at"]["default"]
    assert parse_time(default) == DEFAULT_AT
    made = policy(tmp_path, "tests: [{name: x, given: {event: log}, expect: {rules: []}}]")
    assert made.cases[0].events[0].received == DEFAULT_AT.timestamp() * 1_000_000
    assert made.cases[0].events[0].name == "log"


def test_keys_are_spelled_as_on_the_server(tmp_path: Path) -> None:
    assert verdict(tmp_path, "rules: [r]", payload="{Result: success}").ok


@pytest.mark.parametrize(
    ("keys", "at", "code", "hint"),
    [
        ("expect: {rules: [rr]}", "rr", "unknown-rule", "did you mean 'r'?"),
        ("expect: {deliveries: [{channel: emial}]}", "emial", "unknown-channel", "did you mean 'email'?"),
        ("expect: {deliveries: [{rule: zz}]}", "zz", "unknown-rule", ""),
        ("expect: {suppressed: [{channel: smss}]}", "smss", "unknown-channel", "did you mean 'sms'?"),
        ("expect: {failed: [{channel: smss}]}", "smss", "unknown-channel", "did you mean 'sms'?"),
        ("expect: {rules: []}, channels: {emial: sent}", "emial", "unknown-channel", "did you mean 'email'?"),
        ("expect: {rules: []}, at: '2026-02-30T00:00:00Z'", "'2026", "bad-format", ""),
        ("expect: {rules: []}, preferences: {u1: {security: sms}}", "{security: sms", "bad-preference", ""),
    ],
)
def test_a_meaningless_test_is_a_problem(tmp_path: Path, keys: str, at: str, code: str, hint: str) -> None:
    test = f"- {{name: x, given: {{event: notice.login.abnormal}}, {keys}}}"
    problems = policy(tmp_path, f"rules: [{RULE}]\ntests:\n{test}").problems
    (problem,) = (problem for problem in problems if problem.severity == "error")
    assert (problem.place.line, problem.place.column) == (3, test.index(at) + 1)
    assert (problem.code, problem.hint) == (code, hint)


def test_a_name_that_is_twice_in_a_file_is_a_problem(tmp_path: Path) -> None:
    test = "{name: x, given: {event: log}, expect: {rules: []}}"
    twice = policy(tmp_path / "a", f"tests:\n- {test}\n- {test}")
    errors = [(p.place.line, p.place.column, p.code) for p in twice.problems if p.severity == "error"]
    assert errors == [(3, 10, "defined-twice")]
    assert policy(tmp_path / "b", f"tests: [{test}]", **{"more.yaml": f"tests: [{test}]"}).ok


def test_as_many_messages_as_possible_are_paired() -> None:
    def compare(wanted: set[str], actual: str) -> list[FieldComparison]:
        return [FieldComparison(field="x", expected="", actual=actual, agrees=actual in wanted)]

    outcome = match_expectations([{"a", "b"}, {"a", "c"}, {"a"}], ["a", "b", "c"], compare)
    assert (outcome.near, outcome.missing, outcome.surplus) == ((), (), ())
    short = match_expectations([{"a", "b"}, {"a"}, {"a"}], ["a", "b", "c"], compare)
    assert (len(short.missing), short.surplus) == (1, ("c",))


def missing(folder: Path, rules: str, tests: str, **files: str | bytes) -> tuple[list[str], ...]:
    """What the tests of a policy leave out: rules, entries, words."""
    made = policy(folder, f"rules: [{rules}]\ntests: [{tests}]", **files)
    book = made.require()
    found = coverage(book, [plan for case in made.cases for plan in run_case(book, case).plans])
    shares = (found.rules, found.notify, found.locales)
    assert found.complete == (not any(share.missing for share in shares))
    return tuple([str(each) for each in share.missing] for share in shares)


TEST = f"{{name: x, given: {{event: notice.login.abnormal, payload: {PAYLOAD}}}, expect: {{rules: [r]}}}}"


def test_coverage_lists_rules_entries_and_locales(tmp_path: Path) -> None:
    assert missing(tmp_path / "a", RULE, TEST) == ([], [], [])
    everything = (
        ["rule r"],
        ["rule r, notify entry 1 (email)", "rule r, notify entry 2 (sms)"],
        ["template t, email in en", "template t, sms in en"],
    )
    assert missing(tmp_path / "b", RULE, "") == everything
    assert missing(tmp_path / "c", RULE, TEST.replace("result: success", "result: failure")) == everything
    chinese = {"templates__t__zh-CN__sms.txt": "您好"}
    assert missing(tmp_path / "d", RULE, TEST, **chinese) == ([], [], ["template t, sms in zh-CN"])


def test_an_entry_is_covered_if_it_made_a_message(tmp_path: Path) -> None:
    closed = "{channel: sms, when: {risk.score: {gte: 90}}, template: u}"
    rule = RULE.replace("[email, sms]", f"[sms, {closed}]")
    words = {"templates__u__sms.txt": "Risky"}
    left = missing(tmp_path / "a", rule, TEST, **words)
    assert left == ([], ["rule r, notify entry 2 (sms)"], ["template u, sms in en"])
    twin = RULE.replace("[email, sms]", "[{channel: sms, when: {risk.score: {gte: 90}}}, sms]")
    assert missing(tmp_path / "f", twin, TEST)[1] == ["rule r, notify entry 1 (sms)"]
    no_phone = TEST.replace("phone: '+8613800000000', ", "")
    assert missing(tmp_path / "b", RULE, no_phone)[1] == ["rule r, notify entry 2 (sms)"]
    shadow = RULE.replace("id: r,", "id: r, enabled: shadow,")
    assert missing(tmp_path / "c", shadow, TEST) == ([], [], [])
    off = RULE.replace("id: r,", "id: r, enabled: false,")
    assert missing(tmp_path / "d", off, "") == ([], [], [])
    machine = RULE.replace("[email, sms]", "[siem]")
    assert missing(tmp_path / "e", machine, TEST) == ([], [], [])


def test_the_example_policy_is_fully_covered() -> None:
    result = mss("test", str(ROOT / "rules"), "--require-coverage", "--format", "json")
    document = json.loads(result.output)
    assert result.exit_code == 0, result.output
    assert document["passed"] >= 5 and document["failed"] == 0
    for share in document["coverage"].values():
        assert share["covered"] == share["total"] > 0 and share["missing"] == []


def folder_with(folder: Path, tests: str) -> str:
    policy(folder, f"rules: [{RULE}]\ntests:\n- {tests}")
    return str(folder)


FAILING = TEST.replace("rules: [r]", "rules: [], deliveries: [{channel: email, to: b@example.com}]")


def test_the_exit_code_depends_on_tests_and_coverage(tmp_path: Path) -> None:
    good, bad = folder_with(tmp_path / "a", TEST), folder_with(tmp_path / "b", FAILING)
    untested = str(write(tmp_path / "c", {"p.yaml": "channels: {t: {type: console}}"}))
    assert mss("test", good).exit_code == mss("test", good, "--require-coverage").exit_code == 0
    assert mss("test", bad).exit_code == 1
    assert mss("test", untested, "--require-coverage").exit_code == 0
    assert mss("test", good, "--format", "xml").exit_code == 2
    policy(tmp_path / "a", f"rules: [{RULE}]")
    assert mss("test", good).exit_code == 0
    result = mss("test", good, "--require-coverage")
    assert result.exit_code == 1 and "no test: rule r, notify entry 2 (sms)" in result.output


def test_a_failure_is_printed_as_text(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, FAILING)
    result = mss("test", folder)
    assert max(map(len, result.output.splitlines())) <= 120  # 80 but for the path of a temporary folder
    lines = [line.rstrip() for line in result.output.splitlines()]
    assert lines[:2] == ["FAILED x", f"  {folder}/rules.yaml:3"]
    text = "\n".join(lines)
    assert "rules: the rules that match are not those expected" in text
    assert "because r matches, and the test does not name it" in text
    assert "✗  to       b@example.com" in text and "a@example.com" in text
    assert f"{folder}: 1 test, 0 passed, 1 failed" in lines


def test_control_characters_of_a_test_are_not_printed(tmp_path: Path) -> None:
    payload = PAYLOAD.replace("u1", '"\\e[2J"')
    test = FAILING.replace(PAYLOAD, payload).replace("name: x", 'name: "\\e[31m"')
    output = mss("test", folder_with(tmp_path, test)).output
    assert "FAILED" in output and not [char for char in output if not char.isprintable() and char != "\n"]


def test_results_are_printed_as_json(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, FAILING)
    document = json.loads(mss("test", folder, "--format", "json").output)
    assert list(document) == ["passed", "failed", "cases", "coverage"]
    assert (document["passed"], document["failed"]) == (0, 1)
    (case,) = document["cases"]
    assert list(case) == ["name", "file", "line", "ok", "failures"]
    assert (case["name"], case["file"], case["line"], case["ok"]) == ("x", f"{folder}/rules.yaml", 3, False)
    rules, near, surplus = case["failures"]
    assert (rules["about"], rules["expected"], rules["actual"]) == ("rules", [], ["r"])
    assert near["expected"] == {"channel": "email", "to": "b@example.com"}
    assert near["actual"] == {"channel": "email", "to": "a@example.com"}
    assert surplus["actual"]["channel"] == "sms" and surplus["expected"] == {}
    assert document["coverage"]["notify"] == {"covered": 2, "total": 2, "missing": []}


def junit(text: str) -> ElementTree.Element:
    """What a reader of JUnit files relies on: names, counts that are true, one outcome for each case."""
    root = ElementTree.fromstring(text.encode())
    assert root.tag == "testsuites"
    for suite in root:
        assert suite.tag == "testsuite" and suite.get("name")
        cases = suite.findall("testcase")
        assert suite.get("tests") == str(len(cases)) and len(cases) == len(suite)
        for tag, counted in (("failure", "failures"), ("error", "errors")):
            assert suite.get(counted) == str(len(suite.findall(f"testcase/{tag}")))
        for case in cases:
            assert set(case.attrib) == {"name", "classname", "time"} and len(case) <= 1
            assert all(outcome.get("message") and outcome.get("type") and outcome.text for outcome in case)
    for counted in ("tests", "failures", "errors"):
        assert root.get(counted) == str(sum(int(suite.get(counted, 0)) for suite in root))
    return root


def test_results_are_printed_as_junit_xml(tmp_path: Path) -> None:
    other = FAILING.replace("name: x", 'name: "<&\\u0001>"')
    root = junit(mss("test", folder_with(tmp_path, f"{TEST}\n- {other}"), "--format", "junit").output)
    assert (root.get("tests"), root.get("failures")) == ("2", "1")
    passed, failed = root.iter("testcase")
    assert (passed.get("name"), len(passed)) == ("x", 0)
    assert failed.get("name") == "<&\N{REPLACEMENT CHARACTER}>"
    text = failed[0].text or ""
    assert "x to: expected b@example.com | actual a@example.com" in text


@pytest.mark.parametrize("format_", ["text", "json", "junit"])
def test_a_policy_with_errors_is_not_tested(tmp_path: Path, format_: str) -> None:
    policy(tmp_path, "rules: [{id: r, event: notice.login.abnormal, notify: [emial], template: t}]")
    result = mss("test", str(tmp_path), "--format", format_)
    assert result.exit_code == 1
    assert "unknown channel 'emial'" in result.output
    document: Any = {"json": json.loads, "junit": junit, "text": str}[format_](result.output)
    if format_ == "json":
        assert document["ok"] is False and document["problems"]
    if format_ == "junit":
        assert "no test tries" not in result.output  # a warning is not why it could not run
