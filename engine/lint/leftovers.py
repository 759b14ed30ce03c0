"""What is written and never used, never tested, or missing beside what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import locales
from ..cursors import Diagnostics
from ..model import Place, Problem
from ..rulebook import Mode
from ..templates import TEMPLATE_FOLDER, LocalizedTemplate
from .policy import LintContext

_UNKNOWN = ("unknown-channel", "unknown-person", "unknown-interval", "missing-template")


def check_usage(policy: LintContext, complaints: Diagnostics) -> None:
    unknown = any(problem.code in _UNKNOWN for problem in complaints.problems)
    if policy.complete and not unknown:  # else what was refused or misspelled may have meant it
        _check_used(policy, complaints)
    _check_locales(policy, complaints)
    _check_tested(policy, complaints)


def _check_used(policy: LintContext, complaints: Diagnostics) -> None:
    rules = [written.rule for written in policy.rules]
    entries = [step for rule in rules for step in rule.steps]
    actions: list[Mapping[str, Any]] = [a.value for a in policy.actions if isinstance(a.value, Mapping)]
    channels = {notify.channel for notify in entries}
    for action in actions:
        named = action.get("channel")
        channels |= set(named) if isinstance(named, list) else {str(named)}
    audiences = [*(rule.to for rule in rules), *(notify.to for notify in entries)]
    people = {audience.person for audience in audiences if audience is not None} | {
        str(a.get("to")) for a in actions
    }
    lists = ("active_time_intervals", "mute_time_intervals")
    hours = {
        str(name)
        for written in policy.rules
        for entry in (written.entry, *(written.entry / "notify").items())
        if isinstance(entry.value, Mapping)
        for each in lists
        for name in entry.value.get(each, ())
    }
    for what, written, used in (
        ("channel", policy.channels, channels),
        ("person", policy.people, people),
        ("interval", policy.intervals, hours),
    ):
        for entry in written:
            if entry.name not in used:
                message = f"no rule uses the {what} {entry.name!r}"
                complaints.add(entry, f"unused-{what}", message, severity="warning", at_key=True)
    templates = {name for rule in rules for step in rule.steps for name in rule.templates_of(step)}
    templates |= {str(action.get("template")) for action in actions} | {a.name for a in policy.actions}
    library = policy.rulebook.library
    for name in library.names:
        if name not in templates and name not in library.flawed:
            first = min(source.path for source in policy.sources if source.path.startswith(f"{name}/"))
            _warn(complaints, first, "unused-template", f"no rule uses the template {name!r}")


def _check_locales(policy: LintContext, complaints: Diagnostics) -> None:
    """A language that some template in use speaks, and another does not."""
    library = policy.rulebook.library
    used = _templates_in_use(policy)
    declared: dict[str, tuple[str, str]] = {}  # locale -> as spelled, and a template that has it
    for name in dict.fromkeys(name for name, _ in used):
        for locale, shelf in library.by_name[name].items():
            if locale:
                declared.setdefault(locale, (next(iter(shelf.values())).locale, name))
    for (name, channel), names in used.items():
        words = library.find(name, names, locales.chain(policy.rulebook.defaults.locale))
        for locale, (spelled, other) in declared.items():
            if words is None or library.find(name, names, locales.chain(locale)) is not None:
                continue
            message = (
                f"template {name!r} has no words in {spelled} for channel {channel!r}, and "
                f"{'another channel' if other == name else f'template {other!r}'} has; "
                f"its readers get {words.locale}"
            )
            _warn(complaints, _file(words), "missing-locale", message)


def _templates_in_use(policy: LintContext) -> dict[tuple[str, str], Sequence[str]]:
    """Template and channel, and the names that its words go by."""
    library = policy.rulebook.library
    used: dict[tuple[str, str], Sequence[str]] = {}
    for written in policy.rules:
        for notify in written.rule.steps:
            channel = policy.rulebook.channels.get(notify.channel)
            name = notify.template or written.rule.template
            if channel is not None and name in library and name not in library.flawed:
                used[name, channel.name] = (channel.name, channel.type)
    return used


def _check_tested(policy: LintContext, complaints: Diagnostics) -> None:
    """A rule counts as tested where a test names it, or gives an event that it matches."""
    named = {id_ for case in policy.cases for id_ in case.rules or ()}
    for case in policy.cases:
        for expected in (*(case.deliveries or ()), *(case.failed or ()), *(case.suppressed or ())):
            named.add(str(expected.fields.get("rule", "")))
    events = [event for case in policy.cases for event in case.events]
    for written in policy.rules:
        rule = written.rule
        if rule.id in named or rule.mode is Mode.OFF:
            continue
        if any(
            any(pattern.matches(event.name) for pattern in rule.events) and rule.when.holds(event.payload)
            for event in events
        ):
            continue
        message = f"no test tries the rule {rule.id!r}"
        complaints.add(written.entry / "id", "untested-rule", message, severity="warning")


def _file(words: LocalizedTemplate) -> str:
    variant = words.markup or words.text
    return variant.path if variant is not None else ""


def _warn(complaints: Diagnostics, path: str, code: str, message: str) -> None:
    place = Place(file=TEMPLATE_FOLDER + path)
    complaints.problems.append(Problem(place=place, code=code, message=message, severity="warning"))
