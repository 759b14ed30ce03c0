"""Look up an event's payload in the index: every leaf that it leads to, and no other rule.

A leaf holds the rules of one key. The time of a search depends on the value and on how many lengths, masks
or doublings of bounds the index has, never on the number of rules.

The remaining tests of a rule are a tuple that rules with the same tests share, not one combined function.
The rules of an event lie elsewhere in memory than those of the event before, and a function with all that
it refers to lies in half a dozen places.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar, Union

from ..matchers import parse_address
from ..paths import FieldPath, flatten, resolve
from .keys import (
    EXACT,
    FOLDED,
    FOLDED_PREFIX,
    FOLDED_SUFFIX,
    MIN_PART_LENGTH,
    NETWORK,
    PART,
    PREFIX,
    SUFFIX,
    PayloadTest,
)

L = TypeVar("L")
F = TypeVar("F")

Search = Callable[[str, list[L]], None]  # a string, and where to add the leaves that it leads to
ValueRange = tuple[Any, bool, Any, bool]

_OCTETS = {str(number): number for number in range(256)}  # knows no leading zeros, signs or spaces
_CHUNK = 4096  # characters of a long string that are taken apart at a time

RemainingTests = tuple[PayloadTest, ...]

IndexEntry = tuple[
    int, RemainingTests, int
]  # number of the set of patterns, what is left to ask, number of the rule
# Entries, and before them one byte for the patterns of each: most leaves have no rule whose patterns
# fit, and that is seen without going to where in memory the entries are.
Leaf = tuple[bytes, tuple[IndexEntry, ...]]
IndexBucket = Union["Leaf", "IndexNode"]

# A key of a mapping: its name, then what a string there leads to: the exact drawers and further
# searches; then the fields of a mapping there; then what to do with all else.
IndexedField = tuple[str, Any, "Search[IndexBucket] | None", "tuple[IndexedField, ...]", "_ProbePoint"]


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


def make_leaf(entries: Sequence[IndexEntry]) -> Leaf:
    return bytes([patterns & 0xFF for patterns, _, _ in entries]), tuple(entries)


class IndexNode:
    """Rules filed by values in the payload, by patterns, and in no way."""

    __slots__ = ("_by_patterns", "_rest", "fields")

    def __init__(
        self, tables: Mapping[FieldPath, Table[IndexBucket]], rest: Leaf, by_patterns: Mapping[int, Leaf]
    ) -> None:
        self.fields = _fields({path: (path, table) for path, table in tables.items()})
        self._rest = rest
        self._by_patterns = dict(by_patterns)

    def open(self, payload: Mapping[str, Any], fitting: Collection[int], drawers: list[IndexBucket]) -> None:
        """Add the drawers that the event leads to; ``fitting`` are the sets of patterns that fit it."""
        if self._rest[0]:
            drawers.append(self._rest)
        if self._by_patterns:
            known = self._by_patterns
            few, many = (fitting, known) if len(fitting) < len(known) else (known, fitting)
            drawers.extend(known[patterns] for patterns in few if patterns in many)
        if self.fields:
            probe(self.fields, payload, payload, drawers)


def verify(asked: Iterable[tuple[RemainingTests, int]], payload: Mapping[str, Any], found: list[int]) -> None:
    """Add the numbers of the rules of which every test holds."""
    for tests, number in asked:
        for test in tests:
            if not test(payload):
                break
        else:
            found.append(number)


def verify_leaf(
    leaf: Leaf, fitting: Collection[int], marks: Collection[int], payload: Mapping[str, Any], found: list[int]
) -> None:
    """Add the numbers of the rules in ``leaf`` that match; ``marks`` are those of ``fitting`` patterns."""
    entries = leaf[1]
    for place, mark in enumerate(leaf[0]):
        if mark in marks:
            patterns, tests, number = entries[place]
            if patterns in fitting:
                for test in tests:
                    if not test(payload):
                        break
                else:
                    found.append(number)


def probe(
    fields: tuple[IndexedField, ...],
    mapping: Mapping[str, Any],
    payload: Mapping[str, Any],
    drawers: list[IndexBucket],
) -> None:
    """Add the drawers that the values in ``mapping``, a part of ``payload``, lead to."""
    get = mapping.get
    for name, exact, more, inside, spot in fields:
        value: Any = get(name)
        kind = value.__class__
        if kind is str:
            if exact is not None and (drawer := exact(value)) is not None:
                drawers.append(drawer)
            if more is not None:
                more(value, drawers)
        elif kind is dict:
            if inside:
                probe(inside, value, payload, drawers)
        elif value is not None:
            spot.other(value, payload, drawers)
        elif spot.null is not None and name in mapping:
            drawers.append(spot.null)


class _ProbePoint:
    """A point below which rules are filed, for values that are not what one hopes for."""

    __slots__ = ("_below", "_table", "null")

    def __init__(
        self, table: Table[IndexBucket] | None, below: tuple[tuple[FieldPath, Table[IndexBucket]], ...]
    ) -> None:
        self._table = table
        self._below = below
        self.null = table.null if table is not None else None

    def other(self, value: object, payload: Mapping[str, Any], drawers: list[IndexBucket]) -> None:
        """A number, a boolean, or what has to be gone into."""
        if not isinstance(value, list | Mapping):
            if self._table is not None:
                self._table.scalar(value, drawers)
            return
        for path, table in self._below:
            found: list[IndexBucket] = []
            for element in flatten(resolve(payload, path)):
                table.scalar(element, found)
            # Elements that are alike must not have the same rules asked again and again.
            drawers.extend({id(drawer): drawer for drawer in found}.values())


def _fields(tables: Mapping[FieldPath, tuple[FieldPath, Table[IndexBucket]]]) -> tuple[IndexedField, ...]:
    """The tables, by what is left of their paths, as fields of fields."""
    own: dict[str, Table[IndexBucket]] = {}
    deeper: dict[str, dict[FieldPath, tuple[FieldPath, Table[IndexBucket]]]] = {}
    below: dict[str, list[tuple[FieldPath, Table[IndexBucket]]]] = {}
    for (name, *rest), table in tables.items():
        below.setdefault(name, []).append(table)
        if rest:
            deeper.setdefault(name, {})[tuple(rest)] = table
        else:
            own[name] = table[1]
    return tuple(
        _field(name, own.get(name), deeper.get(name, {}), tuple(placed)) for name, placed in below.items()
    )


def _field(
    name: str,
    table: Table[IndexBucket] | None,
    deeper: Mapping[FieldPath, tuple[FieldPath, Table[IndexBucket]]],
    below: tuple[tuple[FieldPath, Table[IndexBucket]], ...],
) -> IndexedField:
    exact = table.exact.get if table is not None and table.exact else None
    more = table.more if table is not None else None
    return name, exact, more, _fields(deeper), _ProbePoint(table, below)


class InternedTests:
    """Tuples of tests, each once."""

    def __init__(self) -> None:
        self._known: dict[RemainingTests, RemainingTests] = {}

    def intern(self, tests: RemainingTests) -> RemainingTests:
        return self._known.setdefault(tests, tests)
