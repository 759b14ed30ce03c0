"""Text on a console: indented, wrapped to its width, with nothing in it that a terminal would obey."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from .excerpts import printable

_NOTHING = Text()


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
