"""What the command says, for people and for programs, from the same findings."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from .excerpts import Excerpts, printable
from .loader import Policy
from .model import Problem
from .report_check import file_of

_COLOURS = {"error": "bold red", "warning": "bold yellow", "info": "bold blue"}


def show_problems(
    console: Console, folder: str, problems: Iterable[Problem], texts: Mapping[str, str] | None = None
) -> None:
    """Each problem with the line it is about and its hint; ``texts`` are files that are not on disk."""
    excerpts = Excerpts(folder, texts or {})
    for problem in problems:
        place = problem.place
        line = Text.assemble(
            (printable(f"{file_of(folder, place.file)}:{place.line}:{place.column}"), "bold"),
            ": ",
            (problem.severity, _COLOURS.get(problem.severity, "")),
            f": {printable(problem.message)} ",
            (f"[{problem.code}]", "dim"),
        )
        console.print(line, soft_wrap=True)
        if (excerpt := excerpts.at(place)) is not None:
            text, blanks = excerpt
            number = f"{place.line:>4} | "
            console.print(Text.assemble((number, "dim"), text), soft_wrap=True)
            margin = f"{'| ':>{len(number)}}"
            caret = ("^", _COLOURS.get(problem.severity, ""))
            console.print(Text.assemble((margin, "dim"), blanks, caret), soft_wrap=True)
        if problem.hint:
            console.print(Text.assemble("    ", (printable(problem.hint), "green")), soft_wrap=True)


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
        "problems": [
            {
                "file": file_of(folder, problem.place.file),
                "line": problem.place.line,
                "column": problem.place.column,
                "pointer": problem.pointer,
                "severity": problem.severity,
                "code": problem.code,
                "message": problem.message,
                "hint": problem.hint,
            }
            for problem in policy.problems
        ],
    }


def as_json(document: Any) -> str:
    """One JSON document, readable and stable."""
    return json.dumps(document, ensure_ascii=False, indent=2)
