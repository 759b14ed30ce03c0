"""What a policy makes of one of its tests: what is planned, and how far the answers of the channels lead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from .cases import Case
from .chain import next_fallback
from .course import Simulator
from .draft import Routing
from .model import Delivery, Outcome
from .plan import Plan, render_plan
from .rulebook import Rulebook
from .telling import delivery_steps, send_result
from .telling.request import ActionRequest, ActionResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestResult:
    """What came of one request."""

    request: ActionRequest
    answer: ActionResponse
    tried: tuple[Delivery, ...]  # over one channel after the other


@dataclass(frozen=True, slots=True)
class CaseRun:
    """One test, run. A channel answers the same each time, so that trying again changes nothing."""

    rulebook: Rulebook
    case: Case

    def plans(self) -> Iterator[Plan]:
        """One for each event and each digest, in order of the virtual clock, with every delivery tried."""
        course = Simulator(self.rulebook, self.case.preferences.get)
        for drafted in self._drafts(course):
            planned = render_plan(drafted)
            yield replace(planned, deliveries=tuple(self._tried(planned.deliveries)))

    def _drafts(self, course: Simulator) -> Iterator[Routing]:
        for event in self.case.events:
            yield from course.digests(until=event.received)
            yield course.process(event)
        yield from course.digests()

    def replies(self) -> Iterator[RequestResult]:
        """One for each request."""
        for request in self.case.requests:
            spec = self.rulebook.actions[request.key]
            channels = [self.rulebook.channels[name] for name in spec.channels]
            asked = delivery_steps(self.rulebook, spec, channels, request)
            tried: list[Delivery] = []
            try:
                tried.append(next(asked))
                while True:
                    tried.append(asked.send(send_result(self.answer(tried[-1]))))
            except StopIteration as end:
                yield RequestResult(request=request, answer=end.value, tried=tuple(tried))

    def answer(self, delivery: Delivery) -> Outcome:
        """How its channel ends it."""
        return self.case.answers.get(delivery.channel, Outcome.SENT)

    def _tried(self, planned: Iterable[Delivery]) -> Iterator[Delivery]:
        for delivery in planned:
            yield delivery
            last = delivery
            while last.fallbacks and self.answer(last) in (Outcome.REFUSED, Outcome.DEFERRED):
                last = next_fallback(last, at=last.created)
                yield last
