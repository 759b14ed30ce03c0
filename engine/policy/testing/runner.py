"""Run test cases: plan the given events, compare with the expectations, and give the reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from ...model.messages import Delivery, Failure, Outcome, Suppressed
from ...model.problems import Place
from ...planning.draft import Routing, next_fallback
from ...planning.explain import Explanation, explain, sentence, why_not
from ...planning.planner import Plan, render_plan
from ...planning.requests import ActionRequest, ActionResponse, delivery_steps, send_result
from ...planning.simulation import Simulator
from ...rules.rulebook import Rulebook
from .cases import Case, Expected
from .comparison import (
    FieldComparison,
    align,
    compare_delivery,
    compare_reply,
    compare_suppressed,
    match_expectations,
    only_actual,
    only_expected,
)

M = TypeVar("M", Delivery, Suppressed)

_MAX_REASONS = 5  # of rules that do not match, for one message


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something that differs from the expectation of a test."""

    about: str  # template, or the part of ``expect``: rules, deliveries, failed, suppressed, reply
    message: str
    rows: tuple[FieldComparison, ...] = ()
    because: tuple[str, ...] = ()  # sentences
    place: Place  # of the expectation; of the test, if nothing was expected


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """The result of one test."""

    case: Case
    plans: tuple[Plan, ...]  # one for each event, with every delivery that was attempted, fallbacks included
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        return not self.differences


def run_case(rulebook: Rulebook, case: Case) -> CaseResult:
    """Plan each event of ``case``, run its requests, and compare the results with the expectations."""
    check = _CaseCheck(rulebook, case)
    return CaseResult(case=case, plans=check.plans, differences=tuple(check.differences()))


