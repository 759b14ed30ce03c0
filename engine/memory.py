"""What gates remember, in a bucket of all replicas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from .broker import AtomicStore
from .gates import StateSteps, StateUpdate

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class PendingSteps:
    """A row that has to ask, and what it asks first."""

    row: StateSteps[Any]
    change: StateUpdate


def start_steps(row: StateSteps[R]) -> R | PendingSteps:
    """What ``row`` returns where it remembers nothing; else where it stands."""
    try:
        return PendingSteps(row, next(row))
    except StopIteration as done:
        result: R = done.value
        return result


@dataclass(frozen=True, slots=True)
class StateStore:
    """Carries out on the broker what rows ask for."""

    state: AtomicStore

    async def run(self, row: StateSteps[R]) -> R:
        """What ``row`` returns. Raises BrokerError; asking all of it again is safe then."""
        begun = start_steps(row)
        return await self.resume(begun) if isinstance(begun, PendingSteps) else begun

    async def resume(self, begun: PendingSteps) -> Any:
        """What a row that has begun returns. Raises BrokerError."""
        wanted = begun.change
        while True:
            answer = await self.state.update(wanted.key, wanted.fn, keep=wanted.ttl)
            try:
                wanted = begun.row.send(answer)
            except StopIteration as done:
                return done.value
