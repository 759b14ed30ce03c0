"""Build the index: file each rule under its most selective key, and split large leaves by another.

Selectivity is estimated from the rules themselves: a key that many rules name is likely to be in many
events.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...model.subjects import ONE, REST, Pattern
from ..paths import FieldPath
from .keys import EXACT, MIN_PART_LENGTH, PART, RANGE, Key, PayloadTest, RequiredKeys, Slot
from .tables import IndexBucket, IndexEntry, IndexNode, InternedTests, Leaf, SegmentTree, Table, make_leaf

MAX_DEPTH = 6  # how often a drawer is filed further

# Of a rule that is filed by its patterns a test has to be asked; of one filed by a value mostly
# nothing but whether its patterns fit, which takes a fraction of that.
TEST = 10.0

_PRIOR_WEIGHT = 2  # a slot's frequencies are drawn towards _USUAL as if so many rules had said so
_PRIOR_SHARE = 0.1
_MIN_CONSTANT_SHARE = 0.3  # at least so many events have a given boolean, or null
_CLOSED_RANGE_SHARE, _OPEN_RANGE_SHARE = 0.25, 0.5  # so many are between two bounds, beyond one
_HAS_PART = 0.05
_LOOKED_AT = 32  # rules under one key; more are filed further

# What looking a slot up costs an event, in candidates that could be tested in the time.
COSTS = defaultdict(lambda: 1.0, {EXACT: 0.5, RANGE: 5.0, PART: 60.0})


@dataclass(slots=True, eq=False)
class Posting:
    """A rule that is to be filed."""

    number: int  # place in the order of rules
    patterns: tuple[int, ...]  # numbers of its sets of patterns
    share: float  # of events that its patterns may fit
    tests: tuple[PayloadTest, ...]  # what has to be asked once the patterns fit
    demands: tuple[
        tuple[RequiredKeys, PayloadTest | None], ...
    ]  # not used yet; the test that each makes needless

    def without(self, demand: RequiredKeys) -> Posting:
        """The same rule as it stands where ``demand`` is met."""
        settled = next(test for each, test in self.demands if each is demand)
        tests = self.tests if settled is None else tuple(test for test in self.tests if test is not settled)
        rest = tuple(each for each in self.demands if each[0] is not demand)
        return Posting(self.number, self.patterns, self.share, tests, rest)


class IndexBuilder:
    """Builds nodes; ``split_above`` is the number of entries up to which a drawer is a leaf."""

    def __init__(self, split_above: int, *, frugal: bool = True) -> None:
        self.split_above = split_above
        self.frugal = frugal  # look up only what saves more than it costs
        self.residues = InternedTests()

    def order_tests(self, filings: Iterable[Posting]) -> None:
        """Have each rule asked first what the fewest events will satisfy."""
        census = KeyStatistics(demand for filing in filings for demand, _ in filing.demands)
        for filing in filings:
            if len(filing.tests) > 1:
                shares = {id(test): census.share(demand) for demand, test in filing.demands if test}
                filing.tests = tuple(sorted(filing.tests, key=lambda test: shares.get(id(test), 1.0)))

    def entries(self, filings: Sequence[Posting]) -> list[IndexEntry]:
        of = self.residues.intern
        return [(each, of(filing.tests), filing.number) for filing in filings for each in filing.patterns]

    def leaf(self, filings: Sequence[Posting]) -> Leaf:
        return make_leaf(self.entries(filings))

    def bucket(self, filings: list[Posting], depth: int) -> IndexBucket:
        if len(filings) <= self.split_above or depth >= MAX_DEPTH:
            return self.leaf(filings)
        drawers, rest = self.build_tables(filings, depth)
        if not drawers and len({filing.patterns for filing in rest}) == 1:
            return self.leaf(rest)
        return self.node(drawers, rest, by_patterns=len(rest) > self.split_above)

    def node(
        self, drawers: Mapping[FieldPath, Table[IndexBucket]], rest: Sequence[Posting], *, by_patterns: bool
    ) -> IndexNode:
        if not by_patterns:
            return IndexNode(drawers, self.leaf(rest), {})
        grouped: defaultdict[int, list[IndexEntry]] = defaultdict(list)
        for entry in self.entries(rest):
            grouped[entry[0]].append(entry)
        return IndexNode(
            drawers, make_leaf([]), {patterns: make_leaf(each) for patterns, each in grouped.items()}
        )

    def build_tables(
        self, filings: Sequence[Posting], depth: int
    ) -> tuple[dict[FieldPath, Table[IndexBucket]], list[Posting]]:
        """Tables by path, and the rules for which no demand is worth looking up."""
        census = KeyStatistics(demand for filing in filings for demand, _ in filing.demands)
        slots = self._slots(filings, census)
        filed: defaultdict[Slot, defaultdict[Any, list[Posting]]] = defaultdict(lambda: defaultdict(list))
        rest = []
        for filing, choice in zip(
            filings, _KeyChoices(filings, census, slots, self.frugal).chosen, strict=True
        ):
            if choice is None:
                rest.append(filing)
                continue
            demand, keys = choice
            inside = filing.without(demand)
            for slot, value in keys:
                filed[slot][value].append(inside)
        return self._tables(filed, depth), rest

    def _slots(self, filings: Sequence[Posting], census: KeyStatistics) -> set[Slot]:
        """The slots that may be worth looking up, measured by what they leave out."""
        gains: defaultdict[Slot, float] = defaultdict(float)
        for filing in filings:
            for demand, _ in filing.demands:
                if (gain := TEST * filing.share - cost(census, filing, demand)) > 0.0:
                    for slot in {slot for slot, _ in demand.all_keys()}:
                        gains[slot] += gain
        return {slot for slot, gain in gains.items() if not self.frugal or gain > COSTS[slot[1]]}

    def _tables(
        self, filed: Mapping[Slot, Mapping[Any, list[Posting]]], depth: int
    ) -> dict[FieldPath, Table[IndexBucket]]:
        kinds: defaultdict[FieldPath, dict[str, dict[Any, IndexBucket]]] = defaultdict(dict)
        bounds: dict[FieldPath, SegmentTree[IndexBucket]] = {}
        for (path, kind), by_value in filed.items():
            if kind == RANGE:
                # A rule is in several pieces: filed further in each of them it would grow too large.
                bounds[path] = SegmentTree(by_value, self.leaf)
                kinds[path].update()  # the path is there, though nothing else may be filed at it
            else:
                found = _by_rarest_part(by_value) if kind == PART else by_value
                kinds[path][kind] = {
                    value: self.bucket(filings, depth + 1) for value, filings in found.items()
                }
        return {path: Table(by_kind, bounds.get(path)) for path, by_kind in kinds.items()}


class _KeyChoices:
    """For each rule the demand to file it under, and its keys; None where none is worth it."""

    def __init__(
        self, filings: Sequence[Posting], census: KeyStatistics, slots: set[Slot], frugal: bool
    ) -> None:
        self._census = census
        self._allowed = set(slots)
        self._options = [
            sorted(
                ((cost(census, filing, demand), n, demand) for n, (demand, _) in enumerate(filing.demands)),
                key=lambda option: option[:2],
            )
            for filing in filings
        ]
        self._plain = [TEST * filing.share for filing in filings]
        self._filings = filings
        self.chosen = [self._choose(n) for n in range(len(filings))]
        if frugal:
            self._drop_unhelpful()

    def _choose(self, n: int, without: Slot | None = None) -> tuple[RequiredKeys, tuple[Key, ...]] | None:
        for spent, _, demand in self._options[n]:
            if spent >= self._plain[n]:
                return None
            keys = self._census.best_keys(demand, self._allowed)
            if keys is not None and not any(slot == without for slot, _ in keys):
                return demand, keys
        return None

    def _drop_unhelpful(self) -> None:
        """Give up slots whose rules are found as well, or nearly so, without them."""
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
                if gain > COSTS[slot[1]]:
                    break
                alternatives.append((n, other))
            else:
                self._allowed.discard(slot)
                for n, other in alternatives:
                    self.chosen[n] = other
                    for used in {used for used, _ in other[1]} if other else ():
                        users[used].append(n)

    def _cost(self, n: int, choice: tuple[RequiredKeys, tuple[Key, ...]] | None) -> float:
        return self._plain[n] if choice is None else cost(self._census, self._filings[n], choice[0])


def cost(census: KeyStatistics, filing: Posting, demand: RequiredKeys) -> float:
    """What a rule filed under ``demand`` costs an event, in candidates looked at."""
    return census.candidate_share(demand) + TEST * filing.share * census.share(demand)


def _by_rarest_part(filed: Mapping[str, list[Posting]]) -> dict[str, list[Posting]]:
    """By that part of each text, all of one length, that the fewest other texts have."""
    counted = Counter(part for text in filed for part in set(_parts(text)))
    parts: defaultdict[str, list[Posting]] = defaultdict(list)
    for text, filings in filed.items():
        known = parts[min(_parts(text), key=lambda part: (counted[part], part))]
        known.extend(filing for filing in filings if filing not in known)
    return dict(parts)


def _parts(text: str) -> list[str]:
    return [text[at : at + MIN_PART_LENGTH] for at in range(len(text) - MIN_PART_LENGTH + 1)]


class KeyStatistics:
    """How often each key is named by a set of rules."""

    def __init__(self, demands: Iterable[RequiredKeys]) -> None:
        named: defaultdict[Slot, dict[object, int]] = defaultdict(dict)
        for demand in demands:
            for slot, value in demand.all_keys():
                counted = named[slot]
                counted[value] = counted.get(value, 0) + 1
        self._slots = {slot: (counted, sum(counted.values())) for slot, counted in named.items()}
        self._shares: dict[RequiredKeys, float] = {}
        self._crowds: dict[RequiredKeys, float] = {}

    def share(self, demand: RequiredKeys) -> float:
        """The share of events that may meet ``demand``; of its choices, at their best."""
        share = self._shares.get(demand)
        if share is None:
            share = 0.0
            for slot, value in demand.keys:
                share += self._key_share(slot, value)
            for choice in demand.alternatives:
                share += min(map(self.share, choice))
            self._shares[demand] = share
        return share

    def candidate_share(self, demand: RequiredKeys) -> float:
        """The share of events that have the rule looked at: of many under one key only few are."""
        crowd = self._crowds.get(demand)
        if crowd is None:
            crowd = 0.0
            for slot, value in demand.keys:
                named = 1 if slot[1] in (RANGE, PART) else self._slots[slot][0][value]
                crowd += self._key_share(slot, value) * min(1.0, _LOOKED_AT / named)
            for choice in demand.alternatives:
                crowd += min(map(self.candidate_share, choice))
            self._crowds[demand] = crowd
        return crowd

    def best_keys(self, demand: RequiredKeys, allowed: Iterable[Slot]) -> tuple[Key, ...] | None:
        """The keys under which to file for ``demand``, all in ``allowed`` slots; None where it cannot be."""
        keys = list(demand.keys)
        if any(slot not in allowed for slot, _ in keys):
            return None
        for choice in demand.alternatives:
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
            assert isinstance(value, tuple)  # noqa: S101 -- that is what a range is
            return _OPEN_RANGE_SHARE if value[0] is None or value[2] is None else _CLOSED_RANGE_SHARE
        counted, total = self._slots[slot]
        share = (counted[value] + _PRIOR_WEIGHT * _PRIOR_SHARE) / (total + _PRIOR_WEIGHT)
        if kind == PART:
            return max(share, _HAS_PART)
        if kind == EXACT and (value is None or isinstance(value, tuple)):
            return max(share, _MIN_CONSTANT_SHARE)
        return share


class SubjectStatistics:
    """How many events the patterns of each rule will fit."""

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
