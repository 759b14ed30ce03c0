"""The options that a policy offers to users, and the reasons that speak against a choice."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ..model.wording import nearest
from ..planning.recipients import ADDRESSES, EVERYTHING, LOCALE, Choices, select_channels
from ..rules.rulebook import ChannelSpec, Mode, Notify, Rule, Rulebook
from ..templates import library


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryOptions:
    """The channels of one category; those that the rules prefer come first."""

    category: str
    channels: tuple[str, ...]
    on_by_default: frozenset[str] = frozenset()  # named by a rule: on unless switched off
    always_on: frozenset[str] = frozenset()  # of critical rules: messages come over them in any case
    critical: frozenset[str] = frozenset()  # of which one has to stay on

    def is_on(self, choices: Choices, channel: str) -> bool:
        """Whether messages come over it to somebody who can be reached over all of them."""
        said = choices.is_on(self.category, channel)
        if channel in self.always_on or said is not None:
            return channel in self.always_on or said is True
        among = tuple(name for name in self.channels if name not in self.on_by_default)
        return channel in self.on_by_default or channel in select_channels(
            choices, self.category, among, among
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceOptions:
    """All that people may choose."""

    categories: Mapping[str, CategoryOptions]
    everything: CategoryOptions  # for ``default``: the channels of all rules, those without a category too
    addresses: frozenset[str]  # the kinds that an offered channel needs
    languages: tuple[str, ...]  # that there are words in, as the templates' folders are called

    template_locales: frozenset[frozenset[str]] = field(
        repr=False
    )  # of all that has to be said, the locales of each
    locale: str = field(repr=False)  # of the policy's defaults

    def violations(self, choices: Choices, changed: Collection[str]) -> Iterator[str]:
        """What speaks against ``choices``, in words for the person.

        Only what is in ``changed``, keys of the document, is looked at: what was once allowed and is
        not any more keeps nobody from changing something else.
        """
        yield from self._not_offered(choices, changed)
        yield from self._switched_off(choices, changed)
        for kind in choices.addresses if ADDRESSES in changed else ():
            if kind not in self.addresses:
                yield f"addresses: no channel needs a {kind}{_hint(kind, self.addresses)}"
        if LOCALE in changed and choices.locale and not self._has_locale(choices.locale):
            yield f"locale: nothing is written in {choices.locale}; there are: {', '.join(self.languages)}"

    def _not_offered(self, choices: Choices, changed: Collection[str]) -> Iterator[str]:
        for category in choices.channels:
            if category not in changed:
                continue
            offer = self.everything if category == EVERYTHING else self.categories.get(category)
            if offer is None:
                yield f"{category}: there is no such category{_hint(category, self.categories)}"
                continue
            for channel in choices.channels[category]:
                if channel not in offer.channels:
                    yield f"{category}: {channel} is not offered{_hint(channel, offer.channels)}"

    def _switched_off(self, choices: Choices, changed: Collection[str]) -> Iterator[str]:
        for category, offer in self.categories.items():
            asked = category in changed or (EVERYTHING in changed and category not in choices.channels)
            if asked and offer.critical and all(choices.is_on(category, c) is False for c in offer.critical):
                yield f"{category}: one of {_listed(offer.critical, offer)} has to stay on"

    def _has_locale(self, locale: str) -> bool:
        wanted = library.locale_chain(locale, self.locale)
        return not any(there.isdisjoint(wanted) for there in self.template_locales)


def options_of(rulebook: Rulebook) -> PreferenceOptions:
    """What people may choose under ``rulebook``: the entries of its rules that are for an event's person."""
    asked = [
        (rule, entry)
        for rule in rulebook.rules
        if rule.mode is Mode.LIVE
        for entry in rule.steps
        if not (entry.to or rule.to).person
    ]
    categories = dict.fromkeys(rule.category for rule, _ in asked if rule.category)
    words = frozenset(
        (entry.template or rule.template, spec.name, spec.type)
        for rule, entry in asked
        for spec in _channels(rulebook, entry)
        if spec.renders_text
    )
    everything = _category_options(rulebook, EVERYTHING, asked)
    kinds = (rulebook.channels[name].address for name in everything.channels)
    by_category = {
        name: _category_options(rulebook, name, [each for each in asked if each[0].category == name])
        for name in categories
    }
    return PreferenceOptions(
        categories={name: offer for name, offer in by_category.items() if offer.channels},
        everything=everything,
        addresses=frozenset(kind for kind in kinds if kind),
        languages=tuple(sorted({locale for name, *_ in words for locale in _languages(rulebook, name)})),
        template_locales=frozenset(rulebook.library.locales_of(name, channel) for name, *channel in words),
        locale=rulebook.defaults.locale,
    )


def _category_options(
    rulebook: Rulebook, category: str, asked: Iterable[tuple[Rule, Notify]]
) -> CategoryOptions:
    channels: dict[str, None] = {}
    written, unasked, critical = set(), set(), set()
    for rule, entry in asked:
        for spec in _channels(rulebook, entry):
            channels[spec.name] = None
            if category == EVERYTHING:
                written.add(spec.name)
                continue
            if not entry.among:
                written.add(spec.name)
            if rule.critical:
                critical.add(spec.name)
            if rule.critical and not entry.among:
                unasked.add(spec.name)
    return CategoryOptions(
        category=category,
        channels=tuple(channels),
        on_by_default=frozenset(written),
        always_on=frozenset(unasked),
        critical=frozenset(critical),
    )


def _channels(rulebook: Rulebook, entry: Notify) -> Iterator[ChannelSpec]:
    """The channel of an entry, where it is a person that is told over it."""
    spec = rulebook.channels.get(entry.channel)
    if spec is not None and (entry.among or spec.address is not None):
        yield spec


def _languages(rulebook: Rulebook, template: str) -> Iterator[str]:
    for locale, shelf in rulebook.library.by_name.get(template, {}).items():
        yield next((words.locale for words in shelf.values() if words.locale), locale) or (
            rulebook.defaults.locale
        )


def _listed(names: Collection[str], offer: CategoryOptions) -> str:
    return ", ".join(name for name in offer.channels if name in names)


def _hint(name: str, known: Iterable[str]) -> str:
    hint = nearest(name, known)
    return f"; {hint}" if hint else ""
