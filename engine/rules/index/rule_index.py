"""Find the rules that match an event, however many rules there are.

``RuleIndex`` returns the rules that testing each one would return, in the same order. It is built once.
Each rule is filed under its most selective requirement: an exact value, a prefix, a network, a range, or
its patterns. The other conditions are tested on the few rules that an event leads to. ``keys`` finds the
requirements, ``builder`` estimates and files them, ``tables`` looks them up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from ...model.subjects import ONE, REST, Pattern
from ..conditions import Block, Combination, Condition
from .builder import IndexBuilder, Posting, SubjectStatistics
from .keys import EXACT, RANGE, PayloadTest, RequiredKeys, parts_of, required_keys_of
from .subject_trie import MAX_CACHED_SUBJECTS, PatternSets, SubjectIndex
from .tables import IndexBucket, RemainingTests, probe, verify, verify_leaf

T = TypeVar("T")

LINEAR_SCAN_LIMIT = 100  # rules; so few are asked faster than values are looked up
SPLIT_ABOVE = 24  # entries of a drawer; fewer are asked faster than filed further

# What is remembered of a subject: the sets of patterns that fit it, and their marks, the numbers of the
# rules that match without more, those rules, and the tests and numbers of those that are to be asked.
_SubjectMatches = tuple[
    frozenset[int], frozenset[int], tuple[int, ...], tuple[Any, ...], tuple[tuple[RemainingTests, int], ...]
]


class RuleIndex(Generic[T]):
    """Rules by what they demand of an event; built once, never changed."""

    def __init__(
        self,
        entries: Iterable[tuple[Sequence[Pattern], Block, T]] = (),
        *,
        plain_up_to: int = LINEAR_SCAN_LIMIT,
        split_above: int = SPLIT_ABOVE,
        frugal: bool = True,
    ) -> None:
        """``entries`` are patterns, conditions and the rule, in order of evaluation.

        ``frugal`` false files under values even where that costs more than it saves.
        """
        written = [(tuple(patterns), block, item) for patterns, block, item in entries]
        self._items = [item for _, _, item in written]
        self._plans: dict[str, _SubjectMatches] = {}
        census = SubjectStatistics([patterns for patterns, _, _ in written])
        sets = PatternSets()
        shares: dict[tuple[Pattern, ...], float] = {}
        parts = _Parts()
        filings = []
        for number, (patterns, block, _) in enumerate(written):
            if patterns not in shares:
                shares[patterns] = census.share(patterns)
            tests, demands = parts.of(block)
            filings.append(Posting(number, sets.of(patterns), shares[patterns], tests, demands))
        self._trie = SubjectIndex(sets.numbers.items())
        self.unselective = tuple(
            item
            for filing, (patterns, _, item) in zip(filings, written, strict=True)
            if _is_broad(patterns) and all(map(_is_weak, filing.demands))
        )
        cabinet = IndexBuilder(split_above, frugal=frugal)
        cabinet.order_tests(filings)
        if len(filings) <= plain_up_to:
            root, rest = cabinet.node({}, (), by_patterns=False), filings
        else:
            tables, rest = cabinet.build_tables(filings, 0)
            root = cabinet.node(tables, (), by_patterns=False)
        self._fields = root.fields
        self._by_patterns: dict[int, list[tuple[RemainingTests, int]]] = {}
        for filing in rest:
            entry = cabinet.residues.intern(filing.tests), filing.number
            for each in filing.patterns:
                self._by_patterns.setdefault(each, []).append(entry)

    def __len__(self) -> int:
        return len(self._items)

    def lookup(self, subject: str, payload: Mapping[str, Any]) -> list[T]:
        """The rules of which a pattern fits ``subject`` and the conditions hold for ``payload``, in order."""
        plan = self._plans.get(subject) or self._plan(subject)
        fitting, marks, sure, items, asked = plan
        if not fitting:
            return []
        found: list[int] = []
        if asked:
            verify(asked, payload, found)
        if self._fields:
            drawers: list[Any] = []
            probe(self._fields, payload, payload, drawers)
            disjoint = marks.isdisjoint
            for drawer in drawers:  # grows on the way
                if drawer.__class__ is not tuple:
                    drawer.open(payload, fitting, drawers)
                elif not disjoint(drawer[0]):
                    verify_leaf(drawer, fitting, marks, payload, found)
        if not found:
            return [*items]
        by_number = self._items
        if len(found) == 1:
            matched = [*items]
            matched.insert(bisect_left(sure, found[0]), by_number[found[0]])
            return matched
        # A rule that is filed under several keys may have been found by each of them.
        return [by_number[number] for number in sorted({*sure, *found})]

    def candidates(self, subject: str, payload: Mapping[str, Any]) -> int:
        """How many rules ``lookup`` looks at one by one: the measure of its work."""
        fitting, _, sure, _, asked = self._plans.get(subject) or self._plan(subject)
        drawers: list[IndexBucket] = []
        probe(self._fields, payload, payload, drawers)
        count = len(sure) + len(asked)
        for drawer in drawers:
            if isinstance(drawer, tuple):
                count += len(drawer[0])
            else:
                drawer.open(payload, fitting, drawers)
        return count

    def _plan(self, subject: str) -> _SubjectMatches:
        fitting = self._trie.find(subject)
        # A rule is there under each of its patterns, and several may fit.
        entries = {n: tests for each in fitting for tests, n in self._by_patterns.get(each, ())}
        sure = tuple(sorted(number for number, tests in entries.items() if not tests))
        asked = tuple((tests, number) for number, tests in entries.items() if tests)
        if len(self._plans) >= MAX_CACHED_SUBJECTS:
            # Subjects may carry ids: without a bound, memory would grow with every one of them.
            self._plans.clear()
        items = tuple(self._items[number] for number in sure)
        marks = frozenset(patterns & 0xFF for patterns in fitting)
        plan = self._plans[subject] = frozenset(fitting), marks, sure, items, asked
        return plan


class _Parts:
    """The tests and demands of blocks, the same objects for equal conditions."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, str], tuple[PayloadTest, tuple[RequiredKeys, ...]]] = {}

    def of(
        self, block: Block
    ) -> tuple[tuple[PayloadTest, ...], tuple[tuple[RequiredKeys, PayloadTest | None], ...]]:
        tests: list[PayloadTest] = []
        demands: list[tuple[RequiredKeys, PayloadTest | None]] = []
        for part in parts_of(block):
            test, found = self._part(part)
            tests.append(test)
            demands.extend((demand, test if demand.exact_condition else None) for demand in found)
        return tuple(tests), tuple(demands)

    def _part(self, part: Condition | Combination) -> tuple[PayloadTest, tuple[RequiredKeys, ...]]:
        try:
            key: tuple[object, str] = (
                (part.path, repr(part.operators))
                if isinstance(part, Condition)
                else (part.operator, repr(part.source))
            )
        except (ValueError, RecursionError):  # thousands of digits
            return part.test, required_keys_of(part)
        if key not in self._known:
            self._known[key] = part.test, required_keys_of(part)
        return self._known[key]


def _is_broad(patterns: Sequence[Pattern]) -> bool:
    return any(sum(token not in (ONE, REST) for token in pattern.tokens) < 2 for pattern in patterns)


def _is_weak(demand: tuple[RequiredKeys, PayloadTest | None]) -> bool:
    """Whether so many events meet it that it hardly helps to file under it."""
    return any(
        kind == RANGE or (kind == EXACT and (value is None or isinstance(value, tuple)))
        for (_, kind), value in demand[0].all_keys()
    )
