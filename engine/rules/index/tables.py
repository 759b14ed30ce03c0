"""Look up an event's payload in the index.

A leaf holds the rules of one key. The time of a search depends on the value and on the number of lengths,
masks and levels of ranges in the index, never on the number of rules.

The remaining tests of a rule are a tuple that rules with the same tests share, not one combined function: a
function and all that it refers to would be spread over memory, and each event needs other rules.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar, Union

from ..conditions import PayloadTest
from ..matchers import OCTETS, parse_address
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
    ValueRange,
)

L = TypeVar("L")
F = TypeVar("F")

Search = Callable[[str, list[L]], None]  # append the leaves of a string to a list

_CHUNK = 4096  # parts of a long string that are in memory at the same time

RemainingTests = tuple[PayloadTest, ...]
IndexEntry = tuple[int, RemainingTests, int]  # number of the set of patterns, tests, number of the rule
# Entries, and before them one byte for the patterns of each: in most leaves no patterns fit, and the bytes
# show it without a look at the entries.
Leaf = tuple[bytes, tuple[IndexEntry, ...]]
IndexBucket = Union["Leaf", "IndexNode"]

# A key of a mapping: its name; for a string the look-up of equal values and further searches; for a mapping
# its fields; for any other value the probe point.
IndexedField = tuple[str, Any, "Search[IndexBucket] | None", "tuple[IndexedField, ...]", "_ProbePoint"]


class Table(Generic[L]):
    """The leaves of the values at one path."""

    __slots__ = ("bounds", "exact", "more", "null")

    def __init__(self, kinds: Mapping[str, Mapping[Any, L]], bounds: SegmentTree[L] | None) -> None:
        self.exact = dict(kinds.get(EXACT, {}))
        self.null = self.exact.pop(None, None)
        self.bounds = bounds
        self.more: Search[L] | None = _one_by_one([*_searches(kinds)])

    def scalar(self, value: object, leaves: list[L]) -> None:
        """Append the leaves of one value that is neither a list nor a mapping."""
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
        try:  # half the time of parse_address, for IPv4 addresses
            first, second, third, fourth = value.split(".", 4)
            number = OCTETS[first] << 24 | OCTETS[second] << 16 | OCTETS[third] << 8 | OCTETS[fourth]
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
    """Return the first three octets of all IPv4 addresses in the networks; None if they are too many."""
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
    """The ranges that contain a number.

    The bounds cut the numbers into pieces; pairs of pieces, pairs of pairs, and so on form a tree. A range
    is filed in the few largest nodes that it fills, and a number is looked up in the nodes above its piece.
    """

    __slots__ = ("_ends", "_filed", "_size")

    def __init__(self, intervals: Mapping[ValueRange, list[F]], leaf: Callable[[list[F]], L]) -> None:
        ends = {end for interval in intervals for end in (interval[0], interval[2]) if end is not None}
        self._ends: list[Any] = sorted(ends)
        self._size = 2 * len(self._ends) + 1  # the ends, and the gaps before, between and after them
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
    """Rules filed by values in the payload, by patterns, or by neither."""

    __slots__ = ("_by_patterns", "_rest", "fields")

    def __init__(
        self, tables: Mapping[FieldPath, Table[IndexBucket]], rest: Leaf, by_patterns: Mapping[int, Leaf]
    ) -> None:
        self.fields = _fields({path: (path, table) for path, table in tables.items()})
        self._rest = rest
        self._by_patterns = dict(by_patterns)

    def open(self, payload: Mapping[str, Any], fitting: Collection[int], buckets: list[IndexBucket]) -> None:
        """Append the buckets of an event; ``fitting`` are the sets of patterns that match its subject."""
        if self._rest[0]:
            buckets.append(self._rest)
        if self._by_patterns:
            known = self._by_patterns
            few, many = (fitting, known) if len(fitting) < len(known) else (known, fitting)
            buckets.extend(known[patterns] for patterns in few if patterns in many)
        if self.fields:
            probe(self.fields, payload, payload, buckets)


def verify(rules: Iterable[tuple[RemainingTests, int]], payload: Mapping[str, Any], found: list[int]) -> None:
    """Append the numbers of the rules whose tests all hold."""
    for tests, number in rules:
        for test in tests:
            if not test(payload):
                break
        else:
            found.append(number)


def verify_leaf(
    leaf: Leaf, fitting: Collection[int], marks: Collection[int], payload: Mapping[str, Any], found: list[int]
) -> None:
    """Append the numbers of the rules in ``leaf`` that match; ``marks`` are the bytes of ``fitting``."""
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
    buckets: list[IndexBucket],
) -> None:
    """Append the buckets of the values in ``mapping``, a part of ``payload``."""
    get = mapping.get
    for name, exact, more, inside, point in fields:
        value: Any = get(name)
        kind = value.__class__
        if kind is str:
            if exact is not None and (bucket := exact(value)) is not None:
                buckets.append(bucket)
            if more is not None:
                more(value, buckets)
        elif kind is dict:
            if inside:
                probe(inside, value, payload, buckets)
        elif value is not None:
            point.other(value, payload, buckets)
        elif point.null is not None and name in mapping:
            buckets.append(point.null)


class _ProbePoint:
    """The look-up of values at a key that are no strings: numbers, booleans, null, lists."""

    __slots__ = ("_below", "_table", "null")

    def __init__(
        self, table: Table[IndexBucket] | None, below: tuple[tuple[FieldPath, Table[IndexBucket]], ...]
    ) -> None:
        self._table = table
        self._below = below
        self.null = table.null if table is not None else None

    def other(self, value: object, payload: Mapping[str, Any], buckets: list[IndexBucket]) -> None:
        """Append the buckets of a value that is neither a string nor a ``dict``."""
        if not isinstance(value, list | Mapping):
            if self._table is not None:
                self._table.scalar(value, buckets)
            return
        for path, table in self._below:
            found: list[IndexBucket] = []
            for element in flatten(resolve(payload, path)):
                table.scalar(element, found)
            # Equal elements must not lead to the same bucket again and again.
            buckets.extend({id(bucket): bucket for bucket in found}.values())


def _fields(tables: Mapping[FieldPath, tuple[FieldPath, Table[IndexBucket]]]) -> tuple[IndexedField, ...]:
    """Arrange tables, by the rest of their paths, as fields of fields."""
    by_name: dict[str, dict[FieldPath, tuple[FieldPath, Table[IndexBucket]]]] = {}
    for (name, *rest), table in tables.items():
        by_name.setdefault(name, {})[tuple(rest)] = table
    return tuple(_field(name, below) for name, below in by_name.items())


def _field(name: str, below: Mapping[FieldPath, tuple[FieldPath, Table[IndexBucket]]]) -> IndexedField:
    table = below[()][1] if () in below else None
    exact = table.exact.get if table is not None and table.exact else None
    more = table.more if table is not None else None
    deeper = {rest: each for rest, each in below.items() if rest}
    return name, exact, more, _fields(deeper), _ProbePoint(table, tuple(below.values()))
