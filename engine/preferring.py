"""The first gate: whether the person wants this message over this channel."""

from __future__ import annotations

from dataclasses import dataclass

from .choices import Choices, outdated, selected
from .model import Recipient
from .rulebook import Notify, Rule, Rulebook


@dataclass(frozen=True, slots=True)
class Preferred:
    """Whether an entry is wanted, and what is to be written down of the choice."""

    wanted: bool
    details: tuple[str, ...] = ()


_WANTED = Preferred(True)


def prefer(
    rulebook: Rulebook, rule: Rule, notify: Notify, recipient: Recipient, choices: Choices | None
) -> Preferred:
    """What the person has chosen of this entry; what they have not, the rule says."""
    if notify.among:
        return _among(rulebook, rule, notify, recipient, choices)
    channel = rulebook.channels[notify.channel]
    if choices is None or rule.critical or channel.address is None:
        return _WANTED  # what needs no address is for a room or a machine, not for this person
    if choices.is_on(rule.category, channel.name) is False:
        return Preferred(False, (_off(recipient, rule),))
    return _WANTED


def _among(
    rulebook: Rulebook, rule: Rule, notify: Notify, recipient: Recipient, choices: Choices | None
) -> Preferred:
    """``preferred``: one of several channels, of which the person chooses."""
    first = notify.channel == notify.among[0]  # which tells of all of them
    reachable = {name for name in notify.among if _reaches(rulebook, name, recipient)}
    chosen = selected(choices, rule.category, notify.among, reachable)
    if not chosen and rule.critical:
        chosen = selected(None, rule.category, notify.among, reachable)
        return Preferred(notify.channel in chosen, ("switched off, and this is critical",) if first else ())
    if not chosen:
        return Preferred(False, (_off(recipient, rule),))
    lost = outdated(choices, rule.category, notify.among) if choices else ()
    if lost and not any(choices and choices.is_on(rule.category, name) for name in notify.among):
        detail = f"{', '.join(lost)}: chosen, and not allowed any more; the rule's first instead"
        return Preferred(notify.channel in chosen, (detail,) if first else ())
    return Preferred(notify.channel in chosen)


def _reaches(rulebook: Rulebook, channel: str, recipient: Recipient) -> bool:
    kind = rulebook.channels[channel].address
    return kind is None or bool(recipient.addresses.get(kind))


def _off(recipient: Recipient, rule: Rule) -> str:
    return f"{recipient.user} has switched it off" + (f" for {rule.category}" if rule.category else "")
