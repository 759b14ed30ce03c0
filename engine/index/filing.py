"""Filing rules: each under the rarest thing that it demands, large drawers again by another.

A drawer is a leaf, a tuple of entries to be asked one by one, or a node, in which they are filed
further.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..paths import Path
from .demands import PART, RANGE, SHORTEST_PART, Demand, Key, Slot, Test
from .estimates import COSTS, Census
from .nodes import Drawer, Entry, Leaf, Node, leaf_of
from .residues import Residues
from .tables import Bounds, Table

DEEPEST = 6  # how often a drawer is filed further

# Of a rule that is filed by its patterns a test has to be asked; of one filed by a value mostly
# nothing but whether its patterns fit, which takes a fraction of that.
TEST = 10.0


@dataclass(slots=True, eq=False)
class Filing:
    """A rule that is to be filed."""

    number: int  # place in the order of rules
    patterns: tuple[int, ...]  # numbers of its sets of patterns
    share: float  # of events that its patterns may fit
    tests: tuple[Test, ...]  # what has to be asked once the patterns fit
    demands: tuple[tuple[Demand, Test | None], ...]  # not used yet; the test that each makes needless

    def without(self, demand: Demand) -> Filing:
        """The same rule as it stands where ``demand`` is met."""
        settled = next(test for each, test in self.demands if each is demand)
        tests = self.tests if settled is None else tuple(test for test in self.tests if test is not settled)
        rest = tuple(each for each in self.demands if each[0] is not demand)
        return Filing(self.number, self.patterns, self.share, tests, rest)


class Cabinet:
    """Builds nodes; ``split_above`` is the number of entries up to which a drawer is a leaf."""

    def __init__(self, split_above: int, *, frugal: bool = True) -> None:
        self.split_above = split_above
        self.frugal = frugal  # look up only what saves more than it costs
        self.residues = Residues()

    def sift(self, filings: Iterable[Filing]) -> None:
        """Have each rule asked first what the fewest events will satisfy."""
        census = Census(demand for filing in filings for demand, _ in filing.demands)
        for filing in filings:
            if len(filing.tests) > 1:
                shares = {id(test): census.share(demand) for demand, test in filing.demands if test}
                filing.tests = tuple(sorted(filing.tests, key=lambda test: shares.get(id(test), 1.0)))

    def entries(self, filings: Sequence[Filing]) -> list[Entry]:
        of = self.residues.of
        return [(each, of(filing.tests), filing.number) for filing in filings for each in filing.patterns]

    def leaf(self, filings: Sequence[Filing]) -> Leaf:
        return leaf_of(self.entries(filings))

    def drawer(self, filings: list[Filing], depth: int) -> Drawer:
        if len(filings) <= self.split_above or depth >= DEEPEST:
            return self.leaf(filings)
        drawers, rest = self.file(filings, depth)
        if not drawers and len({filing.patterns for filing in rest}) == 1:
            return self.leaf(rest)
        return self.node(drawers, rest, by_patterns=len(rest) > self.split_above)

    def node(
        self, drawers: Mapping[Path, Table[Drawer]], rest: Sequence[Filing], *, by_patterns: bool
    ) -> Node:
        if not by_patterns:
            return Node(drawers, self.leaf(rest), {})
        grouped: defaultdict[int, list[Entry]] = defaultdict(list)
        for entry in self.entries(rest):
            grouped[entry[0]].append(entry)
        return Node(drawers, leaf_of([]), {patterns: leaf_of(each) for patterns, each in grouped.items()})

    def file(self, filings: Sequence[Filing], depth: int) -> tuple[dict[Path, Table[Drawer]], list[Filing]]:
        """Tables by path, and the rules for which no demand is worth looking up."""
        census = Census(demand for filing in filings for demand, _ in filing.demands)
        slots = self._slots(filings, census)
        filed: defaultdict[Slot, defaultdict[Any, list[Filing]]] = defaultdict(lambda: defaultdict(list))
        rest = []
        for filing, choice in zip(filings, _Choices(filings, census, slots, self.frugal).made, strict=True):
            if choice is None:
                rest.append(filing)
                continue
            demand, keys = choice
            inside = filing.without(demand)
            for slot, value in keys:
                filed[slot][value].append(inside)
        return self._tables(filed, depth), rest

    def _slots(self, filings: Sequence[Filing], census: Census) -> set[Slot]:
        """The slots that may be worth looking up, measured by what they leave out."""
        gains: defaultdict[Slot, float] = defaultdict(float)
        for filing in filings:
            for demand, _ in filing.demands:
                if (gain := TEST * filing.share - cost(census, filing, demand)) > 0.0:
                    for slot in {slot for slot, _ in demand.all_keys()}:
                        gains[slot] += gain
        return {slot for slot, gain in gains.items() if not self.frugal or gain > COSTS[slot[1]]}

    def _tables(
        self, filed: Mapping[Slot, Mapping[Any, list[Filing]]], depth: int
    ) -> dict[Path, Table[Drawer]]:
        kinds: defaultdict[Path, dict[str, dict[Any, Drawer]]] = defaultdict(dict)
        bounds: dict[Path, Bounds[Drawer]] = {}
        for (path, kind), by_value in filed.items():
            if kind == RANGE:
                # A rule is in several pieces: filed further in each of them it would grow too large.
                bounds[path] = Bounds(by_value, self.leaf)
                kinds[path].update()  # the path is there, though nothing else may be filed at it
            else:
                found = _by_rarest_part(by_value) if kind == PART else by_value
                kinds[path][kind] = {
                    value: self.drawer(filings, depth + 1) for value, filings in found.items()
                }
        return {path: Table(by_kind, bounds.get(path)) for path, by_kind in kinds.items()}


class _Choices:
    """For each rule the demand to file it under, and its keys; None where none is worth it."""

    def __init__(self, filings: Sequence[Filing], census: Census, slots: set[Slot], frugal: bool) -> None:
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
        self.made = [self._choose(n) for n in range(len(filings))]
        if frugal:
            self._drop_idle()

    def _choose(self, n: int, without: Slot | None = None) -> tuple[Demand, tuple[Key, ...]] | None:
        for spent, _, demand in self._options[n]:
            if spent >= self._plain[n]:
                return None
            keys = self._census.best(demand, self._allowed)
            if keys is not None and not any(slot == without for slot, _ in keys):
                return demand, keys
        return None

    def _drop_idle(self) -> None:
        """Give up slots whose rules are found as well, or nearly so, without them."""
        users: defaultdict[Slot, list[int]] = defaultdict(list)
        for n, choice in enumerate(self.made):
            if choice is not None:
                for slot in {slot for slot, _ in choice[1]}:
                    users[slot].append(n)
        self._allowed &= users.keys()
        for slot in sorted(users, key=lambda slot: len(users[slot])):
            gain = 0.0
            alternatives = []
            for n in users[slot]:
                choice = self.made[n]
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
                    self.made[n] = other
                    for used in {used for used, _ in other[1]} if other else ():
                        users[used].append(n)

    def _cost(self, n: int, choice: tuple[Demand, tuple[Key, ...]] | None) -> float:
        return self._plain[n] if choice is None else cost(self._census, self._filings[n], choice[0])


def cost(census: Census, filing: Filing, demand: Demand) -> float:
    """What a rule filed under ``demand`` costs an event, in candidates looked at."""
    return census.crowd(demand) + TEST * filing.share * census.share(demand)


def _by_rarest_part(filed: Mapping[str, list[Filing]]) -> dict[str, list[Filing]]:
    """By that part of each text, all of one length, that the fewest other texts have."""
    counted = Counter(part for text in filed for part in set(_parts(text)))
    parts: defaultdict[str, list[Filing]] = defaultdict(list)
    for text, filings in filed.items():
        known = parts[min(_parts(text), key=lambda part: (counted[part], part))]
        known.extend(filing for filing in filings if filing not in known)
    return dict(parts)


def _parts(text: str) -> list[str]:
    return [text[at : at + SHORTEST_PART] for at in range(len(text) - SHORTEST_PART + 1)]
