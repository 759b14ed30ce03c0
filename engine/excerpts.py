"""The line that a problem is about, with a caret under its column."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.cells import cell_len

from .model import Place

_LINE_END = re.compile(r"\r\n|\n|\r")
_MAX_FILE_BYTES = 4 * 1024 * 1024  # bytes of a file of which lines are shown
_BEFORE = 0.7  # of the room, for what stands before the column
_ELLIPSIS = "…"


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
