"""Compare two policies without rendering where possible, and the fields of two deliveries.

If all inputs of a delivery are equal, it is the same. If an input differs, the delivery must be rendered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from html import escape
from itertools import zip_longest

from ...model.errors import TemplateError
from ...model.masking import longest_first, mask
from ...model.messages import Delivery, Event
from ...model.times import iso_time
from ...model.wording import shorten
from ...planning.draft import Notification, Routing
from ...planning.planner import find_template
from ...rules.rulebook import Notify, NotifyEntry, Rule, Rulebook
from ...templates.library import as_text

# Fields that are compared in another way, or do not matter after a match.
_OTHER_RULE_FIELDS = ("priority", "place", "stop", "events", "when", "notify")
_OTHER_ENTRY_FIELDS = ("when", "steps")

_MAX_TEXT_LENGTH = 200  # characters of a text
_SINGLE_FIELDS = ("to", "locale", "title", "text", "payload")  # shown if only one side has the delivery


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySide:
    """One of the two policies, with fingerprints of its templates (``template_prints``)."""

    rulebook: Rulebook
    prints: Mapping[str, str] = field(repr=False)


class PolicyDiff:
    """The parts of two policies that are equal. Results are cached."""

    def __init__(self, live: ReplaySide, new: ReplaySide) -> None:
        self.live, self.new = live, new
        self._equal_rules: dict[tuple[int, int], bool] = {}  # by ids of both rules
        self._equal_contexts: dict[tuple[int, int, int, int], bool] = {}  # by ids of rules and entries
        self._equal_roles: dict[str, bool] = {}  # by name of the event

    def routes_equally(self, before: Routing, event: Event) -> bool:
        """Return whether the new policy must route ``event`` as the live policy did."""
        matches = self.new.rulebook.match(event)
        return (
            len(matches) == len(before.matches)
            and all(
                # The result of a limit depends on earlier events.
                its.rule.limits.are_none and self._same_rule(mine.rule, its.rule)
                for mine, its in zip(before.matches, matches, strict=True)
            )
            and self._same_roles(event.name)
            and before.event.payload == event.payload
        )

    def _same_rule(self, mine: Rule, its: Rule) -> bool:
        key = id(mine), id(its)
        if key not in self._equal_rules:
            self._equal_rules[key] = (
                _rest(mine, _OTHER_RULE_FIELDS) == _rest(its, _OTHER_RULE_FIELDS)
                and len(mine.notify) == len(its.notify)
                and self._same_person(mine.to.person)
                and all(
                    self._same_entry(mine, a, its, b) for a, b in zip(mine.notify, its.notify, strict=True)
                )
            )
        return self._equal_rules[key]

    def _same_entry(self, mine: Rule, a: NotifyEntry, its: Rule, b: NotifyEntry) -> bool:
        if repr(a.when and a.when.source) != repr(b.when and b.when.source):  # repr, as 1 == True
            return False
        if _rest(a, _OTHER_ENTRY_FIELDS) != _rest(b, _OTHER_ENTRY_FIELDS):
            return False
        if not (isinstance(a, Notify) and isinstance(b, Notify)):
            steps = _steps_of(a), _steps_of(b)
            return (
                type(a) is type(b)
                and len(steps[0]) == len(steps[1])
                and all(self._same_entry(mine, x, its, y) for x, y in zip(*steps, strict=True))
            )
        return (
            self._same_person(a.to.person if a.to else "")
            and self._same_context(mine, a, its, b)
            and self._print(self.live, a.template or mine.template)
            == self._print(self.new, b.template or its.template)
        )

    @staticmethod
    def _print(side: ReplaySide, template: str) -> str:
        return side.prints.get(template, "")

    def _same_person(self, name: str) -> bool:
        return not name or self.live.rulebook.people[name] == self.new.rulebook.people[name]

    def _same_roles(self, name: str) -> bool:
        if name not in self._equal_roles:
            mine, its = self.live.rulebook.catalogue.get(name), self.new.rulebook.catalogue.get(name)
            self._equal_roles[name] = (mine.roles if mine else {}) == (its.roles if its else {})
        return self._equal_roles[name]

    def delivers_equally(self, mine: Notification, its: Notification) -> bool:
        """Return whether both must become the same delivery."""
        return (
            mine.fallback_after == its.fallback_after
            and len(mine.steps) == len(its.steps)
            and all(self._same_step(a, b) for a, b in zip(mine.steps, its.steps, strict=True))
        )

    def _same_step(self, mine: Notification, its: Notification) -> bool:
        return (
            (mine.id, mine.to, mine.not_before) == (its.id, its.to, its.not_before)
            and (mine.recipient.user, mine.recipient.locale) == (its.recipient.user, its.recipient.locale)
            and self._same_context(mine.match.rule, mine.notify, its.match.rule, its.notify)
            and mine.match.event.payload == its.match.event.payload
            and mine.match.event.received == its.match.event.received  # digests of the same events differ
            and mine.merged == its.merged
            and (
                self._print(self.live, mine.template) == self._print(self.new, its.template)
                or _template_prints_of(self.live, mine) == _template_prints_of(self.new, its)
            )
        )

    def _same_context(self, mine: Rule, a: Notify, its: Rule, b: Notify) -> bool:
        """Return whether all other inputs of the rendering are equal, and the channel too."""
        key = id(mine), id(a), id(its), id(b)
        if key not in self._equal_contexts:
            self._equal_contexts[key] = _context_of(self.live, mine, a) == _context_of(self.new, its, b)
        return self._equal_contexts[key]


def _rest(part: Rule | NotifyEntry, others: Collection[str]) -> list[object]:
    """Return all other fields of a rule or an entry, also those of later versions of the language."""
    return [getattr(part, each.name) for each in fields(part) if each.name not in others]


def _steps_of(entry: NotifyEntry) -> tuple[Notify, ...]:
    return (entry,) if isinstance(entry, Notify) else entry.steps


def _template_prints_of(side: ReplaySide, notification: Notification) -> tuple[str, ...]:
    """Return the locale and the fingerprints of the templates that a notification uses."""
    try:
        template = find_template(
            side.rulebook, notification.template, notification.channel, notification.recipient.locale
        )
    except TemplateError:
        return ("missing",)
    if template is None:
        return ()
    variants = (each for each in (template.markup, template.text) if each is not None)
    return (template.locale, *(side.prints[each.path] for each in variants))


def _context_of(side: ReplaySide, rule: Rule, notify: Notify) -> str:
    channel, defaults = side.rulebook.channels[notify.channel], side.rulebook.defaults
    variables = ({**rule.vars, **notify.vars}, dict(defaults.site)) if channel.renders_text else ()
    of_rule = (defaults.locale, str(defaults.zone), rule.description, str(rule.severity))
    of_channel = (channel.name, channel.type, channel.address, channel.many, channel.renders_text)
    return repr((of_rule, variables, of_channel))


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One field on both sides; "" if a side does not have it."""

    name: str
    live: str
    new: str


