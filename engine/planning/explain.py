"""Explain an event: each rule that considers it, each of its conditions, and each limit in its order."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

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

_MAX_VALUE_LENGTH = 60  # characters of one value

_REASONS = {
    "shadow": ("shadow",),
    "hops": ("hops",),
    "condition": ("condition",),
    "preferences": ("preference",),
    "address": ("no_address", "bad_address"),
    "time windows": ("outside_active_time", "muted", "quiet_hours"),
}  # by gate, the reasons with which messages are recorded there


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
    return shorten(json.dumps(value, ensure_ascii=False, default=str), _MAX_VALUE_LENGTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceReport:
    """What the person of an event has said of a rule's channels."""

    user: str
    category: str
    is_critical: bool
    choices: Choices | None  # None: nothing
    channels: Mapping[str, bool | None]  # on, off, or not said


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """One gate, and what it makes of the messages of a rule if their event is the first to come."""

    name: str
    limit: Dedupe | Throttle | Digest | Budget | None = None  # by which it counts
    key: Mapping[str, list[Any]] = field(default_factory=dict)  # what it counts under: path -> values there
    is_shared: bool = False  # with all other rules
    is_reached: bool = True  # a message gets as far
    chosen: tuple[PreferenceReport, ...] = ()
    findings: tuple[tuple[str, ConditionResult], ...] = ()  # what does not hold, by channel
    suppressed: tuple[Suppressed, ...] = ()
    held: tuple[Held, ...] = ()


def stages_of(
    match: Match, drafted: Routing, plan: Plan, readers: RecipientResolver | None
) -> tuple[StageReport, ...]:
    """The gates at which there is something to say of ``match``.

    ``drafted`` is what was asked for before the limits, ``plan`` what is left. ``readers`` know what
    people have chosen; None: nobody has been asked.
    """
    return (
        *_before_limits(match, plan, readers),
        *_limits(match, drafted),
        *_after_limits(match, drafted, plan),
    )


def _before_limits(match: Match, plan: Plan, readers: RecipientResolver | None) -> Iterator[StageReport]:
    for name in ("shadow", "hops", "condition", "preferences", "address"):
        suppressed = _suppressed(match, plan, _REASONS[name])
        findings = tuple(_findings(match)) if name == "condition" and suppressed else ()
        chosen = tuple(_chosen(match, readers)) if name == "preferences" and readers else ()
        if suppressed or chosen:
            yield StageReport(name=name, suppressed=suppressed, findings=findings, chosen=chosen)


def _limits(match: Match, drafted: Routing) -> Iterator[StageReport]:
    limits = match.rule.limits
    is_reached = _has_orders(match, drafted)
    for name, limit in (("dedupe", limits.dedupe), ("throttle", limits.throttle), ("digest", limits.digest)):
        if limit is not None:
            key = {format_path(path): resolve(match.event.payload, path) for path in limit.key}
            yield StageReport(name=name, limit=limit, key=key, is_reached=is_reached)


def _after_limits(match: Match, drafted: Routing, plan: Plan) -> Iterator[StageReport]:
    rule, reasons = match.rule, _REASONS["time windows"]
    is_reached = _has_orders(match, drafted)
    if any(map(has_schedule, drafted.notifications_of(rule))) and rule.limits.digest is None:
        held = tuple(each for each in plan.held if each.rule == rule.id and each.reason in reasons)
        yield StageReport(name="time windows", suppressed=_suppressed(match, plan, reasons), held=held)
    if rule.limits.digest is None:  # else hours and budgets are asked when it is due
        is_reached = _has_orders(match, apply_time_windows(drafted, drafted.event.received))
    for name, budget in rule.limits.budgets.items():
        yield StageReport(name="budget", limit=budget, is_shared=name == GLOBAL_BUDGET, is_reached=is_reached)


def _has_orders(match: Match, drafted: Routing) -> bool:
    return bool(drafted.notifications_of(match.rule))


def _suppressed(match: Match, plan: Plan, reasons: Collection[str]) -> tuple[Suppressed, ...]:
    return tuple(each for each in plan.suppressed if each.rule == match.rule.id and each.reason in reasons)


def _findings(match: Match) -> Iterator[tuple[str, ConditionResult]]:
    """What keeps entries of ``notify`` from counting."""
    for entry in match.rule.notify:
        for part in (entry,) if isinstance(entry, Notify) else (entry, *entry.steps):
            if part.when is not None:
                for finding in part.when.explain(match.event.payload):
                    if not finding.holds:
                        yield part.channel, finding


def _chosen(match: Match, readers: RecipientResolver) -> Iterator[PreferenceReport]:
    """By each person of the event, of the channels that are for them."""
    rule = match.rule
    people: dict[str, Choices | None] = {}
    channels: dict[str, dict[str, bool | None]] = {}
    for step in rule.steps:
        audience = step.to or rule.to
        recipient, choices = readers.resolve(audience)
        if recipient.user and not audience.person and readers.rulebook.channels[step.channel].address:
            people[recipient.user] = choices
            said = choices.is_on(rule.category, step.channel) if choices else None
            channels.setdefault(recipient.user, {})[step.channel] = said
    for user, choices in people.items():
        yield PreferenceReport(
            user=user, category=rule.category, is_critical=rule.critical, choices=choices,
            channels=channels[user],
        )  # fmt: skip
