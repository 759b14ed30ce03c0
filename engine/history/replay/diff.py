"""Decide without rendering whether two policies can differ for an event, and what differs for a recipient.

No answer is a guess: equal inputs lead to the same deliveries, and different inputs may still lead to the
same.
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
from ...planning.draft import Notification, Routing
from ...planning.planner import find_template
from ...rules.rulebook import Notify, NotifyEntry, Rule, Rulebook
from ...templates.library import as_text

# Of rules and their entries what has done its work once they match, or is compared in another way.
_ELSEWHERE_OF_RULES = ("priority", "place", "stop", "events", "when", "notify")
_ELSEWHERE_OF_ENTRIES = ("when", "steps")

_MAX_TEXT_LENGTH = 200  # characters of a text
_OF_ONE = (
    "to",
    "locale",
    "title",
    "text",
    "payload",
)  # what there is to say where the other side has nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySide:
    """One of the two policies. ``prints`` tell whether templates say the same (``template_prints``)."""

    rulebook: Rulebook
    prints: Mapping[str, str] = field(repr=False)


class PolicyDiff:
    """What is alike in two policies; what was found out once is remembered."""

    def __init__(self, live: ReplaySide, new: ReplaySide) -> None:
        self.live, self.new = live, new
        self._alike: dict[tuple[int, int], bool] = {}  # pairs of rules
        self._worded_alike: dict[tuple[int, int, int, int], bool] = {}  # pairs of rules and their entries
        self._marked_alike: dict[str, bool] = {}  # events whose payload schemas say the same

    def drafts_alike(self, before: Routing, event: Event) -> bool:
        """Whether the new policy's draft of ``event`` must be as the live one's."""
        matches = self.new.rulebook.match(event)
        return (
            len(matches) == len(before.matches)
            and all(
                # What limits make of it depends on what came before, under either policy.
                its.rule.limits.are_none and self._rules_alike(mine.rule, its.rule)
                for mine, its in zip(before.matches, matches, strict=True)
            )
            and self._events_alike(event.name)
            and before.event.payload == event.payload
        )

    def _rules_alike(self, mine: Rule, its: Rule) -> bool:
        key = id(mine), id(its)
        if key not in self._alike:
            self._alike[key] = (
                _rest(mine, _ELSEWHERE_OF_RULES) == _rest(its, _ELSEWHERE_OF_RULES)
                and len(mine.notify) == len(its.notify)
                and self._people_alike(mine.to.person)
                and all(
                    self._entries_alike(mine, a, its, b) for a, b in zip(mine.notify, its.notify, strict=True)
                )
            )
        return self._alike[key]

    def _entries_alike(self, mine: Rule, a: NotifyEntry, its: Rule, b: NotifyEntry) -> bool:
        if repr(a.when and a.when.source) != repr(b.when and b.when.source):  # 1 is True, and not here
            return False
        if _rest(a, _ELSEWHERE_OF_ENTRIES) != _rest(b, _ELSEWHERE_OF_ENTRIES):
            return False
        if not (isinstance(a, Notify) and isinstance(b, Notify)):
            steps = _steps_of(a), _steps_of(b)
            return (
                type(a) is type(b)
                and len(steps[0]) == len(steps[1])
                and all(self._entries_alike(mine, x, its, y) for x, y in zip(*steps, strict=True))
            )
        return (
            self._people_alike(a.to.person if a.to else "")
            and self._wording_alike(mine, a, its, b)
            and self._print(self.live, a.template or mine.template)
            == self._print(self.new, b.template or its.template)
        )

    @staticmethod
    def _print(side: ReplaySide, template: str) -> str:
        return side.prints.get(template, "")

    def _people_alike(self, name: str) -> bool:
        return not name or self.live.rulebook.people[name] == self.new.rulebook.people[name]

    def _events_alike(self, name: str) -> bool:
        if name not in self._marked_alike:
            mine, its = self.live.rulebook.catalogue.get(name), self.new.rulebook.catalogue.get(name)
            self._marked_alike[name] = (mine.roles if mine else {}) == (its.roles if its else {})
        return self._marked_alike[name]

    def orders_alike(self, mine: Notification, its: Notification) -> bool:
        """Whether both become the same delivery."""
        return (
            mine.fallback_after == its.fallback_after
            and len(mine.steps) == len(its.steps)
            and all(self._steps_alike(a, b) for a, b in zip(mine.steps, its.steps, strict=True))
        )

    def _steps_alike(self, mine: Notification, its: Notification) -> bool:
        return (
            (mine.id, mine.to, mine.not_before) == (its.id, its.to, its.not_before)
            and (mine.recipient.user, mine.recipient.locale) == (its.recipient.user, its.recipient.locale)
            and self._wording_alike(mine.match.rule, mine.notify, its.match.rule, its.notify)
            and mine.match.event.payload == its.match.event.payload
            and mine.match.event.received == its.match.event.received  # digests of the same events differ
            and mine.merged == its.merged
            and (
                self._print(self.live, mine.template) == self._print(self.new, its.template)
                or _template_prints_of(self.live, mine) == _template_prints_of(self.new, its)
            )
        )

    def _wording_alike(self, mine: Rule, a: Notify, its: Rule, b: Notify) -> bool:
        """Whether all else that words are made from is the same, and the channel's ways too."""
        key = id(mine), id(a), id(its), id(b)
        if key not in self._worded_alike:
            self._worded_alike[key] = _surroundings(self.live, mine, a) == _surroundings(self.new, its, b)
        return self._worded_alike[key]


