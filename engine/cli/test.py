"""``mss test``: run the policy's tests, with text, JSON and JUnit output."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..model.problems import Place, Problem
from ..policy.loader import load_policy
from ..policy.testing.coverage import (
    Coverage,
    CoveredEntry,
    CoveredLocale,
    CoveredRule,
    coverage,
)
from ..policy.testing.runner import CaseResult, Difference, run_case
from .common import FOLDER, examples, format_option, rulebook_of, stdout
from .output import attributes, count, file_of, harmless, indented, print_json

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MAX_MISSING_SHOWN = 20  # of each sort


@click.command(
    epilog=examples("mss test", "mss test shop --require-coverage", "mss test --format junit > report.xml")
)
@FOLDER
@format_option("text", "json", "junit", note="junit: XML for CI servers.")
@click.option(
    "--require-coverage", is_flag=True,
    help="Fail if no test covers a rule, a notify entry or a locale.",
)  # fmt: skip
def test(folder: Path, format_: str, require_coverage: bool) -> None:
    """Run the tests of a policy.

    The tests run on a virtual clock, and nothing is sent. For each failure, the command shows the expected
    and the actual values, and the condition that caused the difference. Then it shows the rules, notify
    entries and locales that no test covers. DIR is the policy; by default, the folder rules.

    Exit code 1: a test failed, or the policy has errors.
    """
    policy = load_policy(folder)
    if not policy.ok and format_ == "junit":
        errors = [problem for problem in policy.problems if problem.severity == "error"]
        click.echo(problems_as_junit(str(folder), errors))
        sys.exit(1)
    rulebook = rulebook_of(folder, policy, json=format_ == "json")
    results = [run_case(rulebook, case) for case in policy.cases]
    covered = coverage(rulebook, (plan for result in results for plan in result.plans))
    if format_ == "json":
        print_json(tests_document(str(folder), results, covered))
    elif format_ == "junit":
        click.echo(tests_as_junit(str(folder), results))
    else:
        show_tests(stdout(), str(folder), results, covered)
    if not all(result.ok for result in results) or (require_coverage and not covered.complete):
        sys.exit(1)


def show_tests(console: Console, folder: str, results: Sequence[CaseResult], coverage: Coverage) -> None:
    """Print each failure in full, then the counts, then the coverage."""
    failed = [result for result in results if not result.ok]
    for result in failed:
        head = Text.assemble(("FAILED", "bold red"), " ", (result.case.name, "bold"))
        console.print(harmless(head), soft_wrap=True)
        console.print(f"  {_place(folder, result.case.place)}", style="dim", soft_wrap=True)
        shown: set[str] = set()
        for difference in result.differences:
            _show_difference(console, difference, shown)
        console.print()
    passed = len(results) - len(failed)
    console.print(
        Text(f"{folder}: {count(len(results), 'test')}, {passed} passed, {len(failed)} failed"),
        style="bold red" if failed else "bold green",
        soft_wrap=True,
    )
    _show_coverage(console, folder, coverage)


def _show_difference(console: Console, difference: Difference, shown: set[str]) -> None:
    console.print()
    indented(console, Text.assemble((difference.about, "bold"), f": {difference.message}"), 2)
    if difference.rows:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column(f"expected (line {difference.place.line})", overflow="fold", ratio=1)
        table.add_column("actual", overflow="fold", ratio=1)
        for row in difference.rows:
            mark, style = (" ", "") if row.agrees else ("✗", "red")
            cells = (mark, row.field, row.expected or "-", row.actual or "-")
            table.add_row(*(harmless(cell, style) for cell in cells))
        console.print(Padding(table, (0, 0, 0, 4)))
    for reason in difference.because:
        text = "as above" if reason in shown else reason
        indented(console, Text.assemble(("because ", "dim"), text), 4)
        shown.add(reason)


def _show_coverage(console: Console, folder: str, coverage: Coverage) -> None:
    shares = (
        (coverage.rules, "rule", ""),
        (coverage.notify, "notify entry", "notify entries"),
        (coverage.locales, "locale", ""),
    )
    counts = ", ".join(f"{share.covered} of {count(share.total, *noun)}" for share, *noun in shares)
    console.print(f"covered: {counts}", style="" if coverage.complete else "yellow", soft_wrap=True)
    for share, *_ in shares:
        for missing in share.missing[:_MAX_MISSING_SHOWN]:
            place = "" if isinstance(missing, CoveredLocale) else f" ({_place(folder, missing.place)})"
            console.print(f"  no test: {missing}{place}", soft_wrap=True)
        if len(share.missing) > _MAX_MISSING_SHOWN:
            console.print(f"  and {len(share.missing) - _MAX_MISSING_SHOWN} more")


def tests_document(folder: str, results: Sequence[CaseResult], coverage: Coverage) -> dict[str, Any]:
    """Return what ``mss test --format json`` prints."""
    shares = {name: getattr(coverage, name) for name in ("rules", "notify", "locales")}
    return {
        "passed": sum(result.ok for result in results),
        "failed": sum(not result.ok for result in results),
        "cases": [
            {
                "name": result.case.name,
                **_location(folder, result.case.place),
                "ok": result.ok,
                "failures": [_difference(difference) for difference in result.differences],
            }
            for result in results
        ],
        "coverage": {
            name: {
                **attributes(share, "covered", "total"),
                "missing": [_missing(folder, each) for each in share.missing],
            }
            for name, share in shares.items()
        },
    }


def _difference(difference: Difference) -> dict[str, Any]:
    rows = difference.rows
    if difference.about == "rules":  # each row is a rule, not a field
        expected: Any = [row.expected for row in rows if row.expected]
        actual: Any = [row.actual for row in rows if row.actual]
    else:
        expected = {row.field: row.expected for row in rows if row.expected}
        actual = {row.field: row.actual for row in rows if row.actual}
    return {
        **attributes(difference, "about", "message"),
        "line": difference.place.line,
        "expected": expected,
        "actual": actual,
        "reasons": list(difference.because),
    }


def _missing(folder: str, each: CoveredRule | CoveredEntry | CoveredLocale) -> dict[str, Any]:
    document = {name: value for name, value in asdict(each).items() if name != "place" and value != 0}
    return document if isinstance(each, CoveredLocale) else document | _location(folder, each.place)


def _location(folder: str, place: Place) -> dict[str, Any]:
    return {"file": file_of(folder, place.file), "line": place.line}


def tests_as_junit(folder: str, results: Sequence[CaseResult]) -> str:
    """Return JUnit XML with a suite for each file and a case for each test."""
    root = Xml.Element("testsuites", {"name": _xml(folder), **_counts(results)})
    ordered = sorted(results, key=lambda result: result.case.place)
    for file, group in groupby(ordered, key=lambda result: file_of(folder, result.case.place.file)):
        members = list(group)
        suite = Xml.SubElement(root, "testsuite", {"name": _xml(file), **_counts(members)})
        for result in members:
            case = Xml.SubElement(
                suite, "testcase", {"name": _xml(result.case.name), "classname": _xml(file), "time": "0"}
            )
            if not result.ok:
                first = result.differences[0]
                message = _xml(f"{first.about}: {first.message}")
                failure = Xml.SubElement(case, "failure", {"message": message, "type": first.about})
                lines = [f"{_place(folder, result.case.place)}: {result.case.name}"]
                for difference in result.differences:
                    lines += ["", f"{difference.about}: {difference.message}", *_plain(difference)]
                failure.text = _xml("\n".join(lines))
    return _document(root)


def problems_as_junit(folder: str, problems: Iterable[Problem]) -> str:
    """Return JUnit XML with one case, which could not run because of ``problems``."""
    listed = [str(problem) for problem in problems]
    counts = {"tests": "1", "failures": "0", "errors": "1", "time": "0"}
    root = Xml.Element("testsuites", {"name": _xml(folder), **counts})
    suite = Xml.SubElement(root, "testsuite", {"name": _xml(folder), **counts})
    case = Xml.SubElement(
        suite, "testcase", {"name": "the policy loads", "classname": _xml(folder), "time": "0"}
    )
    error = Xml.SubElement(
        case, "error", {"message": _xml(f"the policy has problems: {listed[0]}"), "type": "policy"}
    )
    error.text = _xml("\n".join(listed))
    return _document(root)


def _document(root: Xml.Element) -> str:
    Xml.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{Xml.tostring(root, encoding="unicode")}'


def _counts(results: Sequence[CaseResult]) -> dict[str, str]:
    failed = sum(not result.ok for result in results)
    return {"tests": str(len(results)), "failures": str(failed), "errors": "0", "time": "0"}


def _plain(difference: Difference) -> Iterable[str]:
    for row in difference.rows:
        mark = " " if row.agrees else "x"
        yield f"{mark} {row.field}: expected {row.expected or '-'} | actual {row.actual or '-'}"
    for reason in difference.because:
        yield f"because {reason}"


def _xml(text: str) -> str:
    """Replace the characters that XML does not allow, which payloads can contain."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _place(folder: str, place: Place) -> str:
    return f"{file_of(folder, place.file)}:{place.line}"
