"""A circuit breaker: pause a channel that keeps failing, and probe it from time to time.

Pure: it is given the time and the result of each send, and returns how long to wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

_STEADILY = 5  # failures in a row


class BreakerState(StrEnum):
    """The state of a circuit breaker, by its usual names."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(slots=True, kw_only=True)
class CircuitBreaker:
    """Whether something that may be out of order is to be used. Times are seconds of one clock."""

    first: float = 2.0  # seconds to leave it alone after it failed steadily; doubled after each probe
    longest: float = 60.0  # seconds
    _failures: int = 0  # in a row
    _closed_until: float = 0.0  # it is not used before
    _probe: float | None = None  # when the probe that is out began

    @property
    def is_open(self) -> bool:
        """Whether it is left alone but for probes."""
        return self._failures >= _STEADILY

    def state(self, now: float) -> BreakerState:
        """Return whether deliveries go through: all (closed), none (open), one as a probe (half-open)."""
        if not self.is_open:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._closed_until else BreakerState.HALF_OPEN

    def wait(self, now: float) -> float:
        """Seconds to keep away; 0.0 lets the caller use it, who then must say how it went.

        While it is out of order one caller at a time gets through: the probe. A probe that never
        says how it went does not keep the others out for longer than the longest wait.
        """
        if not self.is_open:
            return 0.0
        if now < self._closed_until:
            return self._closed_until - now
        if self._probe is not None and now < self._probe + self.longest:
            return self._probe + self.longest - now
        self._probe = now
        return 0.0

    def record_success(self) -> None:
        """It works: whoever waits may go on."""
        self._failures = 0
        self._probe = None

    def release(self) -> None:
        """Who was let through did not use it after all."""
        self._probe = None

    def record_failure(self, now: float, *, asked: float | None = None) -> None:
        """It does not. ``asked`` is how many seconds it wants to be left alone, where it said so."""
        if self.is_open and self._probe is None:
            return  # begun before it was left alone: many of those would add up to the longest wait
        self._failures += 1
        self._probe = None
        if self.is_open:
            doubled = self.first * 2.0 ** min(self._failures - _STEADILY, 30)
            self._closed_until = now + min(self.longest, max(doubled, asked or 0.0))
