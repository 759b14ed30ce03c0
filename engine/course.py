"""One policy on a virtual clock: what its gates remember between events, and the digests that fall due."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from .choices import ChoicesOf, nobody
from .draft import Draft, draft
from .gates import Postponed, digest_due, pass_gates, settle_batch
from .model import Event
from .remembered import Remembered
from .rulebook import Rulebook


class Course:
    """Takes events in the order of their times. Its clock stands at the last event or digest."""

    def __init__(self, rulebook: Rulebook, choices_of: ChoicesOf = nobody) -> None:
        self.rulebook = rulebook
        self.now = 0  # microseconds since the epoch
        self._choices_of = choices_of
        self._remembered = Remembered()
        self._alarms: list[tuple[int, str, str]] = []  # when, what, and of which rule

    @property
    def next_due(self) -> int | None:
        """When there may be a digest, microseconds since the epoch; None where nothing waits for one."""
        return self._alarms[0][0] if self._alarms else None

    def take(self, event: Event) -> Draft:
        """What ``event`` asks for after those that came before it."""
        self.now = event.received
        row = pass_gates(draft(self.rulebook, event, self._choices_of), self.now)
        drafted = self._remembered.carry_out(row, self.now)
        for alarm in drafted.alarms:
            heappush(self._alarms, (alarm.at, alarm.key, alarm.rule))
        return drafted

    def digests(self, until: int | None = None) -> Iterator[Draft]:
        """Those due by ``until``, microseconds since the epoch, in order; None: all that will be."""
        while (due := self.next_due) is not None and (until is None or due <= until):
            self.now, key, id_ = heappop(self._alarms)
            rule = self.rulebook.by_id[id_]
            row = digest_due(self.rulebook, rule, key, self.now, self._choices_of)
            match self._remembered.carry_out(row, self.now):
                case Postponed(until=later):
                    heappush(self._alarms, (later, key, id_))
                case Draft(digest=digested) as drafted if digested is not None:
                    self._remembered.carry_out(settle_batch(key, rule.limits, digested.number), self.now)
                    yield drafted
