"""The first gate: whether the person wants this message over this channel."""

from __future__ import annotations

from dataclasses import dataclass

from .choices import Choices, no_longer_allowed, select_channels
from .model import Recipient
from .rulebook import Notify, Rule, Rulebook


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
