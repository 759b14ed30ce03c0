"""Parts of messages for operators: hints, lists of names, and values cut to a length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any


def nearest(name: str, allowed: Iterable[Any]) -> str:
    """Return ``did you mean 'email'?`` for the name in ``allowed`` that is most like ``name``, else ""."""
    spelled = {str(word).lower(): str(word) for word in allowed}
    close = get_close_matches(str(name).lower(), spelled, n=1, cutoff=0.6)
    return f"did you mean '{spelled[close[0]]}'?" if close else ""


def join_or(words: Sequence[str]) -> str:
    """Return ``a, b or c``."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def listing(words: Sequence[Any], limit: int) -> str:
    """Return ``a, b, c``, with an ellipsis in place of those after the first ``limit``."""
    return ", ".join(map(str, words[:limit])) + (", …" if words[limit:] else "")


def shorten(text: str, limit: int) -> str:
    """Return ``text``, cut to ``limit`` characters with an ellipsis at the end."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
