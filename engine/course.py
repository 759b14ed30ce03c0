"""One policy on a virtual clock: what its gates remember between events, and the digests that fall due."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from .choices import ChoicesOf, no_preferences
from .draft import Routing, route
from .gates import NotDueYet, apply_limits, confirm, route_due_digest
from .model import Event
from .remembered import SimulatedState
from .rulebook import Rulebook


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
