"""How many events will fit a key, guessed from the rules: what many rules name, many events have."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from ..subjects import ONE, REST, Pattern
from .demands import EXACT, PART, RANGE, Key, RequiredKeys, Slot

_PRIOR_WEIGHT = 2  # a slot's frequencies are drawn towards _USUAL as if so many rules had said so
_PRIOR_SHARE = 0.1
_MIN_CONSTANT_SHARE = 0.3  # at least so many events have a given boolean, or null
_CLOSED_RANGE_SHARE, _OPEN_RANGE_SHARE = 0.25, 0.5  # so many are between two bounds, beyond one
_HAS_PART = 0.05
_LOOKED_AT = 32  # rules under one key; more are filed further

# What looking a slot up costs an event, in candidates that could be tested in the time.
COSTS = defaultdict(lambda: 1.0, {EXACT: 0.5, RANGE: 5.0, PART: 60.0})


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