def differ(live: Delivery, new: Delivery) -> bool:
    """Return whether a recipient sees any difference."""
    return _seen(live) != _seen(new)


def fields_between(
    live: Delivery | None, new: Delivery | None, secrets: Collection[str] = ()
) -> tuple[FieldChange, ...]:
    """Return the fields that differ; of long texts, the first lines that do. ``secrets`` are masked."""
    mine, its = _seen(live), _seen(new)
    names = [name for name in {**mine, **its} if mine.get(name, "") != its.get(name, "")]
    if live is None or new is None:
        names = [name for name in names if name in _SINGLE_FIELDS]
    elif "html" in names and live.message.html and new.message.html:
        # Show the visible text, unless only the markup differs.
        mine["html"], its["html"] = _visible(live.message.html, new.message.html)
    hidden = longest_first({*secrets, *map(escape, secrets)})
    return tuple(
        _field(name, mask(mine.get(name, ""), hidden), mask(its.get(name, ""), hidden)) for name in names
    )


def _seen(delivery: Delivery | None) -> dict[str, str]:
    if delivery is None:
        return {}
    message = delivery.message
    pictures = (f"{each.name} {hashlib.sha256(each.data).hexdigest()[:8]}" for each in message.inline)
    seen: Mapping[str, str] = {
        "to": ", ".join(delivery.to),
        "user": delivery.user,
        "locale": delivery.locale if message.text or message.html else "",
        "severity": str(delivery.severity),
        "waits until": iso_time(delivery.not_before, "seconds") if delivery.not_before else "",
        "title": message.title,
        "text": message.text,
        "html": message.html,
        "pictures": ", ".join(pictures),
        "within": f"{delivery.fallback_after:g} s" if delivery.fallback_after else "",
        "fallbacks": ", ".join(each.channel for each in delivery.fallbacks),
        "payload": "" if delivery.payload is None else repr(dict(delivery.payload)),
    }
    for each in delivery.fallbacks:
        inner = {f"{name} of fallback {each.channel}": value for name, value in _seen(each).items()}
        seen = {**seen, **inner}
    return {name: value for name, value in seen.items() if value}


def _visible(mine: str, its: str) -> tuple[str, str]:
    texts = as_text(mine), as_text(its)
    return texts if texts[0] != texts[1] else (mine, its)


def _field(name: str, mine: str, its: str) -> FieldChange:
    if mine and its:
        lines = zip_longest(mine.splitlines(), its.splitlines(), fillvalue="")
        mine, its = next(((a, b) for a, b in lines if a != b), (mine, its))
    at = next((i for i, (a, b) in enumerate(zip(mine, its, strict=False)) if a != b), 0)
    start = max(0, at - _MAX_TEXT_LENGTH // 2)
    return FieldChange(name=name, live=_cut(mine, start), new=_cut(its, start))


def _cut(text: str, start: int) -> str:
    """Return the part of ``text`` from ``start`` that is shown."""
    before = "…" if start and len(text) > start else ""
    rest = text[start:] if before else text
    return before + shorten(rest, _MAX_TEXT_LENGTH)
