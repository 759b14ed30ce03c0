"""Run test cases: plan the given events, compare with the expectations, and give the reasons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

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

_MAX_REASONS = 5  # of rules that do not match, for one message


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something that came out otherwise than the test says."""

    about: str  # template, or the part of ``expect``: rules, deliveries, failed, suppressed, reply
    message: str
    rows: tuple[FieldComparison, ...] = ()
    because: tuple[str, ...] = ()  # sentences
    place: Place  # of the expectation; of the test, where nothing was expected


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """How one test came out."""

    case: Case
    plans: tuple[Plan, ...]  # one for each event, with every delivery that was tried, fall-backs too
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        return not self.differences


def run_case(rulebook: Rulebook, case: Case) -> CaseResult:
    """Plan each event of ``case`` and compare."""
    trial = _CaseCheck(rulebook, case)
    return CaseResult(case=case, plans=trial.plans, differences=tuple(trial.differences()))


class _CaseCheck:
    def __init__(self, rulebook: Rulebook, case: Case) -> None:
        self.rulebook = rulebook
        self.case = case
        tryout = CaseRun(rulebook, case)
        self.answer = tryout.answer
        self.plans = tuple(tryout.plans())
        self.replies = tuple(tryout.replies())
        tried = [delivery for each in self.plans for delivery in each.deliveries]
        tried += [delivery for each in self.replies for delivery in each.tried]
        self.sent = [delivery for delivery in tried if self.answer(delivery) is Outcome.SENT]
        self.failed = [delivery for delivery in tried if self.answer(delivery) is not Outcome.SENT]
        self.suppressed = [suppressed for plan_ in self.plans for suppressed in plan_.suppressed]

    @cached_property
    def explanations(self) -> tuple[Explanation, ...]:
        """One for each event; only failures need them."""
        return tuple(explain(self.rulebook, event) for event in self.case.events)

    def differences(self) -> Iterator[Difference]:
        yield from self._unwritten()
        yield from self._rules()
        yield from self._messages("deliveries", self.case.deliveries, self.sent)
        yield from self._messages("failed", self.case.failed, self.failed)
        yield from self._suppressed()
        yield from self._replies()

    def _unwritten(self) -> Iterator[Difference]:
        """Words that could not be written fail a test, also where a chain does without them."""
        for plan_ in self.plans:
            unwritten: list[Failure | Suppressed] = [*plan_.failures]
            unwritten += (each for each in plan_.suppressed if each.reason == "not_rendered")
            for failure in unwritten:
                yield Difference(
                    about="template",
                    message=f"{failure.rule} could not write its message for {failure.channel}",
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
            message = "other rules match than expected"
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

    def _messages(
        self, about: str, wanted: Sequence[Expected] | None, actual: Sequence[Delivery]
    ) -> Iterator[Difference]:
        if wanted is None:
            return
        word = "message" if about == "deliveries" else "failed message"

        def compare(expected: Expected, delivery: Delivery) -> list[FieldComparison]:
            return compare_delivery(self.rulebook, expected.fields, delivery)

        outcome = match_expectations(wanted, actual, compare)
        for expected, delivery, rows in outcome.near:
            yield Difference(
                about=about,
                message=f"a {word} is not as expected; the nearest is over {delivery.channel}",
                rows=tuple(rows),
                place=expected.place,
            )
        for expected in outcome.missing:
            yield Difference(
                about=about,
                message=f"an expected {word} is not there",
                rows=only_expected(expected.fields),
                because=self._why_missing(expected, about),
                place=expected.place,
            )
        for delivery in outcome.surplus:
            yield Difference(
                about=about,
                message=f"a {word} that the test does not name",
                rows=only_actual(delivery),
                place=self.case.place,
            )

    def _suppressed(self) -> Iterator[Difference]:
        wanted = self.case.suppressed
        if wanted is None:
            return
        outcome = match_expectations(
            wanted,
            self.suppressed,
            lambda expected, actual: compare_suppressed(expected.fields, actual),
        )
        for expected, actual, rows in outcome.near:
            yield Difference(
                about="suppressed",
                message=f"{actual.rule} suppresses its message over {actual.channel} otherwise than expected",
                rows=tuple(rows),
                because=(actual.detail,) if actual.detail else (),
                place=expected.place,
            )
        for expected in outcome.missing:
            yield Difference(
                about="suppressed",
                message="nothing was suppressed as expected",
                rows=only_expected(expected.fields),
                because=self._why_missing(expected, "suppressed"),
                place=expected.place,
            )
        for actual in outcome.surplus:
            yield Difference(
                about="suppressed",
                message="a message is suppressed, and the test does not name it",
                rows=only_actual(actual),
                because=(actual.detail,) if actual.detail else (),
                place=self.case.place,
            )

    def _replies(self) -> Iterator[Difference]:
        for expected, reply in zip(self.case.replies or (), self.replies, strict=False):
            rows = compare_reply(expected.fields, reply.answer)
            if not all(row.agrees for row in rows):
                yield Difference(
                    about="reply",
                    message=f"{reply.request.key} is answered otherwise than expected",
                    rows=tuple(rows),
                    because=(reply.answer.detail,) if reply.answer.detail else (),
                    place=expected.place,
                )

    def _why_missing(self, expected: Expected, about: str) -> tuple[str, ...]:
        """What became of the message that was expected, as far as its channel and rule tell."""
        reasons = (*self._other_outcomes(expected, about), *self._unmatched_rules(expected))
        return tuple(dict.fromkeys(filter(None, reasons)))

    def _other_outcomes(self, expected: Expected, about: str) -> Iterator[str]:
        """It is there, and ended otherwise."""
        for suppressed in self.suppressed if about != "suppressed" else ():
            if _may_be_expected(expected, suppressed.rule, suppressed.channel):
                detail = f": {suppressed.detail}" if suppressed.detail else ""
                over = f"{suppressed.rule} suppressed it over {suppressed.channel}"
                yield f"{over}: {suppressed.reason}{detail}"
                yield from self._closed_entries(suppressed.rule, suppressed.channel)
        for delivery in self.failed if about != "failed" else ():
            if _may_be_expected(expected, delivery.rule, delivery.channel):
                yield f"{delivery.channel} answers {self.case.answers[delivery.channel]} in this test"
        for delivery in self.sent if about != "deliveries" else ():
            if _may_be_expected(expected, delivery.rule, delivery.channel):
                yield f"{delivery.rule} sent it over {delivery.channel}"
        for plan_ in self.plans if about != "suppressed" else ():
            for delivery in plan_.deliveries:
                yield from self._unused_fallbacks(expected, delivery)

    def _unused_fallbacks(self, expected: Expected, delivery: Delivery) -> Iterator[str]:
        """It is a fall-back that was not needed, or not allowed."""
        answer = self.answer(delivery)
        if answer in (Outcome.SENT, Outcome.UNKNOWN):
            for step in delivery.fallbacks:
                if _may_be_expected(expected, step.rule, step.channel):
                    yield (
                        f"{step.rule} goes on to {step.channel} only when {delivery.channel} definitely "
                        f"fails, and here that answers {answer}"
                    )

    def _unmatched_rules(self, expected: Expected) -> Iterator[str]:
        """No rule that would have made it has matched."""
        able = [
            rule
            for rule in self.rulebook.rules
            if any(_may_be_expected(expected, rule.id, step.channel) for step in rule.steps)
        ]
        looking = [
            (rule, each)
            for rule in able
            for each in self.explanations
            if any(considered.rule is rule for considered in each.considered)
        ]
        sentences = (why_not(self.rulebook, each, rule.id) for rule, each in looking)
        reasons = list(dict.fromkeys(filter(None, sentences)))
        yield from reasons[:_MAX_REASONS]
        if len(reasons) > _MAX_REASONS:
            yield f"{len(reasons) - _MAX_REASONS} more rules would have made it and do not match"
        for reply in self.replies:
            if reply.answer.code and _may_be_expected(
                expected, reply.request.key, expected.fields.get("channel", "")
            ):
                detail = f" ({reply.answer.detail})" if reply.answer.detail else ""
                yield f"{reply.request.key} answers {reply.answer.code}: {reply.answer.message}{detail}"
        if not looking and self.case.events:
            over = f" over {expected.fields['channel']}" if "channel" in expected.fields else ""
            names = ", ".join(dict.fromkeys(event.name for event in self.case.events))
            yield f"no rule that looks at {names} tells anybody{over}"

    def _closed_entries(self, rule_id: str, channel: str) -> Iterator[str]:
        """Conditions of entries of ``notify`` that did not hold."""
        for plan_ in self.plans:
            for match in plan_.matches:
                for entry in (*match.rule.notify, *match.rule.steps):
                    if match.rule.id == rule_id and entry.channel == channel and entry.when is not None:
                        for finding in entry.when.explain(plan_.event.payload):
                            if not finding.holds:
                                yield sentence(finding)


def _may_be_expected(expected: Expected, rule: str, channel: str) -> bool:
    """Whether a message of that rule over that channel may be the expected one."""
    fields = expected.fields
    return bool(fields.get("rule", rule) == rule and fields.get("channel", channel) == channel)


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
