"""The examples of the language reference are run, and it names what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support import policy_builders, reference_evaluator
from support.locations import ROOT

from engine.documents import schemas, yaml
from engine.planning.planner import plan
from engine.rules.condition_compiler import ALL_OPERATORS, compile_block

PAGE = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```yaml (\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CASES = [text for kind, text in FENCED if kind == "case"]


def read(text: str) -> Any:
    document = yaml.read(text, "rules.md")
    assert not document.problems
    return document.data


@pytest.mark.parametrize("text", CASES, ids=lambda text: text.splitlines()[0])
def test_a_case_of_the_reference(text: str) -> None:
    case = read(text)
    assert set(case) == {"when", "holds", "fails"}
    block, flaws = compile_block(case["when"])
    assert not flaws
    for expected in ("holds", "fails"):
        assert case[expected]
        for payload in case[expected]:
            assert block.holds(payload) is (expected == "holds"), payload
            assert all(finding.holds for finding in block.explain(payload)) is (expected == "holds"), payload
            if "\\" not in str(case["when"]):  # paths with escapes are beyond the oracle
                assert reference_evaluator.holds(case["when"], payload) is (expected == "holds"), payload


@pytest.mark.parametrize("name", ALL_OPERATORS)
def test_an_operator_has_an_example(name: str) -> None:
    written = r"country: \[CN" if name == "any_of" else rf"\b{name}:"
    assert any(re.search(written, text) for text in CASES)


@pytest.mark.parametrize("text", [text for kind, text in FENCED if kind == "rules"])
def test_the_rules_of_the_reference_are_served(tmp_path: Path, text: str) -> None:
    words = "---\nsubject: Hello\n---\nHello\n"
    files = {"templates__abnormal-login__email.txt": words, "templates__abnormal-login__sms.txt": "Hello"}
    loaded = policy_builders.policy(tmp_path, text, **files)
    assert [str(problem) for problem in loaded.problems if problem.severity == "error"] == []
    event = policy_builders.event(
        {"userid": "u1", "mailto": "a@example.com", "result": "success", "country": "CN", "ip": "8.8.8.8"}
        | {"risk": {"score": 91}}
    )
    assert [match.rule.id for match in loaded.rulebook.match(event)] == ["abnormal-login"]


def test_the_chain_of_the_reference_goes_as_it_says(tmp_path: Path) -> None:
    (text,) = (text for kind, text in FENCED if kind == "chain")
    rule = {"id": "r", "event": "notice.login.abnormal", "template": "t", **read(text)}
    people = {"secops": {"email": "secops@example.com"}}
    book = policy_builders.policy(tmp_path, json.dumps({"people": people, "rules": [rule]})).require()

    def steps(score: int) -> list[tuple[str, tuple[str, ...], float]]:
        payload = {"mailto": "a@example.com", "phone": "+8613800000000", "risk": {"score": score}}
        (delivery,) = plan(book, policy_builders.event(payload)).deliveries
        return [(each.channel, each.to, each.fallback_after) for each in (delivery, *delivery.fallbacks)]

    mails = [("email", ("a@example.com",), 900.0), ("email", ("secops@example.com",), 0.0)]
    assert steps(70) == [("sms", ("+8613800000000",), 900.0), *mails]
    assert steps(69) == mails


def test_the_reference_explains_every_key_of_a_rule_and_of_its_entries() -> None:
    for name in ("rule", "notify_channel", "notify_chain"):
        for key in schemas.load("policy")["$defs"][name]["properties"]:
            assert re.search(rf"\b{key}\b", PAGE), key
