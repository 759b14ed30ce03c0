"""Explain an event: each rule for events of its name, each condition, and each limit in its order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..model.messages import Event, Held, Suppressed
from ..model.wording import shorten
from ..rules.conditions import ConditionResult
from ..rules.paths import format_path, resolve
from ..rules.rulebook import (
    GLOBAL_BUDGET,
    Budget,
    Dedupe,
    Digest,
    Match,
    Mode,
    Notify,
    Rule,
    Rulebook,
    Throttle,
)
from .draft import RecipientResolver, Routing, route
from .limits.stages import apply_limits, apply_time_windows, has_schedule
from .limits.state import run_in_memory
from .planner import Plan, render_plan
from .recipients import Choices, ChoicesOf, no_preferences

_Recorded = TypeVar("_Recorded", Suppressed, Held)

_MAX_VALUE_LENGTH = 60  # characters of one value

_REASONS = {
    "shadow": ("shadow",),
    "hops": ("hops",),
    "condition": ("condition",),
    "preferences": ("preference",),
    "address": ("no_address", "bad_address"),
    "time windows": ("outside_active_time", "muted", "quiet_hours"),
}  # by stage, the reasons that it records for a message


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleEvaluation:
    """A rule for events of this name, with the results of its conditions for this event."""

    rule: Rule
    findings: tuple[ConditionResult, ...]  # of its ``when``, also after the first that does not hold
    stopped_by: str = ""  # the earlier rule that matched and has ``stop``

    @property
    def holds(self) -> bool:
        """True if every condition holds."""
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
    """The plan of one event under one rulebook, with the reasons for it."""

    plan: Plan
    considered: tuple[RuleEvaluation, ...]  # in order of evaluation
    stages: Mapping[str, tuple[StageReport, ...]]  # by id of a matching rule, in their order
    others: int  # rules for other events
    secrets: tuple[str, ...]  # to mask wherever the explanation is shown


def explain(rulebook: Rulebook, event: Event, choices_of: ChoicesOf | None = None) -> Explanation:
    """Evaluate each rule without the index, and plan the event as if no other came before it.

    Without ``choices_of`` the users have no preferences, and none are reported.
    """
    considered: list[RuleEvaluation] = []
    stopped_by = ""
    for rule in rulebook.rules:
        if not any(pattern.matches(event.name) for pattern in rule.events):
            continue
        considered.append(
            RuleEvaluation(rule=rule, findings=rule.when.explain(event.payload), stopped_by=stopped_by)
        )
        if considered[-1].matched and rule.stop and rule.mode is not Mode.SHADOW:
            stopped_by = rule.id
    routing = route(rulebook, event, choices_of or no_preferences)
    plan = render_plan(run_in_memory(apply_limits(routing, event.received), {}))
    resolver = RecipientResolver(rulebook, event, choices_of) if choices_of else None
    return Explanation(
        plan=plan,
        considered=tuple(considered),
        stages={each.rule.id: tuple(_stages_of(each, routing, plan, resolver)) for each in plan.matches},
        others=len(rulebook.rules) - len(considered),
        secrets=plan.secrets,
    )


def why_not(rulebook: Rulebook, explanation: Explanation, id_: str) -> str:
    """Return why the rule does not match the explained event, as a sentence; "" if it does."""
    evaluation = next((each for each in explanation.considered if each.rule.id == id_), None)
    if evaluation is not None and evaluation.first_failure is not None:
        return f"{id_} does not match: {sentence(evaluation.first_failure)}"
    if evaluation is not None:
        return f"{id_} comes after {evaluation.stopped_by}, which says stop" if evaluation.stopped_by else ""
    rule = rulebook.by_id.get(id_)
    if rule is None:
        return f"{id_} is switched off"
    return (
        f"{id_} looks at {', '.join(map(str, rule.events))}, and the event is {explanation.plan.event.name}"
    )


def sentence(finding: ConditionResult) -> str:
    """Return a condition and its result, on one line."""
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
    """Yield the same line by line: the depth inside blocks, whether it holds, and the text."""
    if finding.path or not finding.inside:
        yield depth, finding.holds, sentence(finding)
        return
    yield depth, finding.holds, finding.operator
    for each in finding.inside:
        yield from outline(each, depth + 1)


def format_value(value: Any) -> str:
    """Return a value as JSON, cut if it is long."""
    return shorten(json.dumps(value, ensure_ascii=False, default=str), _MAX_VALUE_LENGTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceReport:
    """The preferences of an event's user about a rule's channels."""

    user: str
    category: str
    is_critical: bool
    choices: Choices | None  # None: the user has none
    channels: Mapping[str, bool | None]  # on, off, or without a preference


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """A stage, and its results for the messages of a rule if no other event came before."""

    name: str
    limit: Dedupe | Throttle | Digest | Budget | None = None
    key: Mapping[str, list[Any]] = field(default_factory=dict)  # of the limit: path -> values in the event
    is_shared: bool = False  # with all other rules
    is_reached: bool = True  # a message of the rule reaches it
    chosen: tuple[PreferenceReport, ...] = ()
    findings: tuple[tuple[str, ConditionResult], ...] = ()  # conditions that do not hold, by channel
    suppressed: tuple[Suppressed, ...] = ()
    held: tuple[Held, ...] = ()


def _stages_of(
    match: Match, routing: Routing, plan: Plan, resolver: RecipientResolver | None
) -> Iterator[StageReport]:
    """Yield the stages at which there is something to report about ``match``.

    ``routing`` is the event's before the limits, ``plan`` its plan. Without ``resolver`` no preferences are
    reported.
    """
    rule, limits = match.rule, match.rule.limits

    def recorded(entries: Iterable[_Recorded], stage: str) -> tuple[_Recorded, ...]:
        return tuple(each for each in entries if each.rule == rule.id and each.reason in _REASONS[stage])

    for name in ("shadow", "hops", "condition", "preferences", "address"):
        suppressed = recorded(plan.suppressed, name)
        findings = tuple(_findings(match)) if name == "condition" and suppressed else ()
        chosen = tuple(_preferences(match, resolver)) if name == "preferences" and resolver else ()
        if suppressed or chosen:
            yield StageReport(name=name, suppressed=suppressed, findings=findings, chosen=chosen)
    notifications = routing.notifications_of(rule)
    is_reached = bool(notifications)
    for name, limit in (("dedupe", limits.dedupe), ("throttle", limits.throttle), ("digest", limits.digest)):
        if limit is not None:
            key = {format_path(path): resolve(match.event.payload, path) for path in limit.key}
            yield StageReport(name=name, limit=limit, key=key, is_reached=is_reached)
    if limits.digest is None:  # time windows and budgets apply to a digest when it is due
        if any(map(has_schedule, notifications)):
            name = "time windows"
            suppressed, held = recorded(plan.suppressed, name), recorded(plan.held, name)
            yield StageReport(name=name, suppressed=suppressed, held=held)
        is_reached = bool(apply_time_windows(routing, routing.event.received).notifications_of(rule))
    for name, budget in limits.budgets.items():
        yield StageReport(name="budget", limit=budget, is_shared=name == GLOBAL_BUDGET, is_reached=is_reached)


def _findings(match: Match) -> Iterator[tuple[str, ConditionResult]]:
    """Yield the conditions of entries of ``notify`` that do not hold, with their channels."""
    for entry in match.rule.notify:
        for part in (entry,) if isinstance(entry, Notify) else (entry, *entry.steps):
            if part.when is not None:
                for finding in part.when.explain(match.event.payload):
                    if not finding.holds:
                        yield part.channel, finding


def _preferences(match: Match, resolver: RecipientResolver) -> Iterator[PreferenceReport]:
    """Yield the preferences of each user of the event, about the channels that are for them."""
    rule = match.rule
    users: dict[str, Choices | None] = {}
    channels: dict[str, dict[str, bool | None]] = {}
    for step in rule.steps:
        audience = step.to or rule.to
        recipient, choices = resolver.resolve(audience)
        if recipient.user and not audience.person and resolver.rulebook.channels[step.channel].address:
            users[recipient.user] = choices
            is_on = choices.is_on(rule.category, step.channel) if choices else None
            channels.setdefault(recipient.user, {})[step.channel] = is_on
    for user, choices in users.items():
        yield PreferenceReport(
            user=user, category=rule.category, is_critical=rule.critical, choices=choices,
            channels=channels[user],
        )  # fmt: skip
