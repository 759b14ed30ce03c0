"""Run a policy on a virtual clock: the state of its limits in memory, and its digests when they are due."""

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

_INITIAL_SIZE = 10_000  # values that are kept before the first expired ones are removed

T = TypeVar("T")


class Simulator:
    """A policy that processes events in the order of their times. Its clock is the last event or digest."""

    def __init__(self, rulebook: Rulebook, choices_of: ChoicesOf = no_preferences) -> None:
        self.rulebook = rulebook
        self.now = 0  # microseconds since the epoch
        self._choices_of = choices_of
        self._state = SimulatedState()
        self._timers: list[tuple[int, str, str]] = []  # time, key of the buffer, rule

    @property
    def next_due(self) -> int | None:
        """When the next digest may be due, microseconds since the epoch; None if no event waits for one."""
        return self._timers[0][0] if self._timers else None

    def process(self, event: Event) -> Routing:
        """Route ``event``, with the limits in the state that earlier events left."""
        self.now = event.received
        steps = apply_limits(route(self.rulebook, event, self._choices_of), self.now)
        routing = self._state.run(steps, self.now)
        for timer in routing.timers:
            heappush(self._timers, (timer.at, timer.key, timer.rule))
        return routing

    def digests(self, until: int | None = None) -> Iterator[Routing]:
        """Yield the digests due by ``until``, microseconds since the epoch, in order; all if it is None."""
        while (due := self.next_due) is not None and (until is None or due <= until):
            self.now, key, id_ = heappop(self._timers)
            rule = self.rulebook.by_id[id_]
            steps = route_due_digest(self.rulebook, rule, key, self.now, self._choices_of)
            match self._state.run(steps, self.now):
                case NotDueYet(until=later):
                    heappush(self._timers, (later, key, id_))
                case Routing(digest=digest) as routing if digest is not None:
                    self._state.run(confirm(key, rule.limits, digest.number), self.now)
                    yield routing


class SimulatedState:
    """The state of one policy's limits, on the clock of the events."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[bytes, int]] = {}  # value, and when it expires
        self._max_size = _INITIAL_SIZE

    def __len__(self) -> int:
        return len(self._values)

    def run(self, steps: StateSteps[T], now: int) -> T:
        """Return the value of ``steps``; ``now`` in microseconds since the epoch."""

        def apply(update: StateUpdate) -> Any:
            value, expires = self._values.get(update.key, (b"", 0))
            changed, result = update.fn(value if expires > now else b"")
            if changed is not None:
                self._values[update.key] = (changed, now + round(update.ttl * 1e6))
                self._remove_expired(now)
            return result

        return run_steps(steps, apply)

    def _remove_expired(self, now: int) -> None:
        """Remove expired values when there are twice as many values as remained the last time."""
        if len(self._values) > self._max_size:
            self._values = {key: each for key, each in self._values.items() if each[1] > now}
            self._max_size = max(_INITIAL_SIZE, 2 * len(self._values))
