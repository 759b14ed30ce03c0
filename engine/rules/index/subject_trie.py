"""Find the items whose patterns match a subject. The time does not depend on the number of patterns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from ...model.subjects import ONE, REST, Pattern

T = TypeVar("T")

# A rule with at most so many patterns is filed under each of them, one with more under all together.
MAX_SEPARATE_PATTERNS = 4


class _TrieNode:
    """One token of a subject. Numbers are positions in the order of definition."""

    __slots__ = ("any_token", "children", "here", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _TrieNode] = {}  # by literal token
        self.any_token: _TrieNode | None = None  # after *
        self.here: list[int] = []  # items of patterns that end here
        self.rest: list[int] = []  # items of patterns whose > begins here


class SubjectIndex(Generic[T]):
    """Items by subject, in the order of definition; built once, never changed."""

    def __init__(self, entries: Iterable[tuple[Iterable[Pattern], T]] = ()) -> None:
        self._root = _TrieNode()
        self._items: list[T] = []
        for place, (patterns, item) in enumerate(entries):
            self._items.append(item)
            for pattern in patterns:
                self._file(pattern, place)

    def __len__(self) -> int:
        return len(self._items)

    def find(self, subject: str) -> tuple[T, ...]:
        """Return the items with a pattern that matches the concrete ``subject``, each once."""
        return tuple(self._items[place] for place in sorted(self._places(subject)))

    def _file(self, pattern: Pattern, place: int) -> None:
        node = self._root
        for token in pattern.tokens:
            if token == REST:
                node.rest.append(place)
                return
            if token == ONE:
                node.any_token = node.any_token or _TrieNode()
                node = node.any_token
            else:
                node = node.children.setdefault(token, _TrieNode())
        node.here.append(place)

    def _places(self, subject: str) -> set[int]:
        places: set[int] = set()
        nodes = [self._root]
        for token in subject.split("."):
            after: list[_TrieNode] = []
            for node in nodes:
                places.update(node.rest)
                if (literal := node.children.get(token)) is not None:
                    after.append(literal)
                if node.any_token is not None:
                    after.append(node.any_token)
            nodes = after
            if not nodes:
                break
        for node in nodes:
            places.update(node.here)
        return places


class PatternSets:
    """Numbers for sets of patterns.

    Each of a few patterns of a rule is a set of its own, shared with other rules. There would be many
    more combinations, and the cache of each subject would hold all that match it.
    """

    def __init__(self) -> None:
        self.numbers: dict[tuple[Pattern, ...], int] = {}

    def of(self, patterns: tuple[Pattern, ...]) -> tuple[int, ...]:
        few = len(patterns) <= MAX_SEPARATE_PATTERNS
        sets = [(pattern,) for pattern in dict.fromkeys(patterns)] if few else [patterns]
        return tuple([self.numbers.setdefault(each, len(self.numbers)) for each in sets])
