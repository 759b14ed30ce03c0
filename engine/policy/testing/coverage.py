"""Coverage: the rules, ``notify`` entries and locales that no test case covers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from ...model.messages import Delivery
from ...model.problems import Place
from ...planning.draft import delivery_id, fallback_id
from ...planning.planner import Plan
from ...rules.rulebook import Mode, Notify, Rule, Rulebook


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class CoveredRule:
    """A rule; it is covered when it matched."""

    place: Place
    rule: str

    def __str__(self) -> str:
        return f"rule {self.rule}"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class CoveredEntry:
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
class CoveredLocale:
    """The words of a template for a channel in one language; they are covered when they were written."""

    template: str
    channel: str
    locale: str

    def __str__(self) -> str:
        return f"template {self.template}, {self.channel} in {self.locale}"


T = TypeVar("T", CoveredRule, CoveredEntry, CoveredLocale)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageShare(Generic[T]):
    """How much of one sort is covered."""

    total: int
    missing: tuple[T, ...]  # in order

    @property
    def covered(self) -> int:
        return self.total - len(self.missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What is there, and what of it no test touched."""

    rules: CoverageShare[CoveredRule]
    notify: CoverageShare[CoveredEntry]
    locales: CoverageShare[CoveredLocale]

    @property
    def complete(self) -> bool:
        return not (self.rules.missing or self.notify.missing or self.locales.missing)


def coverage(rulebook: Rulebook, plans: Iterable[Plan]) -> Coverage:
    """What ``plans``, those of all tests with every delivery that was tried, have touched."""
    fired: set[CoveredRule] = set()
    told: set[CoveredEntry] = set()
    spoken: set[CoveredLocale] = set()
    for plan in plans:
        for match in plan.matches:
            fired.add(_covered_rule(match.rule))
            deliveries = {d.id: d for d in plan.deliveries if d.rule == match.rule.id}
            for entry, step, notify in _entries(match.rule):
                whole = match.rule.notify[entry - 1]
                if not all(
                    each.when is None or each.when.holds(plan.event.payload) for each in (whole, notify)
                ):
                    continue
                made = [d for d in deliveries.values() if _is_of(d, plan, match.rule, notify)]
                if made or match.rule.mode is Mode.SHADOW:
                    told.add(_covered_entry(match.rule, entry, step, notify))
                for delivery in made:
                    template = _template_of(delivery, plan, match.rule, notify)
                    spoken.add(
                        CoveredLocale(template=template, channel=delivery.channel, locale=delivery.locale)
                    )
    return Coverage(
        rules=_share({_covered_rule(rule) for rule in rulebook.rules}, fired),
        notify=_share(
            {_covered_entry(rule, *each) for rule in rulebook.rules for each in _entries(rule)}, told
        ),
        locales=_share(set(_covered_locales(rulebook)), spoken),
    )


def _is_of(delivery: Delivery, plan: Plan, rule: Rule, notify: Notify) -> bool:
    """Whether that entry led to the delivery."""
    return bool(_template_of(delivery, plan, rule, notify))


def _template_of(delivery: Delivery, plan: Plan, rule: Rule, notify: Notify) -> str:
    """What that entry has written the delivery from, "" where another entry led to it.

    The id knows, for it is made of channel and template.
    """
    to = delivery.to or (delivery.user,)
    for template in rule.templates_of(notify):
        own = delivery_id(plan.event, rule.id, notify.channel, template, to)
        if not delivery.fell_back_from and delivery.id == own:
            return template
        if delivery.fell_back_from and any(
            delivery.id == fallback_id(each.id, own) for each in plan.deliveries
        ):
            return template
    return ""


def _share(there: set[T], touched: set[T]) -> CoverageShare[T]:
    return CoverageShare(total=len(there), missing=tuple(sorted(there - touched)))


def _covered_rule(rule: Rule) -> CoveredRule:
    return CoveredRule(place=rule.place, rule=rule.id)


def _entries(rule: Rule) -> Iterator[tuple[int, int, Notify]]:
    """Every entry with its number, of a chain every step with both."""
    for number, entry in enumerate(rule.notify, 1):
        if isinstance(entry, Notify):
            yield number, 0, entry
        else:
            yield from ((number, place, step) for place, step in enumerate(entry.steps, 1))


def _covered_entry(rule: Rule, entry: int, step: int, notify: Notify) -> CoveredEntry:
    return CoveredEntry(place=rule.place, rule=rule.id, entry=entry, step=step, channel=notify.channel)


def _covered_locales(rulebook: Rulebook) -> Iterator[CoveredLocale]:
    """Every language of every template that a rule uses, by channel. A shadow rule writes nothing."""
    for rule in rulebook.rules:
        for notify in rule.steps if rule.mode is not Mode.SHADOW else ():
            channel = rulebook.channels[notify.channel]
            for template in rule.templates_of(notify):
                for locale in rulebook.library.by_name.get(template, {}):
                    words = rulebook.library.find(template, (channel.name, channel.type), (locale,))
                    if words is not None:
                        spelled = words.locale or rulebook.defaults.locale
                        yield CoveredLocale(template=template, channel=channel.name, locale=spelled)
