"""Which rules, entries of ``notify`` and languages no test of the policy has touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from .chain import fall_back_id
from .draft import delivery_id
from .model import Delivery, Place
from .plan import Plan
from .rulebook import FirstOf, Mode, Notify, Rule, Rulebook


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Fired:
    """A rule; it is covered when it matched."""

    place: Place
    rule: str

    def __str__(self) -> str:
        return f"rule {self.rule}"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Told:
    """An entry of a rule's ``notify``; it is covered when it led to a message, or would have in shadow.

    Of a chain each step is one, covered when the chain got as far as that.
    """

    place: Place  # of the rule
    rule: str
    entry: int  # from 1
    step: int  # from 1; 0 where the entry is no chain
    channel: str

    def __str__(self) -> str:
        step = f" step {self.step}" if self.step else ""
        return f"rule {self.rule}, notify entry {self.entry}{step} ({self.channel})"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Spoken:
    """The words of a template for a channel in one language; they are covered when they were written."""

    template: str
    channel: str
    locale: str

    def __str__(self) -> str:
        return f"template {self.template}, {self.channel} in {self.locale}"


T = TypeVar("T", Fired, Told, Spoken)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share(Generic[T]):
    """How much of one sort is covered."""

    total: int
    missing: tuple[T, ...]  # in order

    @property
    def covered(self) -> int:
        return self.total - len(self.missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What is there, and what of it no test touched."""

    rules: Share[Fired]
    notify: Share[Told]
    locales: Share[Spoken]

    @property
    def complete(self) -> bool:
        return not (self.rules.missing or self.notify.missing or self.locales.missing)


def coverage(rulebook: Rulebook, plans: Iterable[Plan]) -> Coverage:
    """What ``plans``, those of all tests with every delivery that was tried, have touched."""
    fired: set[Fired] = set()
    told: set[Told] = set()
    spoken: set[Spoken] = set()
    for plan in plans:
        for match in plan.matches:
            fired.add(_fired(match.rule))
            deliveries = {d.id: d for d in plan.deliveries if d.rule == match.rule.id}
            for entry, step, notify in _entries(match.rule):
                whole = match.rule.notify[entry - 1]
                if not all(
                    each.when is None or each.when.holds(plan.event.payload) for each in (whole, notify)
                ):
                    continue
                made = [d for d in deliveries.values() if _is_of(d, plan, match.rule, notify)]
                if made or match.rule.mode is Mode.SHADOW:
                    told.add(_told(match.rule, entry, step, notify))
                template = notify.template or match.rule.template
                spoken.update(Spoken(template=template, channel=d.channel, locale=d.locale) for d in made)
    return Coverage(
        rules=_share({_fired(rule) for rule in rulebook.rules}, fired),
        notify=_share({_told(rule, *each) for rule in rulebook.rules for each in _entries(rule)}, told),
        locales=_share(set(_words(rulebook)), spoken),
    )


def _is_of(delivery: Delivery, plan: Plan, rule: Rule, notify: Notify) -> bool:
    """Whether that entry led to the delivery; the id knows, for it is made of channel and template."""
    template = notify.template or rule.template
    to = delivery.to or (delivery.user,)
    own = delivery_id(plan.event, rule.id, notify.channel, template, to)
    if not delivery.takeover:
        return delivery.id == own
    return any(delivery.id == fall_back_id(first.id, own) for first in plan.deliveries)


def _share(there: set[T], touched: set[T]) -> Share[T]:
    return Share(total=len(there), missing=tuple(sorted(there - touched)))


def _fired(rule: Rule) -> Fired:
    return Fired(place=rule.place, rule=rule.id)


def _entries(rule: Rule) -> Iterator[tuple[int, int, Notify]]:
    """Every entry with its number, of a chain every step with both."""
    for number, entry in enumerate(rule.notify, 1):
        if isinstance(entry, FirstOf):
            yield from ((number, place, step) for place, step in enumerate(entry.steps, 1))
        else:
            yield number, 0, entry


def _told(rule: Rule, entry: int, step: int, notify: Notify) -> Told:
    return Told(place=rule.place, rule=rule.id, entry=entry, step=step, channel=notify.channel)


def _words(rulebook: Rulebook) -> Iterator[Spoken]:
    """Every language of every template that a rule uses, by channel. A shadow rule writes nothing."""
    for rule in rulebook.rules:
        for notify in rule.steps if rule.mode is not Mode.SHADOW else ():
            template = notify.template or rule.template
            channel = rulebook.channels[notify.channel]
            for locale in rulebook.library.shelves.get(template, {}):
                words = rulebook.library.find(template, (channel.name, channel.type), (locale,))
                if words is not None:
                    spelled = words.locale or rulebook.defaults.locale
                    yield Spoken(template=template, channel=channel.name, locale=spelled)
