"""What people have chosen for themselves, inside the frame that the rules set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from .intervals import Interval, Window

EVERYTHING = "default"  # the category that stands for all that have no choice of their own
LOCALE, ZONE, QUIET, ADDRESSES = "locale", "time_zone", "quiet_hours", "addresses"  # no categories
PREFERRED = "preferred"  # in ``notify``: what the person has chosen, within ``allow``


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
