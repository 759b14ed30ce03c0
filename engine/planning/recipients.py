"""The recipients of a rule: their addresses, their preferences, and their channels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from msgspec import Struct
from msgspec.structs import replace

from ..model.addresses import usable_address
from ..model.messages import Event, Recipient
from ..rules.catalog import LOCALE_ROLE, USER_ROLE
from ..rules.paths import FieldPath, resolve
from ..rules.rulebook import Audience, ChannelSpec, Notify, Rule, Rulebook
from ..rules.schedule import Interval, Window

EVERYTHING = "default"  # the category that stands for all that have no choice of their own
LOCALE, ZONE, QUIET, ADDRESSES = "locale", "time_zone", "quiet_hours", "addresses"  # no categories


class ResolvedAddresses(Struct, frozen=True, kw_only=True):
    """One message's addresses, and what had to be left out."""

    to: tuple[str, ...]
    unusable: tuple[str, ...] = ()


def recipient_of(rulebook: Rulebook, event: Event, audience: Audience) -> Recipient:
    """Who ``audience`` means for this event; the catalogue's marks say what ``to`` leaves out."""
    if audience.person:
        return rulebook.people[audience.person]
    known = rulebook.catalogue.get(event.name)
    roles = known.roles if known else {}
    paths = {**roles, **audience.fields} if audience.fields else roles
    found = {role: _texts_at(event.payload, path) for role, path in paths.items()}
    return Recipient(
        user=next(iter(found.pop(USER_ROLE, ())), ""),
        locale=next(iter(found.pop(LOCALE_ROLE, ())), ""),
        addresses={kind: values for kind, values in found.items() if values},
    )


def with_preferences(recipient: Recipient, choices: Choices | None) -> Recipient:
    """``recipient`` with what they have chosen: an address of their own counts where the event has none."""
    if choices is None:
        return recipient
    own = {kind: (address,) for kind, address in choices.addresses.items()}
    return replace(
        recipient,
        addresses={**own, **recipient.addresses},
        locale=choices.locale or recipient.locale,
        zone=choices.zone or recipient.zone,
    )


def addresses_for(channel: ChannelSpec, recipient: Recipient) -> Iterator[ResolvedAddresses]:
    """The addresses of each message: all in one where the channel can, else one message each."""
    if channel.address is None:
        yield ResolvedAddresses(to=())
        return
    usable: dict[str, None] = {}
    unusable: list[str] = []
    for text in recipient.addresses.get(channel.address, ()):
        address = usable_address(channel.address, text)
        if address is None:
            unusable.append(text[:100])
        else:
            usable[address] = None
    together = [tuple(usable)] if channel.many or not usable else [(address,) for address in usable]
    for position, to in enumerate(together):
        yield ResolvedAddresses(to=to, unusable=() if position else tuple(unusable))


def _texts_at(payload: Mapping[str, Any], path: FieldPath) -> tuple[str, ...]:
    values = resolve(payload, path)
    if len(values) == 1 and values[0].__class__ is str:  # the common case
        text = values[0].strip()
        return (text,) if text else ()
    return tuple(texts(values))


def texts(values: list[Any]) -> Iterator[str]:
    """The non-empty texts among what a path leads to; numbers, as user ids are, become texts."""
    for value in values:
        if isinstance(value, list):
            yield from texts(value)
        elif isinstance(value, str) and value.strip():
            yield value.strip()
        elif isinstance(value, int) and not isinstance(value, bool):
            yield str(value)


@dataclass(frozen=True, slots=True)
class PreferenceDecision:
    """Whether an entry is wanted, and what is to be written down of the choice."""

    wanted: bool
    details: tuple[str, ...] = ()


_WANTED = PreferenceDecision(True)


def apply_preferences(
    rulebook: Rulebook, rule: Rule, notify: Notify, recipient: Recipient, choices: Choices | None
) -> PreferenceDecision:
    """What the person has chosen of this entry; what they have not, the rule says."""
    if notify.among:
        return _choose_channel(rulebook, rule, notify, recipient, choices)
    channel = rulebook.channels[notify.channel]
    if choices is None or rule.critical or channel.address is None:
        return _WANTED  # what needs no address is for a room or a machine, not for this person
    if choices.is_on(rule.category, channel.name) is False:
        return PreferenceDecision(False, (_switched_off(recipient, rule),))
    return _WANTED


