"""Text on a console: indented, wrapped to its width, with nothing in it that a terminal would obey."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from .excerpts import printable


def indented(console: Console, words: str | Text, columns: int) -> None:
    """Print ``words`` that many columns from the left, without blanks at the end of lines."""
    text = harmless(words)
    for line in text.wrap(console, max(20, console.width - columns)):
        line.rstrip()
        console.print(Text(" " * columns if line.plain else "") + line, soft_wrap=True)


def harmless(words: str | Text, style: str = "") -> Text:
    """``words`` without control characters, which payloads can bring; lines stay lines."""
    text = Text(words, style) if isinstance(words, str) else words
    text.plain = "\n".join(map(printable, text.plain.split("\n")))
    return text
