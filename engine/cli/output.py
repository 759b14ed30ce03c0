"""Output: problems with an excerpt of their line, tables, indented text, times, counts and JSON.

Text is wrapped to the terminal. Control characters are replaced, so no text can control the terminal.
Colours appear on a terminal only.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ..model.problems import Place, Problem
from ..model.times import from_micros
from ..policy.loader import Policy

_COLOURS = {"error": "bold red", "warning": "bold yellow", "info": "bold blue"}

_LINE_END = re.compile(r"\r\n|\n|\r")
_MAX_FILE_BYTES = 4 * 1024 * 1024  # a larger file has no excerpts
_BEFORE = 0.7  # the share of the width for the text before the column
_ELLIPSIS = "…"

_NOTHING = Text()


def show_problems(
    console: Console, folder: str, problems: Sequence[Problem], texts: Mapping[str, str] | None = None
) -> None:
    """Print each problem with its line and its hint; ``texts`` holds the files that are not on disk."""
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
    """Print a line, on a terminal wrapped at spaces. Elsewhere it stays one line, for programs."""
    first = line.wrap(console, console.width)[0] if console.is_terminal else line
    console.print(first, soft_wrap=True)
    rest = line.plain[len(first) :].lstrip()
    if rest:
        indented(console, line[len(line) - len(rest) :], 4)


def _secrets(problems: Iterable[Problem]) -> dict[tuple[str, int], int]:
    """Return the column of the first secret, by file and line."""
    found: dict[tuple[str, int], int] = {}
    for problem in problems:
        if problem.code == "plaintext-secret":
            place = problem.place
            found[place.file, place.line] = min(
                place.column, found.get((place.file, place.line), place.column)
            )
    return found


def show_check(console: Console, folder: str, policy: Policy, texts: Mapping[str, str] | None = None) -> None:
    """Print the result of a check as text."""
    show_problems(console, folder, policy.problems, texts)
    folder = folder or next(iter(texts or {}), "")
    counted = Counter(problem.severity for problem in policy.problems)
    severities = (("error", "error"), ("warning", "warning"), ("info", "note"))
    counts = [count(counted[severity], noun) for severity, noun in severities if counted[severity]]
    if policy.ok:
        counts = ["ok", count(policy.rules, "rule"), f"revision {policy.revision}", *counts]
    console.print(f"{folder}: {', '.join(counts)}", style="" if policy.ok else "bold", soft_wrap=True)


def check_document(folder: str, policy: Policy) -> dict[str, Any]:
    """Return what ``mss check --format json`` prints."""
    problems = [problem_document(folder, problem) for problem in policy.problems]
    return {**attributes(policy, "ok", "revision", "rules"), "problems": problems}


def problem_document(folder: str, problem: Problem) -> dict[str, Any]:
    """Return one problem as a JSON object."""
    return {
        "file": file_of(folder, problem.place.file),
        **attributes(problem.place, "line", "column"),
        **attributes(problem, "pointer", "severity", "code", "message", "hint"),
    }


def attributes(source: object, *names: str) -> dict[str, Any]:
    """Return the attributes ``names`` of ``source`` as a JSON object."""
    return {name: getattr(source, name) for name in names}


def given(**values: Any) -> dict[str, Any]:
    """Return a JSON object without the keys whose value is empty."""
    return {name: value for name, value in values.items() if value}


def print_json(document: Any) -> None:
    """Print one JSON document, indented."""
    click.echo(as_json(document))


def as_json(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, indent=2)


def warn(text: str, style: str = "yellow") -> None:
    """Print a line on standard error."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    console.print(text, style=style, soft_wrap=True)


def count(number: int, noun: str, plural: str = "") -> str:
    """Return ``number`` with ``noun`` in the right form; the plural is ``plural``, or ends in ``s``."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def recipients_text(addresses: Sequence[str]) -> str:
    """Return the addresses of a delivery; some channels need none."""
    return ", ".join(addresses) or "nobody in particular"


def local(at: int) -> str:
    """Return a time for people, in the local zone with its offset; ``at`` is in microseconds."""
    return from_micros(at).astimezone().isoformat(" ", "milliseconds")


def file_of(folder: str, file: str) -> str:
    """Return a problem's file as a path that the caller of the command can open."""
    if "://" in folder:  # a bucket; a path would join the two slashes
        return f"{folder}/{file}"
    return str(PurePath(folder) / file) if folder else file


def printable(text: str) -> str:
    """Replace each control character of ``text``; the length stays."""
    return "".join(char if char.isprintable() else " " if char == "\t" else "\ufffd" for char in text)


def within(text: str, cells: int, *, end: bool = False) -> str:
    """Return the start (with ``end``: the end) of ``text`` that fits into ``cells`` columns."""
    kept: list[str] = []
    for char in reversed(text) if end else text:
        cells -= cell_len(char)
        if cells < 0:
            break
        kept.append(char)
    return "".join(reversed(kept) if end else kept)


@dataclass(frozen=True, slots=True)
class Excerpts:
    """Lines of the files of a policy; a file that cannot be read has no lines."""

    folder: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)  # the files that are not on disk
    secrets: Mapping[tuple[str, int], int] = field(default_factory=dict)  # file, line -> first column
    _lines: dict[str, list[str]] = field(default_factory=dict)

    def at(self, place: Place, room: int) -> tuple[str, str] | None:
        """Return the line, cut to ``room`` columns around the place, and the blanks before the caret."""
        lines = self._of(place.file)
        if not 1 <= place.line <= len(lines) or not lines[place.line - 1].strip():
            return None
        line = printable(lines[place.line - 1])
        secret = self.secrets.get((place.file, place.line))
        if secret is not None:
            if place.column > secret:
                return None
            line = line[: secret - 1] + _ELLIPSIS  # more people read the output than the file
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
                return ""  # reading a pipe could never end
            return path.read_bytes().decode(errors="replace")
        except (OSError, ValueError):
            return ""


def indented(console: Console, content: str | Text, columns: int, head: Text = _NOTHING) -> None:
    """Print ``content``, wrapped and indented by ``columns``, with ``head`` in front of its first line."""
    for number, line in enumerate(harmless(content).wrap(console, max(20, console.width - columns))):
        line.rstrip()
        margin = head.copy() if number == 0 else Text()
        margin.pad_right(columns - len(margin) if line.plain else 0)
        console.print(margin + line, soft_wrap=True)


def show_title(console: Console, title: str) -> None:
    """Print the title of a section."""
    console.print(Text(f"\n{title}", "bold underline"))


def show_table(
    console: Console,
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Collection[str] = (),
) -> None:
    """Print a header and aligned rows, each on one line; ``right`` names the columns of numbers."""
    cells = [[Text(name, "bold") for name in header]]
    for row in rows:
        cells.append([cell if isinstance(cell, Text) else Text(str(cell)) for cell in row])
        for cell in cells[-1]:
            cell.plain = printable(cell.plain)
    widths = [max(cell.cell_len for cell in column) for column in zip(*cells, strict=True)]
    for row_cells in cells:
        for name, cell, width in zip(header, row_cells, widths, strict=True):
            padding = " " * (width - cell.cell_len)
            if name in right:
                cell.pad_left(len(padding))
            else:
                cell.append(padding)
        line = Text("  ").join(row_cells)
        line.rstrip()
        console.print(line, soft_wrap=True)


def harmless(content: str | Text, style: str = "") -> Text:
    """Replace the control characters of each line of ``content``, which payloads can contain."""
    text = Text(content, style) if isinstance(content, str) else content
    text.plain = "\n".join(map(printable, text.plain.split("\n")))
    return text
