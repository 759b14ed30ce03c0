r"""Patterns of ``*`` (any characters, or none) and ``?`` (one character); ``\`` before either, or itself.

They are matched by one scan from left to right: what stands between two stars is looked for after
what was found before it, and the first place is as good as any later one. As a regular expression
with ``.*`` the same pattern may try every combination of places, which never ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

MAX_WILDCARD_LENGTH = 1000  # characters of a pattern


@dataclass(frozen=True, slots=True)
class _Segment:
    """What stands between two stars, always of the same length."""

    size: int  # characters
    stands: Callable[[str, int], object]  # whether it stands in a text at a position
    find: Callable[[str, int, int], int]  # its first position in a text from and before a position, or -1


def wildcard(pattern: str) -> Callable[[str], bool]:
    """Whether a text is as ``pattern`` says; ValueError, in words for operators, where it is no pattern."""
    parts = _split(pattern)
    texts = ["".join(filter(None, part)) for part in parts]
    if list(map(len, texts)) == list(map(len, parts)) and len(parts) > 1:
        return _of_literals(*texts)
    head, *middle = map(_segment, parts)
    if not middle:
        return lambda text: len(text) == head.size and bool(head.stands(text, 0))
    tail = middle.pop()
    middle = [segment for segment in middle if segment.size]

    def holds(text: str) -> bool:
        at, end = head.size, len(text) - tail.size
        if at > end or not head.stands(text, 0) or not tail.stands(text, end):
            return False
        for segment in middle:
            found = segment.find(text, at, end)
            if found < 0:
                return False
            at = found + segment.size
        return True

    return holds


def _of_literals(head: str, *rest: str) -> Callable[[str], bool]:
    """A pattern without question marks, by its texts between the stars: twice as fast."""
    *middle, tail = rest
    middle = [part for part in middle if part]
    before, after = len(head), len(tail)
    shortest = before + after
    if len(middle) == 1 and not shortest:
        (part,) = middle
        return lambda text: part in text

    def holds(text: str) -> bool:
        if len(text) < shortest or not text.startswith(head) or not text.endswith(tail):
            return False
        at, end = before, len(text) - after
        for part in middle:
            at = text.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    return holds


def _split(pattern: str) -> list[list[str | None]]:
    """The characters between the stars, None for a question mark."""
    if len(pattern) > MAX_WILDCARD_LENGTH:
        raise ValueError(f"a pattern of {len(pattern):,} characters; at most {MAX_WILDCARD_LENGTH:,}")
    parts: list[list[str | None]] = [[]]
    chars = iter(pattern)
    for char in chars:
        if char == "*":
            parts.append([])
        elif char == "?":
            parts[-1].append(None)
        elif char == "\\":
            following = next(chars, "")
            if following not in ("*", "?", "\\"):
                raise ValueError(f"{pattern[:60]!r}: a backslash stands before *, ? or a backslash")
            parts[-1].append(following)
        else:
            parts[-1].append(char)
    return parts


def _segment(chars: list[str | None]) -> _Segment:
    literal = "".join(char for char in chars if char is not None)
    if len(literal) == len(chars):
        return _Segment(
            len(chars),
            lambda text, at: text.startswith(literal, at),
            lambda text, at, end: text.find(literal, at, end),
        )
    # No repetition in it, hence nothing to go back to.
    fixed = re.compile("".join("." if char is None else re.escape(char) for char in chars), re.DOTALL)

    def find(text: str, at: int, end: int) -> int:
        found = fixed.search(text, at, end)
        return found.start() if found else -1

    return _Segment(len(chars), fixed.match, find)
