"""The preferences that a policy offers to users, and the reasons for which it rejects others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ..model.wording import nearest
from ..planning.recipients import ADDRESSES, EVERYTHING, LOCALE, Choices, select_channels
from ..rules.rulebook import ChannelSpec, Mode, Notify, Rule, Rulebook
from ..templates import library


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryOptions:
    """The channels of one category, in the order of the rules."""

    category: str
    channels: tuple[str, ...]
    on_by_default: frozenset[str] = frozenset()  # named by a rule: on unless switched off
    always_on: frozenset[str] = frozenset()  # named by a critical rule: users cannot switch them off
    critical: frozenset[str] = frozenset()  # of critical rules: one of them has to stay on

    def is_on(self, choices: Choices, channel: str) -> bool:
        """Return whether a user with an address for every channel is notified over ``channel``."""
        preference = choices.is_on(self.category, channel)
        if channel in self.always_on or preference is not None:
            return channel in self.always_on or preference is True
        among = tuple(name for name in self.channels if name not in self.on_by_default)
        return channel in self.on_by_default or channel in select_channels(
            choices, self.category, among, among
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceOptions:
    """The preferences that users may have."""

    categories: Mapping[str, CategoryOptions]
    everything: CategoryOptions  # for ``default``: the channels of all rules, with or without a category
    addresses: frozenset[str]  # the kinds that an offered channel needs
    languages: tuple[str, ...]  # of the templates, as their folders are called
    template_locales: frozenset[frozenset[str]] = field(repr=False)  # the locales of each template
    locale: str = field(repr=False)  # of the policy's defaults

    def violations(self, choices: Choices, changed: Collection[str]) -> Iterator[str]:
        """Yield the reasons against ``choices``, as texts for the user.

        Only the keys in ``changed`` are checked. A key that is no longer allowed does not keep the user
        from changing another one.
        """
        yield from self._not_offered(choices, changed)
        yield from self._switched_off(choices, changed)
        for kind in choices.addresses if ADDRESSES in changed else ():
            if kind not in self.addresses:
                yield f"addresses: no channel needs a {kind}{_hint(kind, self.addresses)}"
        if LOCALE in changed and choices.locale:
            wanted = library.locale_chain(choices.locale, self.locale)
            if any(locales.isdisjoint(wanted) for locales in self.template_locales):
                yield f"locale: no template is in {choices.locale}; there are: {', '.join(self.languages)}"

    def _not_offered(self, choices: Choices, changed: Collection[str]) -> Iterator[str]:
        for category in choices.channels:
            if category not in changed:
                continue
            options = self.everything if category == EVERYTHING else self.categories.get(category)
            if options is None:
                yield f"{category}: there is no such category{_hint(category, self.categories)}"
                continue
            for channel in choices.channels[category]:
                if channel not in options.channels:
                    yield f"{category}: {channel} is not offered{_hint(channel, options.channels)}"

    def _switched_off(self, choices: Choices, changed: Collection[str]) -> Iterator[str]:
        for category, options in self.categories.items():
            is_checked = category in changed or (EVERYTHING in changed and category not in choices.channels)
            critical = [name for name in options.channels if name in options.critical]
            if is_checked and critical and all(choices.is_on(category, name) is False for name in critical):
                yield f"{category}: one of {', '.join(critical)} has to stay on"


def options_of(rulebook: Rulebook) -> PreferenceOptions:
    """Return the options under ``rulebook``: the entries of its rules that are for an event's user."""
    offered = [
        (rule, entry)
        for rule in rulebook.rules
        if rule.mode is Mode.LIVE
        for entry in rule.steps
        if not (entry.to or rule.to).person
    ]
    categories = dict.fromkeys(rule.category for rule, _ in offered if rule.category)
    templates = frozenset(
        (entry.template or rule.template, spec.name, spec.type)
        for rule, entry in offered
        for spec in _channels(rulebook, entry)
        if spec.renders_text
    )
    everything = _category_options(rulebook, EVERYTHING, offered)
    kinds = (rulebook.channels[name].address for name in everything.channels)
    by_category = {
        name: _category_options(rulebook, name, [each for each in offered if each[0].category == name])
        for name in categories
    }
    return PreferenceOptions(
        categories={name: options for name, options in by_category.items() if options.channels},
        everything=everything,
        addresses=frozenset(kind for kind in kinds if kind),
        languages=tuple(sorted({locale for name, *_ in templates for locale in _languages(rulebook, name)})),
        template_locales=frozenset(
            rulebook.library.locales_of(name, channel) for name, *channel in templates
        ),
        locale=rulebook.defaults.locale,
    )


def _category_options(
    rulebook: Rulebook, category: str, offered: Iterable[tuple[Rule, Notify]]
) -> CategoryOptions:
    channels: dict[str, None] = {}
    on_by_default, always_on, critical = set(), set(), set()
    for rule, entry in offered:
        for spec in _channels(rulebook, entry):
            channels[spec.name] = None
            if category == EVERYTHING or not entry.among:
                on_by_default.add(spec.name)
            if category != EVERYTHING and rule.critical:
                critical.add(spec.name)
                if not entry.among:
                    always_on.add(spec.name)
    return CategoryOptions(
        category=category,
        channels=tuple(channels),
        on_by_default=frozenset(on_by_default),
        always_on=frozenset(always_on),
        critical=frozenset(critical),
    )


def _channels(rulebook: Rulebook, entry: Notify) -> Iterator[ChannelSpec]:
    """Yield the channel of an entry, if it notifies a user."""
    spec = rulebook.channels.get(entry.channel)
    if spec is not None and (entry.among or spec.address is not None):
        yield spec


def _languages(rulebook: Rulebook, template: str) -> Iterator[str]:
    for locale, channels in rulebook.library.by_name.get(template, {}).items():
        named = next((each.locale for each in channels.values() if each.locale), locale)
        yield named or rulebook.defaults.locale


def _hint(name: str, known: Iterable[str]) -> str:
    hint = nearest(name, known)
    return f"; {hint}" if hint else ""
