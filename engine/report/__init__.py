"""What the command says, for people and for programs, from the same findings."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from ..excerpts import Excerpts, printable
from ..layout import indented
from ..loader import Policy
from ..model import Problem
from .check import file_of

_COLOURS = {"error": "bold red", "warning": "bold yellow", "info": "bold blue"}


def show_problems(
    console: Console, folder: str, problems: Sequence[Problem], texts: Mapping[str, str] | None = None
) -> None:
    """Each problem with the line it is about and its hint; ``texts`` are files that are not on disk."""
    excerpts = Excerpts(folder, texts or {}, _secrets(problems))
    for problem in problems:
        place = problem.place
        line = Text.assemble(
            (printable(f"{file_of(folder, place.file)}:{place.line}:{place.column}"), "bold"),
            ": ",
            (problem.severity, _COLOURS.get(problem.severity, "")),
            f": {printable(problem.message)} ",
            (f"[{problem.code}]", "dim"),
        )
        _print(console, line)
        number = f"{place.line:>4} | "
        if (excerpt := excerpts.at(place, console.width - len(number))) is not None:
            text, blanks = excerpt
            console.print(Text.assemble((number, "dim"), text), soft_wrap=True)
            margin = f"{'| ':>{len(number)}}"
            caret = ("^", _COLOURS.get(problem.severity, ""))
            console.print(Text.assemble((margin, "dim"), blanks, caret), soft_wrap=True)
        if problem.hint:
            _print(console, Text.assemble("    ", (printable(problem.hint), "green")))


def _print(console: Console, line: Text) -> None:
    """On a terminal wrapped between words; elsewhere one line stays one, for programs to find."""
    first = line.wrap(console, console.width)[0] if console.is_terminal else line
    console.print(first, soft_wrap=True)
    rest = line.plain[len(first) :].lstrip()
    if rest:
        indented(console, line[len(line) - len(rest) :], 4)


def _secrets(problems: Iterable[Problem]) -> dict[tuple[str, int], int]:
    """Where in its line the first secret begins, by file and line."""
    found: dict[tuple[str, int], int] = {}
    for problem in problems:
        if problem.code == "plaintext-secret":
            place = problem.place
            found[place.file, place.line] = min(
                place.column, found.get((place.file, place.line), place.column)
            )
    return found


def show_check(console: Console, folder: str, policy: Policy, texts: Mapping[str, str] | None = None) -> None:
    """The result of a check, for people."""
    show_problems(console, folder, policy.problems, texts)
    folder = folder or next(iter(texts or {}), "")
    counted = Counter(problem.severity for problem in policy.problems)
    counts = ", ".join(
        f"{counted[severity]} {word}{'' if counted[severity] == 1 else 's'}"
        for severity, word in (("error", "error"), ("warning", "warning"), ("info", "note"))
        if counted[severity]
    )
    rules = f"{policy.rules} rule{'' if policy.rules == 1 else 's'}"
    if policy.ok:
        tail = f", {counts}" if counts else ""
        console.print(
            f"{folder}: ok, {rules}, revision {policy.revision}{tail}", soft_wrap=True, highlight=False
        )
    else:
        console.print(f"{folder}: {counts}", style="bold", soft_wrap=True, highlight=False)


def check_document(folder: str, policy: Policy) -> dict[str, Any]:
    """The result of a check, for programs: the shape that ``mss check --format json`` prints."""
    return {
        "ok": policy.ok,
        "revision": policy.revision,
        "rules": policy.rules,
        "problems": [problem_document(folder, problem) for problem in policy.problems],
    }


def problem_document(folder: str, problem: Problem) -> dict[str, Any]:
    """One problem, for programs."""
    return {
        "file": file_of(folder, problem.place.file),
        "line": problem.place.line,
        "column": problem.place.column,
        "pointer": problem.pointer,
        "severity": problem.severity,
        "code": problem.code,
        "message": problem.message,
        "hint": problem.hint,
    }


def as_json(document: Any) -> str:
    """One JSON document, readable and stable."""
    return json.dumps(document, ensure_ascii=False, indent=2)
