"""The pages for developers name files, classes and functions that exist, and the packages in their order."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.locations import ROOT
from unit.test_import_order import ORDER

ARCHITECTURE = ROOT / "docs/architecture.md"
PAGES = [ARCHITECTURE, ROOT / "CONTRIBUTING.md"]
EXAMPLES = {"test_a_digest_keeps_every_reader"}
SOURCES = [*ROOT.glob("engine/**/*.py"), *ROOT.glob("msc/*.py"), *ROOT.glob("tests/**/*.py")]


def members(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names of the methods and fields of a class."""
    for each in body:
        if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield each.name
        elif isinstance(each, ast.AnnAssign):
            yield ast.unparse(each.target)


def definitions() -> set[str]:
    """Return the names of all classes, functions, constants and fields, methods with their class as well."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.ClassDef(name=name, body=body):
                    found.add(name)
                    found |= {f"{name}.{member}" for member in members(body)}
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.Name(id=name):
                    found.add(name)
                case ast.arg(arg=name) | ast.Attribute(attr=name):
                    found.add(name)
    return found


def code_in(page: Path) -> list[str]:
    """Return what a page writes as code, without its blocks."""
    text = re.sub(
        r"^(```|    ).*?$",
        "",
        re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL),
        flags=re.MULTILINE,
    )
    return re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_the_page_names_exists(page: Path) -> None:
    files = [
        code
        for code in code_in(page)
        if re.fullmatch(r"[\w./-]+(\.(py|yaml|json|md|toml)|/)", code) and "<" not in code
    ]
    assert len(files) > 20
    tracked = [f"/{path.relative_to(ROOT)}{'/' if path.is_dir() else ''}" for path in ROOT.glob("[!.]*/**/*")]
    tracked += [f"/{path.name}{'/' if path.is_dir() else ''}" for path in ROOT.iterdir()]
    missing = [
        file
        for file in files
        if file != "mss.yaml" and not any(path.endswith(f"/{file}") for path in tracked)
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_class_and_function_that_the_page_names_exists(page: Path) -> None:
    known = (
        definitions() | EXAMPLES | set(json.loads((ROOT / "schemas/policy.schema.json").read_text())["$defs"])
    )
    names = [
        code
        for code in code_in(page)
        if re.fullmatch(r"([A-Z][a-z]+|_?[A-Za-z]+([A-Z_][a-z]+)+)(\.[a-z_]+)?(?<!\.py)(?<!_total)", code)
    ]
    assert len(names) > 5
    assert [name for name in names if name not in known] == []


def test_the_table_has_every_package_in_its_order() -> None:
    rows = re.findall(r"^\| `engine/(\w+)(?:/|\.py)` \|", ARCHITECTURE.read_text(), re.MULTILINE)
    assert rows == ORDER
