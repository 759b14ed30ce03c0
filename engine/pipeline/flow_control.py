"""Wait before a send: for the circuit breaker, then for the rate limit of all replicas together.

Deliveries that wait count as in flight, so their channel pulls no more, and other channels are not
affected. For the rate limit, one key holds the time up to which turns are taken. A worker moves it forward
with a compare-and-set and then owns those turns. The key outlives a restart, so the rate is kept.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ..broker import AtomicStore
from ..channels.circuit_breaker import BreakerState, CircuitBreaker
from ..model.errors import BrokerError

log = logging.getLogger(__name__)

_AHEAD = 0.2  # seconds for which turns are reserved at once: at most five writes a second


@dataclass(slots=True, kw_only=True)
class FlowControl:
    """The admission of deliveries to one channel."""

    name: str
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    rate_limiter: DistributedRateLimiter | None = None
    observe_wait: Callable[[float], object] = lambda _: None  # of a wait for the rate limit, seconds
    _changed: asyncio.Event = field(default_factory=asyncio.Event)  # set and replaced at each change
    _closing: bool = False

    @property
    def is_closing(self) -> bool:
        """True while the replica ends."""
        return self._closing

    @property
    def breaker_state(self) -> BreakerState:
        """The present state of the circuit breaker."""
        return self.breaker.state(time.monotonic())

    async def acquire(self, patience: float = math.inf) -> bool:
        """Wait until a delivery may be sent. Return False if the replica ends, or after ``patience`` seconds.

        After True, the caller must call ``record_success`` or ``record_failure``. Raises BrokerError.
        """
        until = time.monotonic() + patience
        if patience <= 0:
            return False
        while (wait := self.breaker.wait(time.monotonic())) > 0.0:
            left = until - time.monotonic()
            if self._closing or left <= 0.0:
                return False
            await self._wait_for_change(min(wait, left))
        return self.rate_limiter is None or await self._take_turn(self.rate_limiter, until)

    def record_success(self) -> None:
        """Record that the provider replies, also if it refuses the delivery."""
        if self.breaker.is_open:
            log.warning("channel %s: the circuit breaker is closed again", self.name)
            self._announce()
        self.breaker.record_success()

    def record_failure(self, *, retry_after: float | None = None) -> None:
        """Record that the provider fails. ``retry_after`` is the wait that it asks for, in seconds."""
        was_open = self.breaker.is_open
        self.breaker.record_failure(time.monotonic(), retry_after=retry_after)
        if self.breaker.is_open and not was_open:
            log.warning("channel %s: the circuit breaker is open; deliveries wait", self.name)
        self._announce()

    def close(self) -> None:
        """End every wait: the deliveries that wait return to the stream."""
        self._closing = True
        self._announce()

    def _announce(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _take_turn(self, rate_limiter: DistributedRateLimiter, until: float) -> bool:
        began = time.monotonic()
        turn = await rate_limiter.turn()
        may_send = await self._sleep(min(turn, until - time.monotonic())) and time.monotonic() < until
        self.observe_wait(time.monotonic() - began)
        if may_send:
            return True
        self.breaker.release()
        self._announce()
        return False

    async def _sleep(self, seconds: float) -> bool:
        """Wait for ``seconds``. Return False if the replica ends before."""
        until = time.monotonic() + seconds
        while not self._closing and (left := until - time.monotonic()) > 0:
            await self._wait_for_change(left)
        return not self._closing

    async def _wait_for_change(self, seconds: float) -> None:
        """Wait for ``seconds``, or until the next change."""
        changed = self._changed
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            pass


@dataclass(slots=True, kw_only=True)
class DistributedRateLimiter:
    """The rate limit of one channel, shared by all replicas."""

    rate: float  # a second
    key: str
    state: AtomicStore
    clock: Callable[[], int]  # microseconds since the epoch
    _turns: deque[float] = field(default_factory=deque)  # reserved, microseconds since the epoch
    _waiting: int = 0
    _reserving: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def turn(self) -> float:
        """Reserve a turn, and return the seconds until then. Raises BrokerError."""
        self._waiting += 1
        try:
            async with self._reserving:
                if not self._turns:
                    await self._reserve(min(self._waiting, max(1, math.floor(self.rate * _AHEAD))))
                at = self._turns.popleft()
        finally:
            self._waiting -= 1
        return max(0.0, (at - self.clock()) / 1e6)

    async def _reserve(self, count: int) -> None:
        step = 1e6 / self.rate  # microseconds

        def reserve(value: bytes) -> tuple[bytes, float]:
            start = max(_moment(value), float(self.clock()))
            return json.dumps(start + count * step).encode(), start

        try:
            start = await self.state.update(self.key, reserve)
        except BrokerError as error:
            raise BrokerError(f"the rate of {self.key} cannot be kept: {error}") from error
        self._turns.extend(start + number * step for number in range(count))


def _moment(value: bytes) -> float:
    """Return the time up to which turns are reserved, microseconds since the epoch."""
    try:
        return float(json.loads(value or b"0"))
    except (ValueError, TypeError):
        return 0.0
