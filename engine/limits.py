"""What keeps a reader from too many messages of one rule, as the rule says it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .paths import FieldPath

GLOBAL_BUDGET = "*"  # the budget of the policy as a whole, beside those of its rules

DEFAULT_MAX_EVENTS = 50  # of one digest in full, where nothing else is said


@dataclass(frozen=True, slots=True, kw_only=True)
class Dedupe:
    """Of events that are alike, one in each window."""

    key: tuple[FieldPath, ...]  # fields that make them alike
    window: float  # seconds, from the one that passes


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """Events that are alike are told of together."""

    key: tuple[FieldPath, ...]
    wait: float  # seconds from the first one
    interval: float = 0.0  # seconds at least between two digests
    max_events: int = DEFAULT_MAX_EVENTS  # in full; the rest is counted
    template: str = ""  # "": that of the entry
    flushes: bool = True  # when the rule is gone, what was gathered is sent; else it is not


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """So many events that are alike in each stretch of time."""

    key: tuple[FieldPath, ...]
    limit: int
    per: float  # seconds
    digest: Digest | None = None  # what is beyond the limit is told of together; None: not at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """So many messages in each window; windows begin at multiples of their length."""

    limit: int
    per: float  # seconds
    digest: Digest | None = None  # as of a throttle

    def begins(self, now: int) -> int:
        """When the window began that ``now`` lies in; both in microseconds since the epoch."""
        return now - now % self._length

    def ends(self, now: int) -> int:
        """When that window ends, microseconds since the epoch."""
        return self.begins(now) + self._length

    @property
    def _length(self) -> int:
        """Microseconds; whole ones, or a window might end before the next begins."""
        return max(1, round(self.per * 1e6))


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetExhausted:
    """That there is nothing left of a budget."""

    name: str  # of the rule whose budget it is, or EVERYTHING
    budget: Budget
    until: int  # microseconds since the epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """All that hold for one rule."""

    dedupe: Dedupe | None = None
    throttle: Throttle | None = None
    digest: Digest | None = None
    budgets: Mapping[str, Budget] = field(default_factory=dict)  # its own, then that of EVERYTHING

    @property
    def are_none(self) -> bool:
        """Whether what becomes of an event has nothing to do with those before it."""
        return not (self.dedupe or self.throttle or self.digest or self.budgets)

    @property
    def digests(self) -> Iterator[Digest]:
        """Every way in which its events may be told of together."""
        ways = self.digest, self.throttle and self.throttle.digest
        yield from filter(None, (*ways, *(budget.digest for budget in self.budgets.values())))

    @property
    def longest_wait(self) -> float:
        """Seconds that an event may have to wait for one of them."""
        return max((0.0, *(max(digest.wait, digest.interval) for digest in self.digests)))


NO_LIMITS = Limits()
