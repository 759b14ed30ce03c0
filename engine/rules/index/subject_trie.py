"""Find what is filed under the patterns that match a subject, however many there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from ...model.subjects import ONE, REST, Pattern

T = TypeVar("T")

MAX_CACHED_SUBJECTS = 8192  # subjects whose answer is kept; all are forgotten when there are more
MAX_SEPARATE_PATTERNS = (
    4  # patterns of a rule; it is filed under each, where they are more under all together
)


class _TrieNode:
    """What is filed at one point of the trie; numbers are places in the order of definition."""

    __slots__ = ("any_token", "children", "here", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _TrieNode] = {}  # by literal token
        self.any_token: _TrieNode | None = None  # after *
        self.here: list[int] = []  # patterns that end here
        self.rest: list[int] = []  # patterns whose > begins here


class SubjectIndex(Generic[T]):
    """Items by subject, in the order in which they were given; built once, never changed.

    It answers which items' patterns match, and leaves every other condition to the caller.
    """

    def __init__(self, entries: Iterable[tuple[Iterable[Pattern], T]] = ()) -> None:
        self._root = _TrieNode()
        self._items: list[T] = []
        self._memory: dict[str, tuple[T, ...]] = {}
        for place, (patterns, item) in enumerate(entries):
            self._items.append(item)
            for pattern in patterns:
                self._file(pattern, place)

    def __len__(self) -> int:
        return len(self._items)

    def lookup(self, subject: str) -> tuple[T, ...]:
        """The items with a pattern that matches the concrete ``subject``, each once."""
        known = self._memory.get(subject)
        if known is None:
            known = self.find(subject)
            if len(self._memory) >= MAX_CACHED_SUBJECTS:
                # Subjects may carry ids: without a bound, memory would grow with every one of them.
                self._memory.clear()
            self._memory[subject] = known
        return known

    def find(self, subject: str) -> tuple[T, ...]:
        """As ``lookup``, for a caller who remembers by itself."""
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

    A few patterns of one rule are each a set of its own, shared with other rules: combinations
    would be many more, and each subject would have to remember all that fit it.
    """

    def __init__(self) -> None:
        self.numbers: dict[tuple[Pattern, ...], int] = {}

    def of(self, patterns: tuple[Pattern, ...]) -> tuple[int, ...]:
        few = len(patterns) <= MAX_SEPARATE_PATTERNS
        apart = [(pattern,) for pattern in dict.fromkeys(patterns)] if few else [patterns]
        return tuple([self.numbers.setdefault(each, len(self.numbers)) for each in apart])
