"""What gates remember, in a bucket of all replicas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from .broker import Cells
from .gates import Change, Row

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Begun:
    """A row that has to ask, and what it asks first."""

    row: Row[Any]
    change: Change


def begin(row: Row[T]) -> T | Begun:
    """What ``row`` returns where it remembers nothing; else where it stands."""
    try:
        return Begun(row, next(row))
    except StopIteration as done:
        result: T = done.value
        return result


@dataclass(frozen=True, slots=True)
class Memory:
    """Carries out on the broker what rows ask for."""

    state: Cells

    async def carry_out(self, row: Row[T]) -> T:
        """What ``row`` returns. Raises BrokerError; asking all of it again is safe then."""
        begun = begin(row)
        return await self.finish(begun) if isinstance(begun, Begun) else begun

    async def finish(self, begun: Begun) -> Any:
        """What a row that has begun returns. Raises BrokerError."""
        wanted = begun.change
        while True:
            answer = await self.state.change(wanted.key, wanted.step, keep=wanted.keep)
            try:
                wanted = begun.row.send(answer)
            except StopIteration as done:
                return done.value
