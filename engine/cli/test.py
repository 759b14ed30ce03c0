"""``mss test``: run the policy's tests, with text, JSON and JUnit output."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path, PurePath
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
    CoverageShare,
    CoveredEntry,
    CoveredLocale,
    CoveredRule,
    coverage,
)
from ..policy.testing.runner import CaseResult, Difference, run_case
from . import output
from .common import FOLDER, rulebook_of, stdout
from .output import harmless, indented

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MAX_MISSING_SHOWN = 20  # listed of one sort, for people


@click.command(short_help="Run the policy's own tests; nothing is sent.")
@FOLDER
@click.option(
    "--format", "format_", type=click.Choice(["text", "json", "junit"]), default="text", show_default=True,
    help="junit is XML for CI servers.",
)  # fmt: skip
@click.option(
    "--require-coverage", is_flag=True,
    help="Fail too when a rule, a notify entry or a language is touched by no test.",
)  # fmt: skip
def test(folder: Path, format_: str, require_coverage: bool) -> None:
    """Run the tests beside the rules, on a virtual clock and with nothing sent.

    Of each failure it shows what was expected beside what came, and which condition was the reason; then
    which rules, notify entries and languages no test has touched. DIR is the policy's folder; default: rules.
    """
    policy = load_policy(folder)
    if not policy.ok and format_ == "junit":
        errors = [problem for problem in policy.problems if problem.severity == "error"]
        click.echo(problems_as_junit(str(folder), errors))
        sys.exit(1)
    rulebook = rulebook_of(folder, policy, json=format_ == "json")
    verdicts = [run_case(rulebook, case) for case in policy.cases]
    covered = coverage(rulebook, (plan for verdict in verdicts for plan in verdict.plans))
    if format_ == "json":
        click.echo(output.as_json(tests_document(str(folder), verdicts, covered)))
    elif format_ == "junit":
        click.echo(tests_as_junit(str(folder), verdicts))
    else:
        show_tests(stdout(), str(folder), verdicts, covered)
    if not all(verdict.ok for verdict in verdicts) or (require_coverage and not covered.complete):
        sys.exit(1)


def show_tests(console: Console, folder: str, verdicts: Sequence[CaseResult], coverage: Coverage) -> None:
    """Each failure in full, then the counts, then what no test touched."""
    failed = [verdict for verdict in verdicts if not verdict.ok]
    for verdict in failed:
        head = Text.assemble(("FAILED", "bold red"), " ", (verdict.case.name, "bold"))
        console.print(harmless(head), soft_wrap=True)
        console.print(f"  {_place(folder, verdict.case.place)}", style="dim", soft_wrap=True)
        said: set[str] = set()
        for difference in verdict.differences:
            _show_difference(console, difference, said)
        console.print()
    passed = len(verdicts) - len(failed)
    console.print(
        Text(f"{folder}: {_count(len(verdicts), 'test')}, {passed} passed, {len(failed)} failed"),
        style="bold red" if failed else "bold green",
        soft_wrap=True,
    )
    _show_coverage(console, folder, coverage)


def _show_difference(console: Console, difference: Difference, said: set[str]) -> None:
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
        words = "as above" if reason in said else reason
        indented(console, Text.assemble(("because ", "dim"), words), 4)
        said.add(reason)


def _show_coverage(console: Console, folder: str, coverage: Coverage) -> None:
    shares = (("rules", coverage.rules), ("notify entries", coverage.notify), ("locales", coverage.locales))
    counts = ", ".join(f"{share.covered} of {share.total} {name}" for name, share in shares)
    console.print(f"covered: {counts}", style="" if coverage.complete else "yellow", soft_wrap=True)
    for _, share in shares:
        for missing in share.missing[:_MAX_MISSING_SHOWN]:
            place = (
                f" ({_place(folder, missing.place)})"
                if isinstance(missing, CoveredRule | CoveredEntry)
                else ""
            )
            console.print(f"  no test: {missing}{place}", soft_wrap=True)
        if len(share.missing) > _MAX_MISSING_SHOWN:
            console.print(f"  and {len(share.missing) - _MAX_MISSING_SHOWN} more")


def tests_document(folder: str, verdicts: Sequence[CaseResult], coverage: Coverage) -> dict[str, Any]:
    """The shape that ``mss test --format json`` prints."""
    return {
        "passed": sum(verdict.ok for verdict in verdicts),
        "failed": sum(not verdict.ok for verdict in verdicts),
        "cases": [
            {
                "name": verdict.case.name,
                "file": _file(folder, verdict.case.place),
                "line": verdict.case.place.line,
                "ok": verdict.ok,
                "failures": [_difference(difference) for difference in verdict.differences],
            }
            for verdict in verdicts
        ],
        "coverage": {
            "rules": _share(folder, coverage.rules),
            "notify": _share(folder, coverage.notify),
            "locales": _share(folder, coverage.locales),
        },
    }


def _difference(difference: Difference) -> dict[str, Any]:
    rows = difference.rows
    if difference.about == "rules":  # one row for each rule, not for each field
        expected: Any = [row.expected for row in rows if row.expected]
        actual: Any = [row.actual for row in rows if row.actual]
    else:
        expected = {row.field: row.expected for row in rows if row.expected}
        actual = {row.field: row.actual for row in rows if row.actual}
    return {
        "about": difference.about,
        "line": difference.place.line,
        "message": difference.message,
        "expected": expected,
        "actual": actual,
        "reasons": list(difference.because),
    }


def _share(
    folder: str,
    share: CoverageShare[CoveredRule] | CoverageShare[CoveredEntry] | CoverageShare[CoveredLocale],
) -> dict[str, Any]:
    return {
        "covered": share.covered,
        "total": share.total,
        "missing": [_missing(folder, each) for each in share.missing],
    }


def _missing(folder: str, each: CoveredRule | CoveredEntry | CoveredLocale) -> dict[str, Any]:
    match each:
        case CoveredLocale():
            return {"template": each.template, "channel": each.channel, "locale": each.locale}
        case CoveredEntry():
            entry = {"entry": each.entry, "channel": each.channel}
            entry |= {"step": each.step} if each.step else {}
        case CoveredRule():
            entry = {}
    return {"rule": each.rule, **entry, "file": _file(folder, each.place), "line": each.place.line}


def tests_as_junit(folder: str, verdicts: Sequence[CaseResult]) -> str:
    """One suite for each file, one case for each test."""
    root = Xml.Element("testsuites", {"name": _xml(folder), **_counts(verdicts)})
    ordered = sorted(verdicts, key=lambda verdict: verdict.case.place)
    for file, group in groupby(ordered, key=lambda verdict: _file(folder, verdict.case.place)):
        members = list(group)
        suite = Xml.SubElement(root, "testsuite", {"name": _xml(file), **_counts(members)})
        for verdict in members:
            case = Xml.SubElement(
                suite, "testcase", {"name": _xml(verdict.case.name), "classname": _xml(file), "time": "0"}
            )
            if not verdict.ok:
                first = verdict.differences[0]
                message = _xml(f"{first.about}: {first.message}")
                failure = Xml.SubElement(case, "failure", {"message": message, "type": first.about})
                lines = [f"{_place(folder, verdict.case.place)}: {verdict.case.name}"]
                for difference in verdict.differences:
                    lines += ["", f"{difference.about}: {difference.message}", *_plain(difference)]
                failure.text = _xml("\n".join(lines))
    return _document(root)


def problems_as_junit(folder: str, problems: Iterable[Problem]) -> str:
    """A policy that cannot be tested, as one case that could not run."""
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


def _counts(verdicts: Sequence[CaseResult]) -> dict[str, str]:
    failed = sum(not verdict.ok for verdict in verdicts)
    return {"tests": str(len(verdicts)), "failures": str(failed), "errors": "0", "time": "0"}


def _plain(difference: Difference) -> Iterable[str]:
    for row in difference.rows:
        mark = " " if row.agrees else "x"
        yield f"{mark} {row.field}: expected {row.expected or '-'} | actual {row.actual or '-'}"
    for reason in difference.because:
        yield f"because {reason}"


def _xml(text: str) -> str:
    """Without the characters that no XML file may have, which payloads can bring."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _file(folder: str, place: Place) -> str:
    return str(PurePath(folder) / place.file)


def _place(folder: str, place: Place) -> str:
    return f"{_file(folder, place)}:{place.line}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
