"""What ``mss dead`` says, for people and for programs; payloads are shown without their secrets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from ..dead import DeadLetter
from ..layout import harmless, indented
from . import as_json
from .trace import iso, local

_NAMES = ("rule", "channel", "chain", "reqid", "delivery", "revision")


def letter_line(letter: DeadLetter) -> Text:
    """One letter in one line: id, when, kind, reason, rule, channel, reqid, attempts, detail."""
    attempts = f"{letter.attempts}×" if letter.attempts else "-"
    whose = (
        letter.header("rule") or "-",
        letter.header("channel") or "-",
        letter.header("reqid") or "-",
        attempts,
    )
    return harmless(
        Text.assemble(
            (f"{letter.sequence:>6}", "bold"),
            f"  {local(letter.at)}  {letter.kind:<6} ",
            (letter.reason, "red"),
            f"  {'  '.join(whose)}  {letter.header('detail')}",
        )
    )


def show_letters(console: Console, letters: Sequence[DeadLetter], total: int) -> None:
    """A line for each, the newest last; ``total`` is how many there are of these."""
    for letter in letters:
        console.print(letter_line(letter), soft_wrap=True)
    if not total:
        console.print("no dead letters")
    elif len(letters) < total:
        console.print(
            f"the newest {len(letters)} of {total}; --limit 0 shows all", style="dim", soft_wrap=True
        )


def show_letter(console: Console, letter: DeadLetter, payload: Any) -> None:
    """All that is known of one letter, and what is in it."""
    console.print(Text.assemble((f"dead letter {letter.sequence}", "bold"), f"  {letter.kind}, ",
                                (letter.reason, "red"), f", {local(letter.at)}"), soft_wrap=True)  # fmt: skip
    if letter.event:
        indented(console, f"event     {letter.event}, received {local(letter.received)}", 2)
    for name in _NAMES:
        if said := letter.header(name):
            indented(console, f"{name:<9} {said}", 2)
    if letter.attempts:
        indented(console, f"attempts  {letter.attempts}", 2)
    indented(console, f"detail    {letter.header('detail')}", 2)
    if letter.is_truncated:
        size = letter.header("truncated")
        indented(console, Text(f"cut       only {letter.size} of {size} bytes were kept", "yellow"), 2)
    console.print()
    indented(console, payload if isinstance(payload, str) else as_json(payload), 2)


def letter_document(letter: DeadLetter) -> dict[str, Any]:
    """One letter for programs, without its payload."""
    return {
        "sequence": letter.sequence,
        "at": iso(letter.at),
        "kind": str(letter.kind),
        "reason": letter.reason,
        "detail": letter.header("detail"),
        "event": letter.event,
        **{name: letter.header(name) for name in _NAMES},
        "attempts": letter.attempts,
        "size": letter.size,
        "truncated": letter.is_truncated,
    }
