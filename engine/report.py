"""What the command says, for people and for programs, from the same findings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from rich.console import Console
from rich.text import Text

from .loader import Policy
from .model import Problem

_COLOURS = {"error": "bold red", "warning": "bold yellow"}


def show_problems(console: Console, folder: str, problems: Iterable[Problem]) -> None:
    """One line for each problem, and one for its hint."""
    for problem in problems:
        place = problem.place
        line = Text.assemble(
            (f"{_file(folder, place.file)}:{place.line}:{place.column}", "bold"),
            ": ",
            (problem.severity, _COLOURS.get(problem.severity, "")),
            f": {problem.message} ",
            (f"[{problem.code}]", "dim"),
        )
        console.print(line, soft_wrap=True)
        if problem.hint:
            console.print(Text.assemble("    ", (problem.hint, "green")), soft_wrap=True)


def show_check(console: Console, folder: str, policy: Policy) -> None:
    """The result of a check, for people."""
    show_problems(console, folder, policy.problems)
    errors = sum(problem.severity == "error" for problem in policy.problems)
    warnings = len(policy.problems) - errors
    counts = ", ".join(
        f"{number} {word}{'' if number == 1 else 's'}"
        for number, word in ((errors, "error"), (warnings, "warning"))
        if number
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
                "file": _file(folder, problem.place.file),
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


def _file(folder: str, file: str) -> str:
    return str(PurePath(folder) / file) if folder else file
