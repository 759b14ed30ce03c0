"""``mss check`` on small policies: each folder in ``tests/cases/check`` has one, with its problems."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from support.check_cases import cases, expected, found, shown, wanted
from support.locations import ROOT

from engine.model.problems import CODES

ENGINE = ROOT / "engine"
problems_of = cache(found)

# The schema refuses these in a file before conditions are compiled, as wrong-type, empty and unknown-key.
# They are for whoever compiles conditions without it: test_conditions.
ELSEWHERE = {
    "invalid-condition-block",
    "missing-operator",
    "unknown-operator",
    "policy-test-failed",
    "reload-failed",
}


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_a_case_has_exactly_its_problems(case: Path) -> None:
    problems = problems_of(case)
    assert shown(problems, expected(case)) == wanted(case), "\n".join(map(str, problems))


def test_without_warnings_the_errors_are_the_same() -> None:
    left_out = set()
    for case in cases():
        problems, served = problems_of(case), found(case, warn=False)
        assert set(served) <= set(problems), case.name
        assert all(problem.severity == "warning" for problem in set(problems) - set(served)), case.name
        left_out |= {problem.code for problem in set(problems) - set(served)}
    assert {"hidden-rule", "never-matches", "unused-channel"} <= left_out


def test_there_are_enough_cases_of_both_kinds() -> None:
    broken = [case for case in cases() if expected(case)]
    assert len(broken) >= 80
    assert len(cases()) - len(broken) >= 20


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_a_case_has_the_name_of_its_code(case: Path) -> None:
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


def test_no_problem_mentions_the_structure_of_the_schema() -> None:
    for case in cases():
        for problem in problems_of(case):
            assert "given schemas" not in problem.message and "is not valid under" not in problem.message
            assert problem.message[0] != " " and not problem.message.endswith(".\n")


def test_every_code_is_registered_with_its_severity() -> None:
    """Severities in cases agree with the registry, save where wildcards make an error a warning."""
    for case in cases():
        for problem in problems_of(case):
            usual = CODES[problem.code].severity
            assert problem.severity in (usual, "warning"), (case.name, problem)


def literals(path: Path) -> Iterator[str]:
    """What a module gives as a code: by keyword, to something that complains, or first of three."""
    complaining = {
        "add",
        "report",
        "_report",
        "flaw",
        "_flaw",
        "complain",
        "_complain",
        "_fault",
        "type",
        "_warn",
        "_unreadable",
    }
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
