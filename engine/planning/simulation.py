"""Run a policy on a virtual clock: the state of its limits in memory, and the digests that fall due."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Any, TypeVar

from ..model.messages import Event
from ..rules.rulebook import Rulebook
from .draft import Routing, route
from .limits.digest import NotDueYet, confirm
from .limits.stages import apply_limits, route_due_digest
from .limits.state import StateSteps, StateUpdate, run_steps
from .recipients import ChoicesOf, no_preferences

_INITIAL_SIZE = 10_000  # values that may lie about, whether they mean anything or not

T = TypeVar("T")


class Simulator:
    """Takes events in the order of their times. Its clock stands at the last event or digest."""

    def __init__(self, rulebook: Rulebook, choices_of: ChoicesOf = no_preferences) -> None:
        self.rulebook = rulebook
        self.now = 0  # microseconds since the epoch
        self._choices_of = choices_of
        self._remembered = SimulatedState()
        self._alarms: list[tuple[int, str, str]] = []  # when, what, and of which rule

    @property
    def next_due(self) -> int | None:
        """When there may be a digest, microseconds since the epoch; None where nothing waits for one."""
        return self._alarms[0][0] if self._alarms else None

    def process(self, event: Event) -> Routing:
        """What ``event`` asks for after those that came before it."""
        self.now = event.received
        row = apply_limits(route(self.rulebook, event, self._choices_of), self.now)
        drafted = self._remembered.run(row, self.now)
        for alarm in drafted.timers:
            heappush(self._alarms, (alarm.at, alarm.key, alarm.rule))
        return drafted

    def digests(self, until: int | None = None) -> Iterator[Routing]:
        """Those due by ``until``, microseconds since the epoch, in order; None: all that will be."""
        while (due := self.next_due) is not None and (until is None or due <= until):
            self.now, key, id_ = heappop(self._alarms)
            rule = self.rulebook.by_id[id_]
            row = route_due_digest(self.rulebook, rule, key, self.now, self._choices_of)
            match self._remembered.run(row, self.now):
                case NotDueYet(until=later):
                    heappush(self._alarms, (later, key, id_))
                case Routing(digest=digested) as drafted if digested is not None:
                    self._remembered.run(confirm(key, rule.limits, digested.number), self.now)
                    yield drafted


class SimulatedState:
    """The values of one policy's gates, on the clock of the events."""

    def __init__(self) -> None:
        self._cells: dict[str, tuple[bytes, int]] = {}  # value, and until when it means something
        self._max_size = _INITIAL_SIZE

    def __len__(self) -> int:
        return len(self._cells)

    def run(self, steps: StateSteps[T], now: int) -> T:
        """Return the value of ``steps``; ``now`` in microseconds since the epoch."""

        def apply(update: StateUpdate) -> Any:
            value, until = self._cells.get(update.key, (b"", 0))
            changed, answer = update.fn(value if until > now else b"")
            if changed is not None:
                self._cells[update.key] = (changed, now + round(update.ttl * 1e6))
                self._tidy(now)
            return answer

        return run_steps(steps, apply)

    def _tidy(self, now: int) -> None:
        """Forget what has had its time, whenever there is twice as much as was left the last time."""
        if len(self._cells) > self._max_size:
            self._cells = {key: cell for key, cell in self._cells.items() if cell[1] > now}
            self._max_size = max(_INITIAL_SIZE, 2 * len(self._cells))
