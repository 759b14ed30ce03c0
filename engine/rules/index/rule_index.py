"""Find the rules that match an event among any number of rules.

``RuleIndex`` returns the same rules in the same order as a test of every rule. It files each rule under its
most selective requirement: an exact value, a prefix, a network, a range, or its patterns. The other
conditions are tested for the few rules that have the keys of the event. ``keys`` finds the requirements,
``builder`` estimates and files them, ``tables`` looks them up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from ...model.subjects import Pattern
from ..conditions import Block, Combination, Condition, PayloadTest
from .builder import IndexBuilder, Posting, SubjectStatistics
from .keys import RequiredKeys, parts_of, required_keys_of
from .subject_trie import PatternSets, SubjectIndex
from .tables import IndexBucket, RemainingTests, probe, verify, verify_leaf

T = TypeVar("T")

LINEAR_SCAN_LIMIT = 100  # rules; so few are tested faster than values are looked up
SPLIT_ABOVE = 24  # entries of a bucket; fewer are tested faster than split
MAX_CACHED_SUBJECTS = 8192  # if there are more, the cache is emptied

# The cache of a subject: the sets of patterns that match it, their bytes in leaves, the numbers of the rules
# that match any payload, these rules, and the tests and numbers of the rules that are to be tested.
_SubjectMatches = tuple[
    frozenset[int], frozenset[int], tuple[int, ...], tuple[Any, ...], tuple[tuple[RemainingTests, int], ...]
]


class RuleIndex(Generic[T]):
    """Rules by the keys that they require of an event; built once, never changed."""

    def __init__(
        self,
        entries: Iterable[tuple[Sequence[Pattern], Block, T]] = (),
        *,
        plain_up_to: int = LINEAR_SCAN_LIMIT,
        split_above: int = SPLIT_ABOVE,
        frugal: bool = True,
    ) -> None:
        """``entries`` are patterns, conditions and the rule, in order of evaluation.

        Without ``frugal`` rules are also filed under values that cost more than they save.
        """
        written = [(tuple(patterns), block, item) for patterns, block, item in entries]
        self._items = [item for _, _, item in written]
        self._cache: dict[str, _SubjectMatches] = {}
        statistics = SubjectStatistics([patterns for patterns, _, _ in written])
        sets = PatternSets()
        shares: dict[tuple[Pattern, ...], float] = {}
        parts = _Parts()
        postings = []
        for number, (patterns, block, _) in enumerate(written):
            if patterns not in shares:
                shares[patterns] = statistics.share(patterns)
            tests, requirements = parts.of(block)
            postings.append(Posting(number, sets.of(patterns), shares[patterns], tests, requirements))
        self._trie = SubjectIndex(sets.numbers.items())
        builder = IndexBuilder(split_above, frugal=frugal)
        builder.order_tests(postings)
        if len(postings) <= plain_up_to:
            root, rest = builder.node({}, (), by_patterns=False), postings
        else:
            tables, rest = builder.build_tables(postings, 0)
            root = builder.node(tables, (), by_patterns=False)
        self._fields = root.fields
        self._by_patterns: dict[int, list[tuple[RemainingTests, int]]] = {}
        for posting in rest:
            entry = builder.interned(posting.tests), posting.number
            for each in posting.patterns:
                self._by_patterns.setdefault(each, []).append(entry)

    def __len__(self) -> int:
        return len(self._items)

    def lookup(self, subject: str, payload: Mapping[str, Any]) -> list[T]:
        """Return, in order, the rules that match ``subject`` and whose conditions hold for ``payload``."""
        cached = self._cache.get(subject) or self._match_subject(subject)
        fitting, marks, certain, items, tested = cached
        if not fitting:
            return []
        found: list[int] = []
        if tested:
            verify(tested, payload, found)
        if self._fields:
            buckets: list[Any] = []
            probe(self._fields, payload, payload, buckets)
            disjoint = marks.isdisjoint
            for bucket in buckets:  # the list grows during the loop
                if bucket.__class__ is not tuple:
                    bucket.open(payload, fitting, buckets)
                elif not disjoint(bucket[0]):
                    verify_leaf(bucket, fitting, marks, payload, found)
        if not found:
            return [*items]
        by_number = self._items
        if len(found) == 1:
            matched = [*items]
            matched.insert(bisect_left(certain, found[0]), by_number[found[0]])
            return matched
        # A rule that is filed under several keys may be found by each of them.
        return [by_number[number] for number in sorted({*certain, *found})]

    def candidates(self, subject: str, payload: Mapping[str, Any]) -> int:
        """Return how many rules ``lookup`` looks at: the measure of its work."""
        fitting, _, certain, _, tested = self._cache.get(subject) or self._match_subject(subject)
        buckets: list[IndexBucket] = []
        probe(self._fields, payload, payload, buckets)
        count = len(certain) + len(tested)
        for bucket in buckets:
            if isinstance(bucket, tuple):
                count += len(bucket[0])
            else:
                bucket.open(payload, fitting, buckets)
        return count

    def _match_subject(self, subject: str) -> _SubjectMatches:
        fitting = self._trie.find(subject)
        # A rule is filed under each of its patterns, and several may match.
        entries = {n: tests for each in fitting for tests, n in self._by_patterns.get(each, ())}
        certain = tuple(sorted(number for number, tests in entries.items() if not tests))
        tested = tuple((tests, number) for number, tests in entries.items() if tests)
        if len(self._cache) >= MAX_CACHED_SUBJECTS:
            # Subjects may contain ids: without a bound, memory would grow with each of them.
            self._cache.clear()
        items = tuple(self._items[number] for number in certain)
        marks = frozenset(patterns & 0xFF for patterns in fitting)
        cached = self._cache[subject] = frozenset(fitting), marks, certain, items, tested
        return cached


class _Parts:
    """The tests and requirements of blocks, the same objects for equal conditions."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, str], tuple[PayloadTest, tuple[RequiredKeys, ...]]] = {}

    def of(
        self, block: Block
    ) -> tuple[tuple[PayloadTest, ...], tuple[tuple[RequiredKeys, PayloadTest | None], ...]]:
        tests: list[PayloadTest] = []
        requirements: list[tuple[RequiredKeys, PayloadTest | None]] = []
        for part in parts_of(block):
            test, found = self._part(part)
            tests.append(test)
            requirements.extend((required, test if required.exact_condition else None) for required in found)
        return tuple(tests), tuple(requirements)

    def _part(self, part: Condition | Combination) -> tuple[PayloadTest, tuple[RequiredKeys, ...]]:
        try:
            key: tuple[object, str] = (
                (part.path, repr(part.operators))
                if isinstance(part, Condition)
                else (part.operator, repr(part.source))
            )
        except (ValueError, RecursionError):  # Python refuses to print thousands of digits
            return part.test, required_keys_of(part)
        if key not in self._known:
            self._known[key] = part.test, required_keys_of(part)
        return self._known[key]