class _CaseCheck:
    def __init__(self, rulebook: Rulebook, case: Case) -> None:
        self.rulebook = rulebook
        self.case = case
        run = CaseRun(rulebook, case)
        self.outcome = run.outcome
        self.plans = tuple(run.plans())
        self.replies = tuple(run.replies())
        attempted = [delivery for each in self.plans for delivery in each.deliveries]
        attempted += [delivery for each in self.replies for delivery in each.attempted]
        self.sent = [delivery for delivery in attempted if self.outcome(delivery) is Outcome.SENT]
        self.failed = [delivery for delivery in attempted if self.outcome(delivery) is not Outcome.SENT]
        self.suppressed = [suppressed for plan_ in self.plans for suppressed in plan_.suppressed]

    @cached_property
    def explanations(self) -> tuple[Explanation, ...]:
        """One for each event; only failures need them."""
        return tuple(explain(self.rulebook, event) for event in self.case.events)

    def differences(self) -> Iterator[Difference]:
        yield from self._not_rendered()
        yield from self._rules()
        yield from self._deliveries("deliveries", self.case.deliveries, self.sent)
        yield from self._deliveries("failed", self.case.failed, self.failed)
        yield from self._suppressed()
        yield from self._replies()

    def _not_rendered(self) -> Iterator[Difference]:
        """A message that cannot be rendered fails a test, even if its chain falls back."""
        for plan_ in self.plans:
            failures: list[Failure | Suppressed] = [*plan_.failures]
            failures += (each for each in plan_.suppressed if each.reason == "not_rendered")
            for failure in failures:
                yield Difference(
                    about="template",
                    message=f"{failure.rule} could not render its message for {failure.channel}",
                    because=(failure.detail,),
                    place=self.case.place,
                )

    def _rules(self) -> Iterator[Difference]:
        wanted = self.case.rules
        actual = tuple(match.rule.id for plan_ in self.plans if not plan_.digest for match in plan_.matches)
        if wanted is None or wanted == actual:
            return
        missing = [id_ for id_ in dict.fromkeys(wanted) if id_ not in actual]
        surplus = [id_ for id_ in dict.fromkeys(actual) if id_ not in wanted]
        if missing or surplus:
            message = "the rules that match are not those expected"
        elif sorted(wanted) == sorted(actual):
            message = "the rules match in another order"
        else:
            message = "the rules match another number of times"
        reasons = [why_not(self.rulebook, each, id_) for id_ in missing for each in self.explanations]
        reasons += [f"{id_} matches, and the test does not name it" for id_ in surplus]
        yield Difference(
            about="rules",
            message=message,
            rows=tuple(align(wanted, actual)),
            because=tuple(dict.fromkeys(filter(None, reasons))),
            place=self.case.place,
        )

    def _deliveries(
        self, about: str, wanted: Sequence[Expected] | None, actual: Sequence[Delivery]
    ) -> Iterator[Difference]:
        word = "message" if about == "deliveries" else "failed message"
        return self._pair(
            about,
            wanted,
            actual,
            lambda expected, delivery: compare_delivery(self.rulebook, expected.fields, delivery),
            near=lambda each: f"a {word} is not as expected; the nearest is over {each.channel}",
            missing=f"an expected {word} is missing",
            surplus=f"a {word} that the test does not name",
        )

    def _suppressed(self) -> Iterator[Difference]:
        return self._pair(
            "suppressed",
            self.case.suppressed,
            self.suppressed,
            lambda expected, suppressed: compare_suppressed(expected.fields, suppressed),
            near=lambda each: f"{each.rule} suppresses its message over {each.channel} not as expected",
            missing="an expected suppressed message is missing",
            surplus="a suppressed message that the test does not name",
        )

    def _pair(
        self,
        about: str,
        wanted: Sequence[Expected] | None,
        actual: Sequence[M],
        compare: Callable[[Expected, M], list[FieldComparison]],
        *,
        near: Callable[[M], str],
        missing: str,
        surplus: str,
    ) -> Iterator[Difference]:
        """Yield a difference for each message that does not agree with its expectation, or has none."""
        if wanted is None:
            return

        def difference(
            message: str, place: Place, rows: Iterable[FieldComparison], *because: str
        ) -> Difference:
            because = tuple(filter(None, because))
            return Difference(about=about, message=message, rows=tuple(rows), because=because, place=place)

        pairing = match_expectations(wanted, actual, compare)
        for expected, found, rows in pairing.near:
            yield difference(near(found), expected.place, rows, _detail(found))
        for expected in pairing.missing:
            fields = only_expected(expected.fields)
            yield difference(missing, expected.place, fields, *self._why_missing(expected, about))
        for found in pairing.surplus:
            yield difference(surplus, self.case.place, only_actual(found), _detail(found))

    def _replies(self) -> Iterator[Difference]:
        for expected, reply in zip(self.case.replies or (), self.replies, strict=False):
            rows = compare_reply(expected.fields, reply.response)
            if not all(row.agrees for row in rows):
                yield Difference(
                    about="reply",
                    message=f"the reply of {reply.request.key} is not as expected",
                    rows=tuple(rows),
                    because=(reply.response.detail,) if reply.response.detail else (),
                    place=expected.place,
                )

    def _why_missing(self, expected: Expected, about: str) -> tuple[str, ...]:
        """Return the reasons for a missing message, as far as its channel and rule show them."""
        reasons = (*self._other_outcomes(expected, about), *self._unmatched_rules(expected))
        return tuple(dict.fromkeys(filter(None, reasons)))

    def _other_outcomes(self, expected: Expected, about: str) -> Iterator[str]:
        """Yield reasons of messages like the expected one that had another outcome."""
        for suppressed in self.suppressed if about != "suppressed" else ():
            if _may_be_expected(expected, suppressed.rule, suppressed.channel):
                detail = f": {suppressed.detail}" if suppressed.detail else ""
                over = f"{suppressed.rule} suppressed it over {suppressed.channel}"
                yield f"{over}: {suppressed.reason}{detail}"
                yield from self._closed_entries(suppressed.rule, suppressed.channel)
        for delivery in self.failed if about != "failed" else ():
            if _may_be_expected(expected, delivery.rule, delivery.channel):
                outcome = self.case.answers[delivery.channel]
                yield f"{delivery.channel} has the outcome {outcome} in this test"
        for delivery in self.sent if about != "deliveries" else ():
            if _may_be_expected(expected, delivery.rule, delivery.channel):
                yield f"{delivery.rule} sent it over {delivery.channel}"
        for plan_ in self.plans if about != "suppressed" else ():
            for delivery in plan_.deliveries:
                yield from self._unused_fallbacks(expected, delivery)

    def _unused_fallbacks(self, expected: Expected, delivery: Delivery) -> Iterator[str]:
        """Yield a reason if the expected message is a fallback that was not needed, or not allowed."""
        outcome = self.outcome(delivery)
        if outcome in (Outcome.SENT, Outcome.UNKNOWN):
            for step in delivery.fallbacks:
                if _may_be_expected(expected, step.rule, step.channel):
                    yield (
                        f"{step.rule} falls back to {step.channel} only if {delivery.channel} definitely "
                        f"fails, and here its outcome is {outcome}"
                    )

    def _unmatched_rules(self, expected: Expected) -> Iterator[str]:
        """Yield why rules and actions that can make the expected message did not."""
        able = [
            rule
            for rule in self.rulebook.rules
            if any(_may_be_expected(expected, rule.id, step.channel) for step in rule.steps)
        ]
        evaluated = [
            (rule, each)
            for rule in able
            for each in self.explanations
            if any(considered.rule is rule for considered in each.considered)
        ]
        sentences = (why_not(self.rulebook, each, rule.id) for rule, each in evaluated)
        reasons = list(dict.fromkeys(filter(None, sentences)))
        yield from reasons[:_MAX_REASONS]
        if len(reasons) > _MAX_REASONS:
            yield f"{len(reasons) - _MAX_REASONS} more rules can make it and do not match"
        for reply in self.replies:
            response, key = reply.response, reply.request.key
            if response.code and _may_be_expected(expected, key, expected.fields.get("channel", "")):
                detail = f" ({response.detail})" if response.detail else ""
                yield f"{key} replies {response.code}: {response.message}{detail}"
        if not evaluated and self.case.events:
            over = f" over {expected.fields['channel']}" if "channel" in expected.fields else ""
            names = ", ".join(dict.fromkeys(event.name for event in self.case.events))
            yield f"no rule for {names} notifies anybody{over}"

    def _closed_entries(self, rule_id: str, channel: str) -> Iterator[str]:
        """Yield the conditions of entries of ``notify`` that did not hold."""
        for plan_ in self.plans:
            for match in plan_.matches:
                for entry in (*match.rule.notify, *match.rule.steps):
                    if match.rule.id == rule_id and entry.channel == channel and entry.when is not None:
                        for finding in entry.when.explain(plan_.event.payload):
                            if not finding.holds:
                                yield sentence(finding)


