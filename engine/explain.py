"""Why a rule fires for an event, or does not: each rule that looks at it, each of its conditions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .choices import ChoicesOf, no_preferences
from .conditions import ConditionResult
from .draft import RecipientResolver, route
from .gates import apply_limits, run_in_memory
from .model import Event
from .passage import StageReport, stages_of
from .plan import Plan, render_plan
from .rulebook import Mode, Rule, Rulebook

_MAX_VALUE_LENGTH = 60  # characters of one value


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleEvaluation:
    """A rule that looks at events of this name, and what it made of this one."""

    rule: Rule
    findings: tuple[ConditionResult, ...]  # of its ``when``, also after the first that does not hold
    stopped_by: str = ""  # the rule before it that fired and said ``stop``

    @property
    def holds(self) -> bool:
        """Whether every condition holds."""
        return all(finding.holds for finding in self.findings)

    @property
    def matched(self) -> bool:
        return self.holds and not self.stopped_by

    @property
    def first_failure(self) -> ConditionResult | None:
        """The first condition that does not hold."""
        return next((finding for finding in self.findings if not finding.holds), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Everything about one event under one rulebook."""

    plan: Plan
    considered: tuple[RuleEvaluation, ...]  # in order of evaluation
    stages: Mapping[str, tuple[StageReport, ...]]  # by id of a rule that matched, in their order
    others: int  # rules that look at other events
    secrets: tuple[str, ...]  # to mask wherever it is shown


def explain(rulebook: Rulebook, event: Event, choices_of: ChoicesOf | None = None) -> Explanation:
    """Evaluates each rule plainly, without the index, and plans the event as if no other came before it.

    ``choices_of`` are those of the people of the event; None: nobody is asked, and all is as the rules say.
    """
    considered: list[RuleEvaluation] = []
    stopped_by = ""
    for rule in rulebook.rules:
        if not any(pattern.matches(event.name) for pattern in rule.events):
            continue
        one = RuleEvaluation(rule=rule, findings=rule.when.explain(event.payload), stopped_by=stopped_by)
        considered.append(one)
        if one.matched and rule.stop and rule.mode is not Mode.SHADOW:
            stopped_by = rule.id
    known = rulebook.catalogue.get(event.name)
    drafted = route(rulebook, event, choices_of or no_preferences)
    planned = render_plan(run_in_memory(apply_limits(drafted, event.received), {}))
    readers = RecipientResolver(rulebook, event, choices_of) if choices_of else None
    return Explanation(
        plan=planned,
        considered=tuple(considered),
        stages={each.rule.id: stages_of(each, drafted, planned, readers) for each in planned.matches},
        others=len(rulebook.rules) - len(considered),
        secrets=known.secrets_in(event.payload) if known else (),
    )


def why_not(rulebook: Rulebook, explanation: Explanation, id_: str) -> str:
    """Why the rule does not fire for the event that was explained, in a sentence; "" where it does."""
    one = next((c for c in explanation.considered if c.rule.id == id_), None)
    if one is not None and one.first_failure is not None:
        return f"{id_} does not match: {sentence(one.first_failure)}"
    if one is not None:
        return f"{id_} comes after {one.stopped_by}, which says stop" if one.stopped_by else ""
    rule = next((rule for rule in rulebook.rules if rule.id == id_), None)
    if rule is None:
        return f"{id_} is switched off"
    return (
        f"{id_} looks at {', '.join(map(str, rule.events))}, and the event is {explanation.plan.event.name}"
    )


def sentence(finding: ConditionResult) -> str:
    """A condition and what it found, on one line."""
    if finding.path:
        if finding.holds and finding.operator == "equals":
            return f"{finding.path} equals {format_value(finding.expected)}"
        found = f"it is {format_value(finding.actual)}" if finding.present else "it is not there"
        asked = "" if finding.operator == "all" else f" {finding.operator}"
        return f"{finding.path}{asked} {format_value(finding.expected)}: {found}"
    outcome = {
        "any": "one of these holds" if finding.holds else "none of these holds",
        "all": "all of these hold" if finding.holds else "not all of these hold",
        "not": "this does not hold" if finding.holds else "this holds, and must not",
    }[finding.operator]
    inside = "; ".join(sentence(each) for each in finding.inside)
    return f"{outcome}: {inside}"


def outline(finding: ConditionResult, depth: int = 0) -> Iterator[tuple[int, bool, str]]:
    """The same line by line: how deep inside blocks, whether it holds, the words."""
    if finding.path or not finding.inside:
        yield depth, finding.holds, sentence(finding)
        return
    yield depth, finding.holds, finding.operator
    for each in finding.inside:
        yield from outline(each, depth + 1)


def format_value(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[: _MAX_VALUE_LENGTH - 1]}…"
