"""Walking an event's payload through the index."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Union

from ..paths import FieldPath, flatten, resolve
from .residues import RemainingTests
from .tables import Search, Table

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