def _detail(found: Delivery | Suppressed) -> str:
    return found.detail if isinstance(found, Suppressed) else ""


def _may_be_expected(expected: Expected, rule: str, channel: str) -> bool:
    """Return whether a message of that rule over that channel may be the expected one."""
    fields = expected.fields
    return bool(fields.get("rule", rule) == rule and fields.get("channel", channel) == channel)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestResult:
    """The result of one request."""

    request: ActionRequest
    response: ActionResponse
    attempted: tuple[Delivery, ...]  # over one channel after the other


@dataclass(frozen=True, slots=True)
class CaseRun:
    """One run of a test. A channel has the same outcome each time, so a retry would change nothing."""

    rulebook: Rulebook
    case: Case

    def plans(self) -> Iterator[Plan]:
        """Yield the plan of each event and each digest, in order of time, with every delivery attempted."""
        simulator = Simulator(self.rulebook, self.case.preferences.get)
        for routing in self._routings(simulator):
            planned = render_plan(routing)
            yield replace(planned, deliveries=tuple(self._attempted(planned.deliveries)))

    def _routings(self, simulator: Simulator) -> Iterator[Routing]:
        for event in self.case.events:
            yield from simulator.digests(until=event.received)
            yield simulator.process(event)
        yield from simulator.digests()

    def replies(self) -> Iterator[RequestResult]:
        """Yield the result of each request."""
        for request in self.case.requests:
            spec = self.rulebook.actions[request.key]
            channels = [self.rulebook.channels[name] for name in spec.channels]
            steps = delivery_steps(self.rulebook, spec, channels, request)
            attempted: list[Delivery] = []
            try:
                attempted.append(next(steps))
                while True:
                    attempted.append(steps.send(send_result(self.outcome(attempted[-1]))))
            except StopIteration as end:
                yield RequestResult(request=request, response=end.value, attempted=tuple(attempted))

    def outcome(self, delivery: Delivery) -> Outcome:
        """Return the outcome that the test sets for the channel of ``delivery``."""
        return self.case.answers.get(delivery.channel, Outcome.SENT)

    def _attempted(self, planned: Iterable[Delivery]) -> Iterator[Delivery]:
        for delivery in planned:
            yield delivery
            last = delivery
            while last.fallbacks and self.outcome(last) in (Outcome.REFUSED, Outcome.DEFERRED):
                last = next_fallback(last, at=last.created)
                yield last
