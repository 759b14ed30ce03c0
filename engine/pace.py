"""No more than so many a second, over all replicas: turns are reserved on the broker.

One key holds the moment from which on nothing is reserved. Whoever wants turns moves it on with a
compare-and-set and has them alone, also after a restart of anybody.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .broker import AtomicStore
from .errors import BrokerError

_AHEAD = 0.2  # seconds for which turns are reserved at once: at most five writes a second


@dataclass(slots=True, kw_only=True)
class DistributedRateLimiter:
    """The turns of one channel."""

    rate: float  # a second
    key: str
    state: AtomicStore
    clock: Callable[[], int]  # microseconds since the epoch
    _turns: deque[float] = field(default_factory=deque)  # reserved, microseconds since the epoch
    _waiting: int = 0
    _reserving: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def turn(self) -> float:
        """Seconds until the caller's turn, which it then has for itself. Raises BrokerError."""
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
    """From when on nothing is reserved, microseconds since the epoch."""
    try:
        return float(json.loads(value or b"0"))
    except (ValueError, TypeError):
        return 0.0
