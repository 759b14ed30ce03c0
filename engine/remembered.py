"""What gates remember while a past is gone through: in memory, and no longer than it means anything."""

from __future__ import annotations

from typing import Any, TypeVar

from .gates import StateSteps, StateUpdate, run_steps

_INITIAL_SIZE = 10_000  # values that may lie about, whether they mean anything or not

T = TypeVar("T")


class SimulatedState:
    """The values of one policy's gates, on the clock of the events."""

    def __init__(self) -> None:
        self._cells: dict[str, tuple[bytes, int]] = {}  # value, and until when it means something
        self._max_size = _INITIAL_SIZE

    def __len__(self) -> int:
        return len(self._cells)

    def run(self, row: StateSteps[T], now: int) -> T:
        """Do what ``row`` asks for; ``now`` in microseconds since the epoch."""

        def apply(change: StateUpdate) -> Any:
            value, until = self._cells.get(change.key, (b"", 0))
            changed, answer = change.fn(value if until > now else b"")
            if changed is not None:
                self._cells[change.key] = (changed, now + round(change.ttl * 1e6))
                self._tidy(now)
            return answer

        return run_steps(row, apply)

    def _tidy(self, now: int) -> None:
        """Forget what has had its time, whenever there is twice as much as was left the last time."""
        if len(self._cells) > self._max_size:
            self._cells = {key: cell for key, cell in self._cells.items() if cell[1] > now}
            self._max_size = max(_INITIAL_SIZE, 2 * len(self._cells))
