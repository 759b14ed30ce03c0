"""Text output: problems with an excerpt of their line, indented and wrapped to the terminal.

Control characters are replaced, so no text can control the terminal.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ..model.problems import Place, Problem
from ..policy.loader import Policy

_COLOURS = {"error": "bold red", "warning": "bold yellow", "info": "bold blue"}

_LINE_END = re.compile(r"\r\n|\n|\r")
_MAX_FILE_BYTES = 4 * 1024 * 1024  # bytes of a file of which lines are shown
_BEFORE = 0.7  # of the room, for what stands before the column
_ELLIPSIS = "…"

_NOTHING = Text()


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


def file_of(folder: str, file: str) -> str:
    """A problem's file as the command's caller can open it."""
    if "://" in folder:  # a bucket, whose name a path would spell otherwise
        return f"{folder}/{file}"
    return str(PurePath(folder) / file) if folder else file


def printable(text: str) -> str:
    """``text`` with nothing in it that a terminal would obey, character by character."""
    return "".join(char if char.isprintable() else " " if char == "\t" else "\ufffd" for char in text)


def within(text: str, cells: int, *, end: bool = False) -> str:
    """As much of the start (the ``end``) of ``text`` as takes at most ``cells`` columns on a terminal."""
    kept: list[str] = []
    for char in reversed(text) if end else text:
        cells -= cell_len(char)
        if cells < 0:
            break
        kept.append(char)
    return "".join(reversed(kept) if end else kept)


@dataclass(frozen=True, slots=True)
class Excerpts:
    """Lines of the files of a policy; what cannot be read has none."""

    folder: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)  # of files that are not on disk
    secrets: Mapping[tuple[str, int], int] = field(default_factory=dict)  # file, line -> column of the first
    _lines: dict[str, list[str]] = field(default_factory=dict)

    def at(self, place: Place, room: int) -> tuple[str, str] | None:
        """The line, cut to ``room`` columns near the place, and the blanks before a caret under it."""
        lines = self._of(place.file)
        if not 1 <= place.line <= len(lines) or not lines[place.line - 1].strip():
            return None
        line = printable(lines[place.line - 1])
        secret = self.secrets.get((place.file, place.line))
        if secret is not None:
            if place.column > secret:
                return None
            line = line[: secret - 1] + _ELLIPSIS  # what is said is read by more people than the file
        at = min(place.column - 1, len(line))
        if cell_len(line) <= room:
            return line, " " * cell_len(line[:at])
        head, tail = line[:at], line[at:]
        most = max(int(room * _BEFORE), room - cell_len(tail))
        if cell_len(head) > most:
            head = _ELLIPSIS + within(head, most - 1, end=True)
        if cell_len(head + tail) > room:
            tail = within(tail, room - cell_len(head) - 1) + _ELLIPSIS
        return head + tail, " " * cell_len(head)

    def _of(self, file: str) -> list[str]:
        if file not in self._lines:
            self._lines[file] = _LINE_END.split(self._text(file).removeprefix("\ufeff"))
        return self._lines[file]

    def _text(self, file: str) -> str:
        if file in self.texts:
            return self.texts[file]
        path = Path(self.folder) / file
        try:
            if not path.is_file() or path.stat().st_size > _MAX_FILE_BYTES:
                return ""  # a pipe would be read for ever
            return path.read_bytes().decode(errors="replace")
        except (OSError, ValueError):
            return ""


def indented(console: Console, words: str | Text, columns: int, head: Text = _NOTHING) -> None:
    """Print ``words`` that many columns from the left, without blanks at the end of lines.

    ``head`` stands in these columns before the first line.
    """
    text = harmless(words)
    for number, line in enumerate(text.wrap(console, max(20, console.width - columns))):
        line.rstrip()
        margin = head.copy() if number == 0 else Text()
        margin.pad_right(columns - len(margin) if line.plain else 0)
        console.print(margin + line, soft_wrap=True)


def harmless(words: str | Text, style: str = "") -> Text:
    """``words`` without control characters, which payloads can bring; lines stay lines."""
    text = Text(words, style) if isinstance(words, str) else words
    text.plain = "\n".join(map(printable, text.plain.split("\n")))
    return text
