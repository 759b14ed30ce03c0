"""Which gates the messages of a rule come to, in the one order of all, and what each has to go by."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .choices import Choices
from .conditions import ConditionResult
from .draft import RecipientResolver, Routing
from .gates import apply_time_windows, has_schedule
from .limits import GLOBAL_BUDGET, Budget, Dedupe, Digest, Throttle
from .model import Held, Suppressed
from .paths import format_path, resolve
from .plan import Plan
from .rulebook import Match, Notify

_REASONS = {
    "shadow": ("shadow",),
    "hops": ("hops",),
    "condition": ("condition",),
    "preferences": ("preference",),
    "address": ("no_address", "bad_address"),
    "time windows": ("outside_active_time", "muted", "quiet_hours"),
}  # by gate, the reasons with which messages are recorded there


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
