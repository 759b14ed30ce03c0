"""How many deliveries may go out in a stretch of time, and what becomes of the rest.

Pure: who counts over all replicas is elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

EVERYTHING = "*"  # the budget of the policy as a whole, beside those of its rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """So many deliveries in each window; windows begin at multiples of their length."""

    limit: int
    per: float  # seconds

    def window(self, now: int) -> int:
        """The number of the window that ``now``, microseconds since the epoch, lies in."""
        return int(now // (self.per * 1e6))

    def ends(self, now: int) -> int:
        """When that window ends, microseconds since the epoch."""
        return int((self.window(now) + 1) * self.per * 1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What has been counted in one window, over all replicas."""

    window: int = 0
    used: int = 0  # deliveries that went out
    held: int = 0  # and those that did not

    def take(self, budget: Budget, count: int, *, now: int) -> tuple[Spent, int]:
        """The state after ``count`` more were asked for, and how many of them may go out."""
        before = self if self.window == budget.window(now) else Spent(window=budget.window(now))
        granted = max(0, min(count, budget.limit - before.used))
        after = Spent(window=before.window, used=before.used + granted, held=before.held + count - granted)
        return after, granted


def demand(rules: Mapping[str, Budget], counts: Mapping[str, int], whole: Budget | None) -> dict[str, int]:
    """How much of which budget an event wants: ``counts`` are its deliveries by rule."""
    wanted = {rule: count for rule, count in counts.items() if rule in rules and count}
    total = sum(counts.values())
    return {**wanted, EVERYTHING: total} if whole and total else wanted
