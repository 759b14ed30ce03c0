"""What ``mss revisions`` and ``mss diff`` say, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..layout import harmless
from ..revisions import Revisions
from .trace import iso, local

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def show_revisions(console: Console, revisions: Revisions) -> None:
    """A line for each, the newest last; the one in force is marked."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for each in revisions.pushed:
        in_force = each.number == revisions.current
        table.add_row(
            Text(f"{'*' if in_force else ' '} {each.number}", "bold green" if in_force else ""),
            each.revision, local(each.at), harmless(each.who), harmless(each.message),
        )  # fmt: skip
    console.print(table)
    found = revisions.active
    if found is not None and revisions.moved_at != found.at:
        moved = f"{found} is in force since {local(revisions.moved_at)}, by {revisions.moved_by}"
        console.print(harmless(moved, "dim"), soft_wrap=True)


def revisions_document(bucket: str, revisions: Revisions) -> dict[str, Any]:
    """The shape that ``mss revisions --format json`` prints."""
    return {
        "bucket": bucket,
        "current": revisions.current,
        "since": iso(revisions.moved_at),
        "by": revisions.moved_by,
        "revisions": [
            {
                "number": each.number,
                "revision": each.revision,
                "current": each.number == revisions.current,
                "who": each.who,
                "at": iso(each.at),
                "message": each.message,
                "before": each.parent,
                "bytes": each.size,
            }
            for each in revisions.pushed
        ],
    }


def show_difference(console: Console, lines: Iterable[str]) -> None:
    """A unified diff, in colours on a terminal."""
    for line in lines:
        bold = line.startswith(("--- ", "+++ "))
        console.print(harmless(line, "bold" if bold else _COLOURS.get(line[:1], "")), soft_wrap=True)
