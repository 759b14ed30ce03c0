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

EVERYTHING = "default"  # the category for all categories without preferences of their own
LOCALE, ZONE, QUIET, ADDRESSES = "locale", "time_zone", "quiet_hours", "addresses"  # not categories


class ResolvedAddresses(Struct, frozen=True, kw_only=True):
    """The addresses of one message, and the texts that are no usable address."""

    to: tuple[str, ...]
    unusable: tuple[str, ...] = ()


def recipient_of(rulebook: Rulebook, event: Event, audience: Audience) -> Recipient:
    """Return the recipient of ``event``. If ``to`` names no field of a role, the schema's mark does."""
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
    """Return ``recipient`` with their preferences. Their own address applies if the event has none."""
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
    """Yield the addresses of each message: all in one if the channel can do that, else one message each."""
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
    messages = [tuple(usable)] if channel.many or not usable else [(address,) for address in usable]
    for position, to in enumerate(messages):
        yield ResolvedAddresses(to=to, unusable=() if position else tuple(unusable))


def _texts_at(payload: Mapping[str, Any], path: FieldPath) -> tuple[str, ...]:
    values = resolve(payload, path)
    if len(values) == 1 and values[0].__class__ is str:  # the common case
        text = values[0].strip()
        return (text,) if text else ()
    return tuple(texts(values))


def texts(values: list[Any]) -> Iterator[str]:
    """Yield the non-empty texts among the values of a path; a number, such as a user id, becomes a text."""
    for value in values:
        if isinstance(value, list):
            yield from texts(value)
        elif isinstance(value, str) and value.strip():
            yield value.strip()
        elif isinstance(value, int) and not isinstance(value, bool):
            yield str(value)


@dataclass(frozen=True, slots=True)
class PreferenceDecision:
    """A user's decision about an entry of ``notify``, with the details for the history."""

    wanted: bool
    details: tuple[str, ...] = ()


_WANTED = PreferenceDecision(True)


def apply_preferences(
    rulebook: Rulebook, rule: Rule, notify: Notify, recipient: Recipient, choices: Choices | None
) -> PreferenceDecision:
    """Return whether the user wants this entry. Without a preference, the rule decides."""
    if notify.among:
        return _choose_channel(rulebook, rule, notify, recipient, choices)
    channel = rulebook.channels[notify.channel]
    if choices is None or rule.critical or channel.address is None:
        return _WANTED  # a channel without addresses is for a room or a machine, not for this user
    if choices.is_on(rule.category, channel.name) is False:
        return PreferenceDecision(False, (_switched_off(recipient, rule),))
    return _WANTED


def _choose_channel(
    rulebook: Rulebook, rule: Rule, notify: Notify, recipient: Recipient, choices: Choices | None
) -> PreferenceDecision:
    """Decide about one of the channels of a ``preferred`` entry, of which the user chooses."""
    reachable = {
        name
        for name in notify.among
        if (kind := rulebook.channels[name].address) is None or recipient.addresses.get(kind)
    }
    chosen, detail = select_channels(choices, rule.category, notify.among, reachable), ""
    if not chosen and not rule.critical:
        return PreferenceDecision(False, (_switched_off(recipient, rule),))
    if not chosen:
        chosen = select_channels(None, rule.category, notify.among, reachable)
        detail = "switched off, and this is critical"
    elif (
        choices
        and not any(choices.is_on(rule.category, name) for name in notify.among)
        and (lost := no_longer_allowed(choices, rule.category, notify.among))
    ):
        detail = f"{', '.join(lost)}: chosen, and not allowed any more; the rule's first instead"
    is_first = notify.channel == notify.among[0]  # the detail is recorded once
    return PreferenceDecision(notify.channel in chosen, (detail,) if detail and is_first else ())


def _switched_off(recipient: Recipient, rule: Rule) -> str:
    return f"{recipient.user} has switched it off" + (f" for {rule.category}" if rule.category else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """One user's preferences. An empty field means that there is none."""

    channels: Mapping[str, Mapping[str, bool] | Sequence[str]] = field(default_factory=dict)
    # by category: each channel on or off; or the channels that are on, and no other
    addresses: Mapping[str, str] = field(default_factory=dict)  # by kind, for events without one
    locale: str = ""
    zone: ZoneInfo | None = None
    quiet: tuple[Window, ...] = ()  # in the user's own zone

    def is_on(self, category: str, channel: str) -> bool | None:
        """Return whether the user wants a category over a channel; None without a preference."""
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
        """The quiet hours as an interval in the user's zone."""
        return (Interval(windows=self.quiet),) if self.quiet else ()


ChoicesOf = Callable[[str], Choices | None]  # of a user, by the application's id


def no_preferences(_: str) -> None:
    """Return the preferences of a user without any."""


def select_channels(
    choices: Choices | None, category: str, allowed: Sequence[str], reachable: Collection[str]
) -> tuple[str, ...]:
    """Return which of the ``allowed`` channels a ``preferred`` entry uses; () if all are switched off.

    ``allowed`` is in the rule's order. A user without preferences, or with none that is still allowed, is
    notified over the first channel that can reach them.
    """
    if choices is not None:
        preferred = {channel: choices.is_on(category, channel) for channel in allowed}
        if any(preferred.values()):
            return tuple(channel for channel, on in preferred.items() if on)
        if all(on is False for on in preferred.values()) and not no_longer_allowed(
            choices, category, allowed
        ):
            return ()
        allowed = [channel for channel, on in preferred.items() if on is None] or allowed
    return tuple(channel for channel in allowed if channel in reachable)[:1] or tuple(allowed[:1])


def no_longer_allowed(choices: Choices, category: str, allowed: Sequence[str]) -> tuple[str, ...]:
    """Return the channels that the user has chosen and that are not allowed."""
    chosen = choices.channels.get(category, choices.channels.get(EVERYTHING, ()))
    on = [name for name, is_on in chosen.items() if is_on] if isinstance(chosen, Mapping) else chosen
    return tuple(name for name in on if name not in allowed)
