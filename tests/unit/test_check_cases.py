"""``mss check`` over small policies: each folder under ``tests/cases/check`` holds one, and what is found."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ROOT

from engine.codes import CODES
from engine.loader import load_policy
from engine.model import Problem

CASES = ROOT / "tests/cases/check"
ENGINE = ROOT / "engine"

# What no folder in a repository can hold, or what only the settings and the payload of an event can have
# wrong, is tested elsewhere: test_check_limits, test_settings, test_conditions, test_schemas.
ELSEWHERE = {
    "bad-block",
    "bad-schema",
    "bad-value",
    "file-too-big",
    "no-operator",
    "symlink-loop",
    "too-many-files",
    "unknown-operator",
}


def cases() -> list[Path]:
    return sorted(path.parent for path in CASES.glob("*/expected.yaml"))


def expected(case: Path) -> list[dict[str, Any]]:
    return yaml.safe_load((case / "expected.yaml").read_text()) or []


def found(case: Path) -> list[Problem]:
    """What is found, without what nearly every small policy lacks: a test of its rule."""
    problems = load_policy(case / "policy", environment={}).problems
    return [p for p in problems if p.code != "untested-rule" or case.name.startswith(p.code)]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_a_case(case: Path) -> None:
    problems, wanted = found(case), expected(case)
    shown = [
        {
            "file": problem.place.file,
            "line": problem.place.line,
            "column": problem.place.column,
            "code": problem.code,
            "severity": problem.severity,
            "hint": problem.hint,
        }
        for problem in problems
    ]
    said = [{"severity": "error", **problem} for problem in wanted]
    compared = [
        {key: value for key, value in problem.items() if key != "hint" or "hint" in want}
        for problem, want in zip(shown, said, strict=False)
    ]
    assert compared == said and len(shown) == len(said), "\n".join(map(str, problems))


def test_there_are_enough_of_both_sorts() -> None:
    broken = [case for case in cases() if expected(case)]
    assert len(broken) >= 80
    assert len(cases()) - len(broken) >= 20


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_a_case_is_named_for_what_it_shows(case: Path) -> None:
    code = re.sub(r"-\d+$", "", case.name)
    if code.startswith("good-"):
        assert expected(case) == []
    else:
        assert code in {problem["code"] for problem in expected(case)}


def test_every_code_has_a_case() -> None:
    covered = {problem["code"] for case in cases() for problem in expected(case)}
    assert covered <= set(CODES)
    assert set(CODES) - covered - ELSEWHERE == set(), "codes without a folder under tests/cases/check"
    assert not covered & ELSEWHERE


def test_a_problem_says_what_is_wrong_and_never_how_the_schema_is_built() -> None:
    for case in cases():
        for problem in found(case):
            assert "given schemas" not in problem.message and "is not valid under" not in problem.message
            assert problem.message[0] != " " and not problem.message.endswith(".\n")


def test_every_code_is_registered_with_its_severity() -> None:
    """Severities in cases agree with the registry, save where wildcards make an error a warning."""
    for case in cases():
        for problem in found(case):
            usual = CODES[problem.code].severity
            assert problem.severity in (usual, "warning"), (case.name, problem)


def literals(path: Path) -> Iterator[str]:
    """What a module gives as a code: by keyword, to something that complains, or first of three."""
    complaining = {"add", "flaw", "_flaw", "complain", "_complain", "_fault", "type", "_warn", "_unreadable"}
    for node in ast.walk(ast.parse(path.read_text())):
        given: list[ast.expr] = []
        if isinstance(node, ast.keyword) and node.arg == "code":
            given = [node.value]
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = node.args if name in complaining else []
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 3:
            given = node.value.elts[:1]
        for each in given:
            value = each.value if isinstance(each, ast.Constant) else None
            if isinstance(value, str) and re.fullmatch(r"[a-z]+(-[a-z0-9]+)+", value):
                yield value


@pytest.mark.parametrize("path", sorted(ENGINE.rglob("*.py")), ids=lambda path: str(path.relative_to(ENGINE)))
def test_every_code_in_the_source_is_registered(path: Path) -> None:
    assert set(literals(path)) <= set(CODES)