def _rest(part: Rule | NotifyEntry, elsewhere: Collection[str]) -> list[object]:
    """All that a rule or an entry says besides, also what later versions of the language add."""
    return [getattr(part, each.name) for each in fields(part) if each.name not in elsewhere]


def _steps_of(entry: NotifyEntry) -> tuple[Notify, ...]:
    """The channels of a chain, one after the other."""
    return (entry,) if isinstance(entry, Notify) else entry.steps


def _template_prints_of(side: ReplaySide, order: Notification) -> tuple[str, ...]:
    """The prints of the words that an order finds."""
    try:
        words = find_template(side.rulebook, order.template, order.channel, order.recipient.locale)
    except TemplateError:
        return ("missing",)
    if words is None:
        return ()
    variants = (each for each in (words.markup, words.text) if each is not None)
    return (words.locale, *(side.prints[each.path] for each in variants))


def _surroundings(side: ReplaySide, rule: Rule, notify: Notify) -> str:
    channel, defaults = side.rulebook.channels[notify.channel], side.rulebook.defaults
    given = ({**rule.vars, **notify.vars}, dict(defaults.site)) if channel.renders_text else ()
    said = (defaults.locale, str(defaults.zone), rule.description, str(rule.severity))
    return repr(
        (said, given, channel.name, channel.type, channel.address, channel.many, channel.renders_text)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One field, side by side. "" is nothing on that side."""

    name: str
    live: str
    new: str


def differ(live: Delivery, new: Delivery) -> bool:
    """Whether a reader sees any difference."""
    return _seen(live) != _seen(new)


def fields_between(
    live: Delivery | None, new: Delivery | None, secrets: Collection[str] = ()
) -> tuple[FieldChange, ...]:
    """The fields that differ, of long texts the first lines that do; ``secrets`` are masked."""
    mine, its = _seen(live), _seen(new)
    names = [name for name in {**mine, **its} if mine.get(name, "") != its.get(name, "")]
    if live is None or new is None:
        names = [name for name in names if name in _OF_ONE]
    elif "html" in names and live.message.html and new.message.html:
        # People do not read markup: what they see of it, where that differs.
        mine["html"], its["html"] = _as_seen(live.message.html, new.message.html)
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
        "else over": ", ".join(each.channel for each in delivery.fallbacks),
        "payload": "" if delivery.payload is None else repr(dict(delivery.payload)),
    }
    for each in delivery.fallbacks:
        words = _seen(each).items()
        seen = {**seen, **{f"{name}, else over {each.channel}": value for name, value in words}}
    return {name: value for name, value in seen.items() if value}


def _as_seen(mine: str, its: str) -> tuple[str, str]:
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
    """As much of ``text`` from ``start`` on as is shown."""
    before = "…" if start and len(text) > start else ""
    rest = text[start:] if before else text
    return before + (rest if len(rest) <= _MAX_TEXT_LENGTH else f"{rest[: _MAX_TEXT_LENGTH - 1]}…")
