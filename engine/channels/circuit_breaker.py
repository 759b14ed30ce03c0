"""A circuit breaker: pause a channel that keeps failing, and probe it from time to time.

Pure: it gets the time and the result of each send, and returns how long to wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

_THRESHOLD = 5  # failures in a row that open the breaker


class BreakerState(StrEnum):
    """The state of a circuit breaker, by its usual names."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(slots=True, kw_only=True)
class CircuitBreaker:
    """The breaker of one channel or server. Times are seconds of one clock."""

    first: float = 2.0  # seconds of the first pause; doubled after each failed probe
    longest: float = 60.0  # seconds
    _failures: int = 0  # in a row
    _paused_until: float = 0.0
    _probe: float | None = None  # when the running probe began

    @property
    def is_open(self) -> bool:
        """True if only probes may use it."""
        return self._failures >= _THRESHOLD

    def state(self, now: float) -> BreakerState:
        """Return whether deliveries go through: all (closed), none (open), one as a probe (half-open)."""
        if not self.is_open:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._paused_until else BreakerState.HALF_OPEN

    def wait(self, now: float) -> float:
        """Return the seconds to wait; after 0.0, the caller must record the result of its use.

        While the breaker is open, one caller at a time gets 0.0: the probe. A probe that never records
        its result blocks the others for the longest wait at most.
        """
        if not self.is_open:
            return 0.0
        if now < self._paused_until:
            return self._paused_until - now
        if self._probe is not None and now < self._probe + self.longest:
            return self._probe + self.longest - now
        self._probe = now
        return 0.0

    def record_success(self) -> None:
        """Close the breaker."""
        self._failures = 0
        self._probe = None

    def release(self) -> None:
        """Record that the caller did not use it."""
        self._probe = None

    def record_failure(self, now: float, *, retry_after: float | None = None) -> None:
        """Record a failure; ``retry_after`` is the pause that the other side asks for, in seconds."""
        if self.is_open and self._probe is None:
            return  # begun before the pause: many of these would add up to the longest wait
        self._failures += 1
        self._probe = None
        if self.is_open:
            doubled = self.first * 2.0 ** min(self._failures - _THRESHOLD, 30)
            self._paused_until = now + min(self.longest, max(doubled, retry_after or 0.0))