def _choose_channel(
    rulebook: Rulebook, rule: Rule, notify: Notify, recipient: Recipient, choices: Choices | None
) -> PreferenceDecision:
    """``preferred``: one of several channels, of which the person chooses."""
    first = notify.channel == notify.among[0]  # which tells of all of them
    reachable = {name for name in notify.among if _reaches(rulebook, name, recipient)}
    chosen = select_channels(choices, rule.category, notify.among, reachable)
    if not chosen and rule.critical:
        chosen = select_channels(None, rule.category, notify.among, reachable)
        return PreferenceDecision(
            notify.channel in chosen, ("switched off, and this is critical",) if first else ()
        )
    if not chosen:
        return PreferenceDecision(False, (_switched_off(recipient, rule),))
    lost = no_longer_allowed(choices, rule.category, notify.among) if choices else ()
    if lost and not any(choices and choices.is_on(rule.category, name) for name in notify.among):
        detail = f"{', '.join(lost)}: chosen, and not allowed any more; the rule's first instead"
        return PreferenceDecision(notify.channel in chosen, (detail,) if first else ())
    return PreferenceDecision(notify.channel in chosen)


def _reaches(rulebook: Rulebook, channel: str, recipient: Recipient) -> bool:
    kind = rulebook.channels[channel].address
    return kind is None or bool(recipient.addresses.get(kind))


def _switched_off(recipient: Recipient, rule: Rule) -> str:
    return f"{recipient.user} has switched it off" + (f" for {rule.category}" if rule.category else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """One person's preferences. What is empty has not been chosen."""

    channels: Mapping[str, Mapping[str, bool] | Sequence[str]] = field(default_factory=dict)
    # by category: each channel on or off; or those that are on, and no other
    addresses: Mapping[str, str] = field(default_factory=dict)  # by kind, where the event has none
    locale: str = ""
    zone: ZoneInfo | None = None
    quiet: tuple[Window, ...] = ()  # in the person's own zone

    def is_on(self, category: str, channel: str) -> bool | None:
        """Whether the person wants messages of that category over that channel; None: has not said."""
        for chosen in (self.channels.get(category), self.channels.get(EVERYTHING)):
            if chosen is None:
                continue
            if not isinstance(chosen, Mapping):
                return channel in chosen
            if channel in chosen:
                return chosen[channel]
        return None

    @property
    def hours(self) -> tuple[Interval, ...]:
        """The quiet hours as an interval in the reader's zone."""
        return (Interval(windows=self.quiet),) if self.quiet else ()


ChoicesOf = Callable[[str], Choices | None]  # of a person, by the application's id


def no_preferences(_: str) -> None:
    """The choices where nobody has made any."""


def select_channels(
    choices: Choices | None, category: str, allowed: Sequence[str], reachable: Collection[str]
) -> tuple[str, ...]:
    """Which of the ``allowed`` channels, the rule's favourite first, are used for ``preferred``.

    Who has chosen gets that; who has not, or only what is not allowed any more, gets the first that
    reaches them. () where the person has switched all of them off.
    """
    if choices is not None:
        said = [choices.is_on(category, channel) for channel in allowed]
        if any(said):
            return tuple(channel for channel, on in zip(allowed, said, strict=True) if on)
        if all(on is False for on in said) and not no_longer_allowed(choices, category, allowed):
            return ()
        allowed = [channel for channel, on in zip(allowed, said, strict=True) if on is None] or allowed
    return tuple(channel for channel in allowed if channel in reachable)[:1] or tuple(allowed[:1])


def no_longer_allowed(choices: Choices, category: str, allowed: Sequence[str]) -> tuple[str, ...]:
    """The channels that the person has chosen and that are not allowed."""
    chosen = choices.channels.get(category, choices.channels.get(EVERYTHING, ()))
    on = [name for name, is_on in chosen.items() if is_on] if isinstance(chosen, Mapping) else chosen
    return tuple(name for name in on if name not in allowed)
