"""Report definitions without use, rules without tests, and fallbacks and categories without effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from ...documents.cursor import Diagnostics, DocumentNode
from ...model.problems import Place, Problem
from ...model.times import in_units
from ...rules.rulebook import ChannelSpec, FirstOf, Mode, Notify, Rule, Rulebook
from ...templates.library import TEMPLATE_FOLDER, locale_chain
from ..rule_compiler import steps_of
from .context import LintContext

_UNKNOWN = ("unknown-channel", "unknown-person", "unknown-interval", "missing-template")

Steps = Sequence[tuple[DocumentNode, Notify]]


def check_usage(context: LintContext, diagnostics: Diagnostics) -> None:
    unknown = any(problem.code in _UNKNOWN for problem in diagnostics.problems)
    if context.complete and not unknown:  # else a rejected part or a misspelled name may use it
        _check_used(context, diagnostics)
    _check_locales(context, diagnostics)
    _check_tested(context, diagnostics)


def _check_used(context: LintContext, diagnostics: Diagnostics) -> None:
    rules = [source.rule for source in context.rules]
    entries = [step for rule in rules for step in rule.steps]
    actions: list[Mapping[str, Any]] = [a.value for a in context.actions if isinstance(a.value, Mapping)]
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
        for source in context.rules
        for entry in (source.entry, *(source.entry / "notify").items())
        if isinstance(entry.value, Mapping)
        for each in lists
        for name in entry.value.get(each, ())
    }
    for what, written, used in (
        ("channel", context.channels, channels),
        ("person", context.people, people),
        ("interval", context.intervals, hours),
    ):
        for entry in written:
            if entry.name not in used:
                message = f"no rule uses the {what} {entry.name!r}"
                diagnostics.add(entry, f"unused-{what}", message, at_key=True)
    templates = {name for rule in rules for step in rule.steps for name in rule.templates_of(step)}
    templates |= {str(action.get("template")) for action in actions} | {a.name for a in context.actions}
    library = context.rulebook.library
    for name in library.names:
        if name not in templates and name not in library.flawed:
            first = min(source.path for source in context.sources if source.path.startswith(f"{name}/"))
            _warn(diagnostics, first, "unused-template", f"no rule uses the template {name!r}")


def _check_locales(context: LintContext, diagnostics: Diagnostics) -> None:
    """Report a template that lacks a language which another template has."""
    library = context.rulebook.library
    used = _templates_in_use(context)
    declared: dict[str, tuple[str, str]] = {}  # locale -> as spelled, and a template that has it
    for name in dict.fromkeys(name for name, _ in used):
        for locale, shelf in library.by_name[name].items():
            if locale:
                declared.setdefault(locale, (next(iter(shelf.values())).locale, name))
    for (name, channel), names in used.items():
        content = library.find(name, names, locale_chain(context.rulebook.defaults.locale))
        for locale, (spelled, other) in declared.items():
            if content is None or library.find(name, names, locale_chain(locale)) is not None:
                continue
            message = (
                f"template {name!r} has no text in {spelled} for channel {channel!r}, but "
                f"{'another channel' if other == name else f'template {other!r}'} has; "
                f"its recipients get {content.locale}"
            )
            variant = content.markup or content.text
            _warn(diagnostics, variant.path if variant else "", "missing-locale", message)


def _templates_in_use(context: LintContext) -> dict[tuple[str, str], Sequence[str]]:
    """Return each template and channel in use, with the names of its content."""
    library = context.rulebook.library
    used: dict[tuple[str, str], Sequence[str]] = {}
    for source in context.rules:
        for notify in source.rule.steps:
            channel = context.rulebook.channels.get(notify.channel)
            name = notify.template or source.rule.template
            if channel is not None and name in library and name not in library.flawed:
                used[name, channel.name] = (channel.name, channel.type)
    return used


def _check_tested(context: LintContext, diagnostics: Diagnostics) -> None:
    """Report untested rules. A rule is tested if a test names it, or has an event that it matches."""
    named = {id_ for case in context.cases for id_ in case.rules or ()}
    for case in context.cases:
        for expected in (*(case.deliveries or ()), *(case.failed or ()), *(case.suppressed or ())):
            named.add(str(expected.fields.get("rule", "")))
    events = [event for case in context.cases for event in case.events]
    for source in context.rules:
        rule = source.rule
        if rule.id in named or rule.mode is Mode.OFF:
            continue
        if any(
            any(pattern.matches(event.name) for pattern in rule.events) and rule.when.holds(event.payload)
            for event in events
        ):
            continue
        message = f"no test covers the rule {rule.id!r}"
        diagnostics.add(source.entry / "id", "untested-rule", message)


def _warn(diagnostics: Diagnostics, path: str, code: str, message: str) -> None:
    place = Place(file=TEMPLATE_FOLDER + path)
    diagnostics.problems.append(Problem(place=place, code=code, message=message))


def check_categories(context: LintContext, diagnostics: Diagnostics) -> None:
    """Report a category in which users can choose no channel."""
    offered = {each.rule.category for each in context.rules if _offers(each.rule, context.rulebook)}
    for source in context.rules:
        category = source.rule.category
        if category and category not in offered:
            offered.add(category)  # report it once
            message = f"users can choose no channel in {category!r}: none of its rules notifies a user"
            diagnostics.add(source.entry / "category", "category-without-channel", message)


def _offers(rule: Rule, rulebook: Rulebook) -> bool:
    """Return whether a rule notifies the user of the event over a channel that needs an address."""
    for step in rule.steps:
        channel = rulebook.channels.get(step.channel)
        to = step.to or rule.to
        if not to.person and (channel is None or channel.address is not None):
            return True
    return False


def check_fallbacks(context: LintContext, diagnostics: Diagnostics) -> None:
    """Check every fallback chain of every rule."""
    for source in context.rules:
        for at, chain in source.notify():
            if isinstance(chain, FirstOf):
                steps = list(steps_of(at, chain))
                _check_duplicate_fallback(source.rule, steps, diagnostics)
                _check_redundant_fallback(source.rule, chain, steps, diagnostics)
                if chain.within:
                    _check_fallback_timeout(at / "within", chain, context.rulebook.channels, diagnostics)


def _check_duplicate_fallback(rule: Rule, steps: Steps, diagnostics: Diagnostics) -> None:
    for (earlier_at, earlier), (at, step) in combinations(steps, 2):
        if _has_same_target(rule, earlier, step) and _when(earlier_at) == _when(at):
            message = f"an earlier step of this chain already uses {step.channel} for the same people"
            hint = "remove it: the channel would refuse the message again"
            diagnostics.add(at, "duplicate-fallback", message, hint=hint)
            return


def _check_redundant_fallback(rule: Rule, chain: FirstOf, steps: Steps, diagnostics: Diagnostics) -> None:
    others = [entry for entry in rule.notify if isinstance(entry, Notify) and entry.when is None]
    for at, step in steps[1:]:
        if any(_has_same_target(rule, other, step) for other in others):
            message = f"another entry of this rule always notifies the same people over {step.channel}"
            diagnostics.add(at, "redundant-fallback", message)


def _check_fallback_timeout(
    at: DocumentNode, chain: FirstOf, channels: Mapping[str, ChannelSpec], diagnostics: Diagnostics
) -> None:
    for step in chain.steps[:-1]:
        channel = channels.get(step.channel)
        if channel is None:
            continue
        if chain.within < channel.timeout:
            message = (
                f"{at.value} is shorter than one send over {channel.name}, whose timeout is "
                f"{in_units(channel.timeout)}"
            )
            diagnostics.add(at, "fallback-timeout", message)
        elif chain.within >= channel.retry.deadline:
            message = (
                f"{at.value} has no effect: {channel.name} fails after its retry.deadline, "
                f"{in_units(channel.retry.deadline)}"
            )
            diagnostics.add(at, "fallback-timeout", message)


def _has_same_target(rule: Rule, one: Notify, other: Notify) -> bool:
    return one.channel == other.channel and (one.to or rule.to) == (other.to or rule.to)


def _when(at: DocumentNode) -> object:
    """Return the conditions of a step as written."""
    when = at.get("when")
    return None if when is None else when.value
