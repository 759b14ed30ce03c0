"""Looking a value up: every leaf of the index that it leads to, and no other rule is touched.

A leaf is what the rules of one key are filed in. Every search takes time that depends on the value
and on how many lengths, masks or doublings of bounds there are, never on the number of rules.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from ..networks import parse_address
from .demands import (
    EXACT,
    FOLDED,
    FOLDED_PREFIX,
    FOLDED_SUFFIX,
    MIN_PART_LENGTH,
    NETWORK,
    PART,
    PREFIX,
    SUFFIX,
)

L = TypeVar("L")
F = TypeVar("F")

Search = Callable[[str, list[L]], None]  # a string, and where to add the leaves that it leads to
ValueRange = tuple[Any, bool, Any, bool]

_OCTETS = {str(number): number for number in range(256)}  # knows no leading zeros, signs or spaces
_CHUNK = 4096  # characters of a long string that are taken apart at a time


class Table(Generic[L]):
    """All that is known of the values at one path."""

    __slots__ = ("bounds", "exact", "more", "null")

    def __init__(self, kinds: Mapping[str, Mapping[Any, L]], bounds: SegmentTree[L] | None) -> None:
        self.exact = dict(kinds.get(EXACT, {}))
        self.null = self.exact.pop(None, None)
        self.bounds = bounds
        self.more: Search[L] | None = _one_by_one([*_searches(kinds)])

    def scalar(self, value: object, leaves: list[L]) -> None:
        """Add the leaves that any one value leads to; a value that no operator knows leads nowhere."""
        if isinstance(value, str):
            if (leaf := self.exact.get(value)) is not None:
                leaves.append(leaf)
            if self.more is not None:
                self.more(value, leaves)
        elif isinstance(value, bool):
            if (leaf := self.exact.get((value,))) is not None:
                leaves.append(leaf)
        elif isinstance(value, int | float):
            if (leaf := self.exact.get(value)) is not None:
                leaves.append(leaf)
            if self.bounds is not None:
                self.bounds.search(value, leaves)
        elif value is None and self.null is not None:
            leaves.append(self.null)


def _searches(kinds: Mapping[str, Mapping[Any, L]]) -> Iterable[Search[L]]:
    if found := kinds.get(PREFIX):
        yield _by_prefix(found)
    if found := kinds.get(SUFFIX):
        yield _by_suffix(found)
    folded = []
    if found := kinds.get(FOLDED):
        folded.append(_by_whole(found))
    if found := kinds.get(FOLDED_PREFIX):
        folded.append(_by_prefix(found))
    if found := kinds.get(FOLDED_SUFFIX):
        folded.append(_by_suffix(found))
    if (search := _one_by_one(folded)) is not None:
        yield _case_folded(search)
    if found := kinds.get(NETWORK):
        yield _by_network(found)
    if found := kinds.get(PART):
        yield _by_part(found)


def _one_by_one(searches: list[Search[L]]) -> Search[L] | None:
    if len(searches) < 2:
        return searches[0] if searches else None
    if len(searches) == 2:
        first, second = searches

        def both(value: str, leaves: list[L]) -> None:
            first(value, leaves)
            second(value, leaves)

        return both

    def search(value: str, leaves: list[L]) -> None:
        for each in searches:
            each(value, leaves)

    return search


def _case_folded(inner: Search[L]) -> Search[L]:
    return lambda value, leaves: inner(value.casefold(), leaves)


def _by_whole(filed: Mapping[str, L]) -> Search[L]:
    get = dict(filed).get

    def search(value: str, leaves: list[L]) -> None:
        if (leaf := get(value)) is not None:
            leaves.append(leaf)

    return search


def _by_prefix(filed: Mapping[str, L]) -> Search[L]:
    lengths, get = sorted(set(map(len, filed))), dict(filed).get

    def search(value: str, leaves: list[L]) -> None:
        size = len(value)
        for length in lengths:
            if length > size:
                break
            if (leaf := get(value[:length])) is not None:
                leaves.append(leaf)

    return search


def _by_suffix(filed: Mapping[str, L]) -> Search[L]:
    lengths, get = sorted(set(map(len, filed))), dict(filed).get

    def search(value: str, leaves: list[L]) -> None:
        size = len(value)
        for length in lengths:
            if length > size:
                break
            if (leaf := get(value[size - length :])) is not None:
                leaves.append(leaf)

    return search


def _by_network(filed: Mapping[tuple[int, int, int], L]) -> Search[L]:
    known: dict[int, dict[int, dict[int, L]]] = {4: {}, 6: {}}
    for (version, free, number), leaf in filed.items():
        known[version].setdefault(free, {})[number] = leaf
    getters = {
        version: tuple((free, by_number.get) for free, by_number in by_free.items())
        for version, by_free in known.items()
    }

    four, heads = getters[4], _heads(filed)

    def search(value: str, leaves: list[L]) -> None:
        if heads is not None and ":" not in value and value[: value.rfind(".")] not in heads:
            return
        try:  # half the time of parse_address, for what most addresses are
            first, second, third, fourth = value.split(".", 4)
            number = _OCTETS[first] << 24 | _OCTETS[second] << 16 | _OCTETS[third] << 8 | _OCTETS[fourth]
            masks = four
        except (KeyError, ValueError):
            if (address := parse_address(value)) is None:
                return
            number, masks = address[1], getters[address[0]]
        for free, get in masks:
            if (leaf := get(number >> free)) is not None:
                leaves.append(leaf)

    return search


def _heads(filed: Iterable[tuple[int, int, int]]) -> frozenset[str] | None:
    """What stands before the last dot of IPv4 addresses in the networks; None where there are wide ones."""
    fours = [(free, number) for version, free, number in filed if version == 4]
    if any(free > 8 for free, _ in fours):
        return None
    threes = {number >> (8 - free) for free, number in fours}
    return frozenset(f"{three >> 16}.{three >> 8 & 255}.{three & 255}" for three in threes)


def _by_part(filed: Mapping[str, L]) -> Search[L]:
    size = MIN_PART_LENGTH
    known = filed.keys()

    def search(value: str, leaves: list[L]) -> None:
        found: set[str] = set()
        for start in range(0, len(value) - size + 1, _CHUNK):
            end = min(start + _CHUNK, len(value) - size + 1)
            found |= known & {value[at : at + size] for at in range(start, end)}
        leaves.extend(filed[part] for part in found)

    return search


class SegmentTree(Generic[L]):
    """Which of many intervals hold a number, by halving: a number is in one piece, a piece in one
    pair of pieces, and so on, and each interval is filed in the few largest that it fills."""

    __slots__ = ("_ends", "_filed", "_size")

    def __init__(self, intervals: Mapping[ValueRange, list[F]], leaf: Callable[[list[F]], L]) -> None:
        ends = {end for interval in intervals for end in (interval[0], interval[2]) if end is not None}
        self._ends: list[Any] = sorted(ends)
        self._size = 2 * len(self._ends) + 1  # the ends, and what is before, between and after them
        pieces: dict[int, list[F]] = {}
        for interval, filings in intervals.items():
            for piece in self._pieces(interval):
                pieces.setdefault(piece, []).extend(filings)
        self._filed = {piece: leaf(filings) for piece, filings in pieces.items()}

    def search(self, value: float, leaves: list[L]) -> None:
        if isinstance(value, float) and not math.isfinite(value):
            return
        ends = self._ends
        at = bisect_left(ends, value)
        piece = 2 * at + (at < len(ends) and ends[at] == value) + self._size
        get = self._filed.get
        while piece:
            if (leaf := get(piece)) is not None:
                leaves.append(leaf)
            piece >>= 1

    def _pieces(self, interval: ValueRange) -> Iterable[int]:
        least, with_least, most, with_most = interval
        low = 0 if least is None else 2 * bisect_left(self._ends, least) + (1 if with_least else 2)
        high = self._size - 1 if most is None else 2 * bisect_left(self._ends, most) + (1 if with_most else 0)
        low += self._size
        high += self._size + 1
        while low < high:
            if low & 1:
                yield low
                low += 1
            if high & 1:
                high -= 1
                yield high
            low >>= 1
            high >>= 1
