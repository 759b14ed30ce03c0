"""Every check is tested: if it is silenced, a case in ``tests/cases/check`` with its code fails."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from support.check_cases import cases, expected, is_as_expected
from support.locations import ROOT

from engine.model.problems import CODES

ENGINE = ROOT / "engine"
LOADING = [
    "policy/loader",
    "policy/compiler",
    "templates/compiler",
    "rules/catalog",
    "rules/condition_compiler",
    "policy/rule_compiler",
    "policy/action_compiler",
    "policy/testing/cases",
    "documents",
    "policy/lint",
    "channels/__init__",
    "actions/__init__",
]
_REFUSED = "in a file, the schema rejects it first; test_conditions"
NO_CASE = {  # and why
    "policy/loader.py _no_folder unreadable": "the folder itself is missing; test_loader",
    "policy/loader.py _walk unreadable": "a folder that may not be listed; test_loader_limits",
    "documents/yaml.py read yaml-syntax": "PyYAML's parser in Python says it, the one in C does not",
    "documents/schema_validation.py violations_of too-deep": "what is read is never so deep; test_schemas",
    "documents/schema_validation.py _other_keyword bad-value": "no schema of ours says it; test_schemas",
    "documents/schema_validation.py _other_keyword bad-value 1": "no schema of ours says it; test_schemas",
    "rules/condition_compiler.py _ConditionCompiler.block invalid-condition-block": _REFUSED,
    "rules/condition_compiler.py _ConditionCompiler.combination invalid-condition-block": _REFUSED,
    "rules/condition_compiler.py _ConditionCompiler.combination invalid-condition-block 1": _REFUSED,
    "rules/condition_compiler.py _ConditionCompiler.path bad-path": "every key in a file is text; test_conditions",
    "rules/condition_compiler.py _ConditionCompiler.operators missing-operator": _REFUSED,
    "rules/condition_compiler.py _ConditionCompiler.exists bad-argument": _REFUSED,
    "rules/condition_compiler.py _ConditionCompiler.any_of bad-argument": _REFUSED,
    "rules/condition_compiler.py _ConditionCompiler.any_of bad-argument 1": _REFUSED,
    "rules/condition_compiler.py _ConditionCompiler.any_of bad-argument 2": _REFUSED,
    "rules/condition_compiler.py _ConditionCompiler.length missing-operator": _REFUSED,
    "rules/condition_compiler.py _ConditionCompiler.length unknown-operator": _REFUSED,
    "rules/condition_compiler.py _ConditionCompiler.length bad-argument": _REFUSED,
    "rules/condition_compiler.py _ConditionCompiler.some invalid-condition-block": _REFUSED,
    "rules/condition_compiler.py _ConditionCompiler.unknown_name unknown-operator": _REFUSED,
    "rules/condition_compiler.py _ConditionCompiler.check_ignore_case bad-argument": _REFUSED,
}
_COMPOUND = (ast.FunctionDef, ast.ClassDef, ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)


@dataclass(frozen=True)
class Site:
    """A statement that reports a problem with a code."""

    path: Path
    function: str  # by name, with its class; the outermost
    line: int
    code: str
    nth: int  # of the sites in this function that give this code

    def __str__(self) -> str:
        nth = f" {self.nth}" if self.nth else ""
        return f"{self.path.relative_to(ENGINE).as_posix()} {self.function} {self.code}{nth}"

    @property
    def module(self) -> str:
        parts = self.path.relative_to(ROOT).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def files() -> Iterator[Path]:
    for name in LOADING:
        path = ENGINE / name
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def functions(tree: ast.AST, above: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{above}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield above + node.name, node


def codes_given(statement: ast.stmt) -> Iterator[str]:
    """Yield the codes that a statement reports, without those that it compares with."""
    for node in ast.walk(statement):
        given: list[ast.expr] = []
        if (
            isinstance(node, ast.Call) and ast.unparse(node.func) != "schemas.check"
        ):  # it takes a schema's name
            given = [*node.args, *(each.value for each in node.keywords if each.arg == "code")]
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
            given = node.value.elts
        for each in given:
            if isinstance(each, ast.Constant) and each.value in CODES:
                yield each.value


def sites() -> Iterator[Site]:
    for path in files():
        for name, function in functions(ast.parse(path.read_text())):
            given = sorted(
                (statement.lineno, code)
                for statement in ast.walk(function)
                if isinstance(statement, ast.stmt) and not isinstance(statement, _COMPOUND)
                for code in codes_given(statement)
            )
            codes = [code for _, code in given]
            for place, (line, code) in enumerate(given):
                yield Site(path, name, line, code, codes[:place].count(code))


class Silencer(ast.NodeTransformer):
    """Removes the report; if its value is needed, replaces the code by one without a meaning."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.stmt) and node.lineno == self.site.line and not isinstance(node, _COMPOUND):
            if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Yield):
                return ast.copy_location(ast.Pass(), node)
            for each in ast.walk(node):
                if isinstance(each, ast.Constant) and each.value == self.site.code:
                    each.value = "silenced"
            return node
        return self.generic_visit(node)


def silenced(site: Site) -> tuple[FunctionType, CodeType]:
    """Return the function of the site, and its compiled code without the report."""
    tree = Silencer(site).visit(ast.parse(site.path.read_text()))
    pending = [compile(tree, str(site.path), "exec", dont_inherit=True)]
    while (code := pending.pop()).co_qualname != site.function:
        pending += [const for const in code.co_consts if isinstance(const, CodeType)]
    live: Any = import_module(site.module)
    for step in site.function.split("."):
        live = vars(live)[step]
    live = getattr(live, "__wrapped__", getattr(live, "__func__", live))
    assert isinstance(live, FunctionType)
    return live, code


@pytest.mark.parametrize("site", list(sites()), ids=str)
def test_without_the_check_its_case_fails(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    function, code = silenced(site)
    concerned = [case for case in cases() if site.code in {each["code"] for each in expected(case)}]
    monkeypatch.setattr(function, "__code__", code)
    try:
        noticed = not all(map(is_as_expected, concerned))
    except Exception:  # noqa: BLE001 -- what comes after it relies on the check
        noticed = True
    assert noticed is (str(site) not in NO_CASE), NO_CASE.get(str(site))


def test_the_list_of_checks_without_a_case_is_current() -> None:
    assert set(NO_CASE) <= set(map(str, sites()))
