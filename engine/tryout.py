"""What a policy makes of one of its tests: what is planned, and how far the answers of the channels lead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from .cases import Case
from .chain import next_of
from .draft import Digested
from .gates import Postponed, in_memory, settle_batch
from .model import Delivery, Outcome
from .plan import Plan, digesting, planning
from .rulebook import Rulebook
from .telling import deliveries, ending
from .telling.request import Answer, Request

_MOST_DIGESTS = 10_000  # of one test


@dataclass(frozen=True, slots=True, kw_only=True)
class Replied:
    """What came of one request."""

    request: Request
    answer: Answer
    tried: tuple[Delivery, ...]  # over one channel after the other


@dataclass(frozen=True, slots=True)
class Tryout:
    """One test, run. A channel answers the same each time, so that trying again changes nothing."""

    rulebook: Rulebook
    case: Case
    _cells: dict[str, bytes] = field(default_factory=dict)  # what gates remember
    _alarms: list[tuple[int, str, str]] = field(default_factory=list)  # when, what, and of which rule

    def plans(self) -> Iterator[Plan]:
        """One for each event and each digest, in order of the virtual clock, with every delivery tried."""
        for event in self.case.events:
            yield from self._digests(until=event.received)
            planned = in_memory(
                planning(self.rulebook, event, event.received, self.case.preferences.get), self._cells
            )
            for alarm in planned.alarms:
                heappush(self._alarms, (alarm.at, alarm.key, alarm.rule))
            yield replace(planned, deliveries=tuple(self._tried(planned.deliveries)))
        yield from self._digests(until=None)

    def _digests(self, until: int | None) -> Iterator[Plan]:
        """Those that are due before ``until``; None: all."""
        rules = {rule.id: rule for rule in self.rulebook.rules}
        for _ in range(_MOST_DIGESTS):
            if not self._alarms or (until is not None and self._alarms[0][0] > until):
                return
            at, key, rule = heappop(self._alarms)
            row = digesting(self.rulebook, rules[rule], key, at, self.case.preferences.get)
            match in_memory(row, self._cells):
                case Postponed(until=later):
                    heappush(self._alarms, (later, key, rule))
                case Plan(digest=Digested(number=number)) as planned:
                    in_memory(settle_batch(key, rules[rule].limits, number), self._cells)
                    yield replace(planned, deliveries=tuple(self._tried(planned.deliveries)))

    def replies(self) -> Iterator[Replied]:
        """One for each request."""
        for request in self.case.requests:
            spec = self.rulebook.actions[request.key]
            channels = [self.rulebook.channels[name] for name in spec.channels]
            asked = deliveries(self.rulebook, spec, channels, request)
            tried: list[Delivery] = []
            try:
                tried.append(next(asked))
                while True:
                    tried.append(asked.send(ending(self.answer(tried[-1]))))
            except StopIteration as end:
                yield Replied(request=request, answer=end.value, tried=tuple(tried))

    def answer(self, delivery: Delivery) -> Outcome:
        """How its channel ends it."""
        return self.case.answers.get(delivery.channel, Outcome.SENT)

    def _tried(self, planned: Iterable[Delivery]) -> Iterator[Delivery]:
        for delivery in planned:
            yield delivery
            last = delivery
            while last.instead and self.answer(last) in (Outcome.REFUSED, Outcome.DEFERRED):
                last = next_of(last, at=last.created)
                yield last
