"""Build the index: file each rule under its most selective keys, and split large buckets by other keys.

The rules themselves give the estimate: a key that many rules name is likely to be in many events.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from ...model.subjects import ONE, REST, Pattern
from ..conditions import PayloadTest
from ..paths import FieldPath
from .keys import EXACT, MIN_PART_LENGTH, PART, RANGE, Key, RequiredKeys, Slot
from .tables import IndexBucket, IndexEntry, IndexNode, Leaf, RemainingTests, SegmentTree, Table, make_leaf

MAX_DEPTH = 6  # levels of buckets

# Costs are in look-ups of a rule whose patterns do not fit. To test a rule takes this much longer.
TEST_COST = 10.0

# Shares of events. The estimate of a key is drawn towards the prior as if so many rules had named it.
_PRIOR_WEIGHT, _PRIOR_SHARE = 2, 0.1
_MIN_CONSTANT_SHARE = 0.3  # with a given boolean, or with null
_CLOSED_RANGE_SHARE, _OPEN_RANGE_SHARE = 0.25, 0.5  # between two bounds, beyond one
_MIN_PART_SHARE = 0.05

_CANDIDATES = 32  # rules under one key; more are split by other keys

# The cost of a look-up in a slot, for each event.
SLOT_COSTS = defaultdict(lambda: 1.0, {EXACT: 0.5, RANGE: 5.0, PART: 60.0})


@dataclass(slots=True, eq=False)
class Posting:
    """A rule as the index files it."""

    number: int  # position in the order of rules
    patterns: tuple[int, ...]  # numbers of its sets of patterns
    share: float  # of events whose subject its patterns match
    tests: RemainingTests  # still to be run if the patterns fit
    requirements: tuple[tuple[RequiredKeys, PayloadTest | None], ...]  # not yet used; the test each replaces

    @property
    def plain_cost(self) -> float:
        """The cost for an event of a rule that is filed by its patterns alone."""
        return TEST_COST * self.share

    def without(self, required: RequiredKeys) -> Posting:
        """Return the rule as it is to be tested once ``required`` is met."""
        replaced = next(test for each, test in self.requirements if each is required)
        tests = self.tests if replaced is None else tuple(test for test in self.tests if test is not replaced)
        rest = tuple(each for each in self.requirements if each[0] is not required)
        return Posting(self.number, self.patterns, self.share, tests, rest)


class IndexBuilder:
    """Builds nodes; a bucket with more than ``split_above`` entries is split by further keys."""

    def __init__(self, split_above: int, *, frugal: bool = True) -> None:
        self.split_above = split_above
        self.frugal = frugal  # use only keys that save more than their look-up costs
        self._interned: dict[RemainingTests, RemainingTests] = {}

    def order_tests(self, postings: Iterable[Posting]) -> None:
        """Sort the tests of each rule: first the one that the fewest events pass."""
        statistics = KeyStatistics(required for posting in postings for required, _ in posting.requirements)
        for posting in postings:
            if len(posting.tests) > 1:
                shares = {id(test): statistics.share(keys) for keys, test in posting.requirements if test}
                posting.tests = tuple(sorted(posting.tests, key=lambda test: shares.get(id(test), 1.0)))

    def entries(self, postings: Sequence[Posting]) -> list[IndexEntry]:
        of = self.interned
        return [(n, of(posting.tests), posting.number) for posting in postings for n in posting.patterns]

    def interned(self, tests: RemainingTests) -> RemainingTests:
        """Return the one tuple for all rules with the same tests."""
        return self._interned.setdefault(tests, tests)

    def leaf(self, postings: Sequence[Posting]) -> Leaf:
        return make_leaf(self.entries(postings))

    def bucket(self, postings: list[Posting], depth: int) -> IndexBucket:
        if len(postings) <= self.split_above or depth >= MAX_DEPTH:
            return self.leaf(postings)
        tables, rest = self.build_tables(postings, depth)
        if not tables and len({posting.patterns for posting in rest}) == 1:
            return self.leaf(rest)
        return self.node(tables, rest, by_patterns=len(rest) > self.split_above)

    def node(
        self, tables: Mapping[FieldPath, Table[IndexBucket]], rest: Sequence[Posting], *, by_patterns: bool
    ) -> IndexNode:
        if not by_patterns:
            return IndexNode(tables, self.leaf(rest), {})
        grouped: defaultdict[int, list[IndexEntry]] = defaultdict(list)
        for entry in self.entries(rest):
            grouped[entry[0]].append(entry)
        return IndexNode(
            tables, make_leaf([]), {patterns: make_leaf(each) for patterns, each in grouped.items()}
        )

    def build_tables(
        self, postings: Sequence[Posting], depth: int
    ) -> tuple[dict[FieldPath, Table[IndexBucket]], list[Posting]]:
        """Return tables by path, and the rules without keys that are worth a look-up."""
        statistics = KeyStatistics(required for posting in postings for required, _ in posting.requirements)
        slots = self._slots(postings, statistics)
        filed: defaultdict[Slot, defaultdict[Any, list[Posting]]] = defaultdict(lambda: defaultdict(list))
        rest = []
        for posting, choice in zip(
            postings, _KeyChoices(postings, statistics, slots, self.frugal).chosen, strict=True
        ):
            if choice is None:
                rest.append(posting)
                continue
            required, keys = choice
            inside = posting.without(required)
            for slot, value in keys:
                filed[slot][value].append(inside)
        return self._tables(filed, depth), rest

    def _slots(self, postings: Sequence[Posting], statistics: KeyStatistics) -> set[Slot]:
        """Return the slots that save more than they cost."""
        gains: defaultdict[Slot, float] = defaultdict(float)
        for posting in postings:
            for required, _ in posting.requirements:
                if (gain := posting.plain_cost - cost(statistics, posting, required)) > 0.0:
                    for slot in {slot for slot, _ in required.all_keys()}:
                        gains[slot] += gain
        return {slot for slot, gain in gains.items() if not self.frugal or gain > SLOT_COSTS[slot[1]]}

    def _tables(
        self, filed: Mapping[Slot, Mapping[Any, list[Posting]]], depth: int
    ) -> dict[FieldPath, Table[IndexBucket]]:
        kinds: defaultdict[FieldPath, dict[str, dict[Any, IndexBucket]]] = defaultdict(dict)
        bounds: dict[FieldPath, SegmentTree[IndexBucket]] = {}
        for (path, kind), by_value in filed.items():
            if kind == RANGE:
                # A rule is in several nodes of the tree: to split each of them would take too much memory.
                bounds[path] = SegmentTree(by_value, self.leaf)
                kinds[path].update()  # adds the path, even if it has no other kind
            else:
                found = _by_rarest_part(by_value) if kind == PART else by_value
                kinds[path][kind] = {
                    value: self.bucket(postings, depth + 1) for value, postings in found.items()
                }
        return {path: Table(by_kind, bounds.get(path)) for path, by_kind in kinds.items()}


class _KeyChoices:
    """For each rule the requirement and the keys to file it under; None if none is worth it."""

    def __init__(
        self, postings: Sequence[Posting], statistics: KeyStatistics, slots: set[Slot], frugal: bool
    ) -> None:
        self._statistics = statistics
        self._allowed = set(slots)
        self._options = [
            sorted(
                [(cost(statistics, posting, required), required) for required, _ in posting.requirements],
                key=itemgetter(0),
            )
            for posting in postings
        ]
        self._postings = postings
        self.chosen = [self._choose(n) for n in range(len(postings))]
        if frugal:
            self._drop_unhelpful()

    def _choose(self, n: int, without: Slot | None = None) -> tuple[RequiredKeys, tuple[Key, ...]] | None:
        for spent, required in self._options[n]:
            if spent >= self._postings[n].plain_cost:
                return None
            keys = self._statistics.best_keys(required, self._allowed)
            if keys is not None and not any(slot == without for slot, _ in keys):
                return required, keys
        return None

    def _drop_unhelpful(self) -> None:
        """Drop slots whose rules other slots find at about the same cost."""
        users: defaultdict[Slot, list[int]] = defaultdict(list)
        for n, choice in enumerate(self.chosen):
            if choice is not None:
                for slot in {slot for slot, _ in choice[1]}:
                    users[slot].append(n)
        self._allowed &= users.keys()
        for slot in sorted(users, key=lambda slot: len(users[slot])):
            gain = 0.0
            alternatives = []
            for n in users[slot]:
                choice = self.chosen[n]
                if choice is None or not any(used == slot for used, _ in choice[1]):
                    continue
                other = self._choose(n, without=slot)
                gain += self._cost(n, other) - self._cost(n, choice)
                if gain > SLOT_COSTS[slot[1]]:
                    break
                alternatives.append((n, other))
            else:
                self._allowed.discard(slot)
                for n, other in alternatives:
                    self.chosen[n] = other
                    for used in {used for used, _ in other[1]} if other else ():
                        users[used].append(n)

    def _cost(self, n: int, choice: tuple[RequiredKeys, tuple[Key, ...]] | None) -> float:
        posting = self._postings[n]
        return posting.plain_cost if choice is None else cost(self._statistics, posting, choice[0])


def cost(statistics: KeyStatistics, posting: Posting, required: RequiredKeys) -> float:
    """Return the cost for an event of a rule that is filed under ``required``."""
    return statistics.candidate_share(required) + posting.plain_cost * statistics.share(required)


def _by_rarest_part(filed: Mapping[str, list[Posting]]) -> dict[str, list[Posting]]:
    """Group by the part of each text that the fewest other texts have."""
    counted = Counter(part for text in filed for part in set(_parts(text)))
    parts: defaultdict[str, list[Posting]] = defaultdict(list)
    for text, postings in filed.items():
        known = parts[min(_parts(text), key=lambda part: (counted[part], part))]
        known.extend(posting for posting in postings if posting not in known)
    return dict(parts)


def _parts(text: str) -> list[str]:
    return [text[at : at + MIN_PART_LENGTH] for at in range(len(text) - MIN_PART_LENGTH + 1)]


class KeyStatistics:
    """The estimated share of events that have each key: by how many rules name it."""

    def __init__(self, requirements: Iterable[RequiredKeys]) -> None:
        named: defaultdict[Slot, dict[object, int]] = defaultdict(dict)
        for required in requirements:
            for slot, value in required.all_keys():
                counted = named[slot]
                counted[value] = counted.get(value, 0) + 1
        self._slots = {slot: (counted, sum(counted.values())) for slot, counted in named.items()}
        self._shares: dict[RequiredKeys, float] = {}
        self._candidate_shares: dict[RequiredKeys, float] = {}

    def share(self, required: RequiredKeys) -> float:
        """Return the share of events that meet ``required``, by the best of each alternative."""
        share = self._shares.get(required)
        if share is None:
            share = 0.0
            for slot, value in required.keys:
                share += self._key_share(slot, value)
            for choice in required.alternatives:
                share += min(map(self.share, choice))
            self._shares[required] = share
        return share

    def candidate_share(self, required: RequiredKeys) -> float:
        """Return the share of events for which the rule is looked at: of many under one key, a few."""
        share = self._candidate_shares.get(required)
        if share is None:
            share = 0.0
            for slot, value in required.keys:
                named = 1 if slot[1] in (RANGE, PART) else self._slots[slot][0][value]
                share += self._key_share(slot, value) * min(1.0, _CANDIDATES / named)
            for choice in required.alternatives:
                share += min(map(self.candidate_share, choice))
            self._candidate_shares[required] = share
        return share

    def best_keys(self, required: RequiredKeys, allowed: Iterable[Slot]) -> tuple[Key, ...] | None:
        """Return the keys to file ``required`` under, all in ``allowed`` slots; None if there are none."""
        keys = list(required.keys)
        if any(slot not in allowed for slot, _ in keys):
            return None
        for choice in required.alternatives:
            possible = [(self.share(each), n, each) for n, each in enumerate(choice)]
            inside = (self.best_keys(each, allowed) for _, _, each in sorted(possible))
            found = next((each for each in inside if each is not None), None)
            if found is None:
                return None
            keys.extend(found)
        return tuple(dict.fromkeys(keys))

    def _key_share(self, slot: Slot, value: object) -> float:
        kind = slot[1]
        if kind == RANGE:
            assert isinstance(value, tuple)  # noqa: S101 -- a ValueRange
            return _OPEN_RANGE_SHARE if value[0] is None or value[2] is None else _CLOSED_RANGE_SHARE
        counted, total = self._slots[slot]
        share = (counted[value] + _PRIOR_WEIGHT * _PRIOR_SHARE) / (total + _PRIOR_WEIGHT)
        if kind == PART:
            return max(share, _MIN_PART_SHARE)
        if kind == EXACT and (value is None or isinstance(value, tuple)):
            return max(share, _MIN_CONSTANT_SHARE)
        return share


class SubjectStatistics:
    """The estimated share of events that the patterns of a rule match."""

    def __init__(self, written: Sequence[tuple[Pattern, ...]]) -> None:
        counted = Counter(written)
        self._patterns: Counter[Pattern] = Counter()
        self._tokens: defaultdict[int, Counter[str]] = defaultdict(Counter)
        for patterns, times in counted.items():
            for pattern in patterns:
                self._patterns[pattern] += times
                for position, token in enumerate(pattern.tokens):
                    if token not in (ONE, REST):
                        self._tokens[position][token] += times
        self._total = {position: tokens.total() for position, tokens in self._tokens.items()}
        self._rules = max(1, len(written))

    def share(self, patterns: Iterable[Pattern]) -> float:
        return min(1.0, sum(map(self._share, patterns)))

    def _share(self, pattern: Pattern) -> float:
        share = 1.0
        for position, token in enumerate(pattern.tokens):
            if token not in (ONE, REST):
                share *= self._tokens[position][token] / self._total[position]
        return max(share, self._patterns[pattern] / self._rules)
