"""The line that a problem is about, with a caret under its column."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.cells import cell_len

from .model import Place

_LINE_END = re.compile(r"\r\n|\n|\r")
_BIGGEST = 4 * 1024 * 1024  # bytes of a file of which lines are shown
_BEFORE, _AFTER = 60, 40  # characters shown on either side of the column


def printable(text: str) -> str:
    """``text`` with nothing in it that a terminal would obey, character by character."""
    return "".join(char if char.isprintable() else " " if char == "\t" else "\ufffd" for char in text)


@dataclass(frozen=True, slots=True)
class Excerpts:
    """Lines of the files of a policy; what cannot be read has none."""

    folder: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)  # of files that are not on disk
    _lines: dict[str, list[str]] = field(default_factory=dict)

    def at(self, place: Place) -> tuple[str, str] | None:
        """The line, cut to what is near the column, and the blanks before a caret under it."""
        lines = self._of(place.file)
        if not 1 <= place.line <= len(lines) or not lines[place.line - 1].strip():
            return None
        line = printable(lines[place.line - 1])
        at = min(place.column - 1, len(line))
        start, end = max(0, at - _BEFORE), at + _AFTER
        if start < 3:
            start = 0  # an ellipsis would take more room than it saves
        head = ("…" if start else "") + line[start:at]
        return head + line[at:end] + ("…" if end < len(line) else ""), " " * cell_len(head)

    def _of(self, file: str) -> list[str]:
        if file not in self._lines:
            self._lines[file] = _LINE_END.split(self._text(file).removeprefix("\ufeff"))
        return self._lines[file]

    def _text(self, file: str) -> str:
        if file in self.texts:
            return self.texts[file]
        path = Path(self.folder) / file
        try:
            if not path.is_file() or path.stat().st_size > _BIGGEST:
                return ""  # a pipe would be read for ever
            return path.read_bytes().decode(errors="replace")
        except (OSError, ValueError):
            return ""
