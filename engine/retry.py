"""How long to wait before a delivery is tried again, and when to give up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential back-off with full-range jitter, bounded by count and by age."""

    attempts: int = 8  # sends in all, the first included
    first: float = 5.0  # seconds before the second attempt
    max: float = 1800.0  # seconds, the ceiling of one wait
    deadline: float = 86400.0  # seconds after the event, past which nothing is tried

    def wait(self, attempt: int, *, chance: float, asked: float | None = None) -> float:
        """Seconds to wait after ``attempt`` (from 1) failed.

        ``chance`` is uniform in [0, 1) and spreads the wait over its upper half, so that what
        failed together does not come back together. ``asked`` is what the other side wants to
        be given at least; it may exceed the ceiling.
        """
        ceiling = min(self.max, self.first * 2.0 ** min(attempt - 1, 63))
        return max(ceiling * (0.5 + 0.5 * chance), asked or 0.0)

    def exhausted(self, attempt: int, *, age: float) -> bool:
        """Whether nothing may follow ``attempt`` (from 1), ``age`` seconds after the event."""
        return attempt >= self.attempts or age >= self.deadline
