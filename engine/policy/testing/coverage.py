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
    """A rule; it is covered if it matched."""

    place: Place
    rule: str

    def __str__(self) -> str:
        return f"rule {self.rule}"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class CoveredEntry:
    """An entry of ``notify``; it is covered if it made a message, or would have in a shadow rule.

    Each step of a chain is an entry, which is covered if the chain reached it.
    """

    place: Place  # of the rule
    rule: str
    entry: int  # from 1
    step: int  # from 1; 0 if the entry is no chain
    channel: str

    def __str__(self) -> str:
        step = f" step {self.step}" if self.step else ""
        return f"rule {self.rule}, notify entry {self.entry}{step} ({self.channel})"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class CoveredLocale:
    """The content of a template for a channel in one language; it is covered if it was rendered."""

    template: str
    channel: str
    locale: str

    def __str__(self) -> str:
        return f"template {self.template}, {self.channel} in {self.locale}"


T = TypeVar("T", CoveredRule, CoveredEntry, CoveredLocale)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageShare(Generic[T]):
    """The coverage of rules, of entries or of locales."""

    total: int
    missing: tuple[T, ...]  # in order

    @property
    def covered(self) -> int:
        return self.total - len(self.missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The coverage of a policy by its tests."""

    rules: CoverageShare[CoveredRule]
    notify: CoverageShare[CoveredEntry]
    locales: CoverageShare[CoveredLocale]

    @property
    def complete(self) -> bool:
        return not (self.rules.missing or self.notify.missing or self.locales.missing)


def coverage(rulebook: Rulebook, plans: Iterable[Plan]) -> Coverage:
    """Return the coverage by ``plans``: those of all tests, with every delivery that was attempted."""
    rules: set[CoveredRule] = set()
    entries: set[CoveredEntry] = set()
    locales: set[CoveredLocale] = set()
    for plan in plans:
        for match in plan.matches:
            rules.add(_covered_rule(match.rule))
            deliveries = {d.id: d for d in plan.deliveries if d.rule == match.rule.id}
            for entry, step, notify in _entries(match.rule):
                whole = match.rule.notify[entry - 1]
                if not all(
                    each.when is None or each.when.holds(plan.event.payload) for each in (whole, notify)
                ):
                    continue
                made = [
                    (d, template)
                    for d in deliveries.values()
                    if (template := _template_of(d, plan, match.rule, notify))
                ]
                if made or match.rule.mode is Mode.SHADOW:
                    entries.add(_covered_entry(match.rule, entry, step, notify))
                locales |= {
                    CoveredLocale(template=template, channel=d.channel, locale=d.locale)
                    for d, template in made
                }
    return Coverage(
        rules=_share({_covered_rule(rule) for rule in rulebook.rules}, rules),
        notify=_share(
            {_covered_entry(rule, *each) for rule in rulebook.rules for each in _entries(rule)}, entries
        ),
        locales=_share(set(_covered_locales(rulebook)), locales),
    )


def _template_of(delivery: Delivery, plan: Plan, rule: Rule, notify: Notify) -> str:
    """Return the template that ``notify`` rendered for the delivery; "" if another entry made it.

    The id of a delivery shows that: it is a hash of channel and template.
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


def _share(all_: set[T], covered: set[T]) -> CoverageShare[T]:
    return CoverageShare(total=len(all_), missing=tuple(sorted(all_ - covered)))


def _covered_rule(rule: Rule) -> CoveredRule:
    return CoveredRule(place=rule.place, rule=rule.id)


def _entries(rule: Rule) -> Iterator[tuple[int, int, Notify]]:
    """Yield each entry with its number, and of a chain each step with both numbers."""
    for number, entry in enumerate(rule.notify, 1):
        if isinstance(entry, Notify):
            yield number, 0, entry
        else:
            yield from ((number, place, step) for place, step in enumerate(entry.steps, 1))


def _covered_entry(rule: Rule, entry: int, step: int, notify: Notify) -> CoveredEntry:
    return CoveredEntry(place=rule.place, rule=rule.id, entry=entry, step=step, channel=notify.channel)


def _covered_locales(rulebook: Rulebook) -> Iterator[CoveredLocale]:
    """Yield each language of each template that a rule uses, by channel. A shadow rule renders nothing."""
    for rule in rulebook.rules:
        for notify in rule.steps if rule.mode is not Mode.SHADOW else ():
            channel = rulebook.channels[notify.channel]
            for template in rule.templates_of(notify):
                for locale in rulebook.library.by_name.get(template, {}):
                    content = rulebook.library.find(template, (channel.name, channel.type), (locale,))
                    if content is not None:
                        spelled = content.locale or rulebook.defaults.locale
                        yield CoveredLocale(template=template, channel=channel.name, locale=spelled)
