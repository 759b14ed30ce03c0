"""Fall-back chains in which a step can do nothing, or not what was meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from ..cursors import Diagnostics, DocumentNode
from ..durations import in_units
from ..rule_compiler import steps_of
from ..rulebook import ChannelSpec, FirstOf, Notify, Rule
from .policy import LintContext

Steps = Sequence[tuple[DocumentNode, Notify]]


def check_fallbacks(policy: LintContext, complaints: Diagnostics) -> None:
    """Every chain of every rule."""
    for written in policy.rules:
        for at, chain in written.notify():
            if isinstance(chain, FirstOf):
                steps = list(steps_of(at, chain))
                _check_duplicate_fallback(written.rule, steps, complaints)
                _check_redundant_fallback(written.rule, chain, steps, complaints)
                if chain.within:
                    _check_fallback_timeout(at / "within", chain, policy.rulebook.channels, complaints)


def _check_duplicate_fallback(rule: Rule, steps: Steps, complaints: Diagnostics) -> None:
    """What was refused is refused again."""
    for (earlier_at, earlier), (at, step) in combinations(steps, 2):
        if _has_same_target(rule, earlier, step) and _when(earlier_at) == _when(at):
            message = f"{step.channel} is a step of this chain already, and tells the same people"
            hint = "leave it out: what a channel refused it refuses again"
            complaints.add(at, "duplicate-fallback", message, hint=hint)
            return


def _check_redundant_fallback(rule: Rule, chain: FirstOf, steps: Steps, complaints: Diagnostics) -> None:
    others = [entry for entry in rule.notify if isinstance(entry, Notify) and entry.when is None]
    for at, step in steps[1:]:
        if any(_has_same_target(rule, other, step) for other in others):
            message = f"another entry of this rule tells the same people over {step.channel} in any case"
            complaints.add(at, "redundant-fallback", message, severity="warning")


def _check_fallback_timeout(
    at: DocumentNode, chain: FirstOf, channels: Mapping[str, ChannelSpec], complaints: Diagnostics
) -> None:
    for step in chain.steps[:-1]:
        channel = channels.get(step.channel)
        if channel is None:
            continue
        if chain.within < channel.timeout:
            message = (
                f"{at.value} is over before one send over {channel.name} is: its timeout is "
                f"{in_units(channel.timeout)}"
            )
            complaints.add(at, "fallback-timeout", message, severity="warning")
        elif chain.within >= channel.retry.deadline:
            message = (
                f"{at.value} changes nothing for {channel.name}, which gives up after "
                f"{in_units(channel.retry.deadline)}: its retry.deadline"
            )
            complaints.add(at, "fallback-timeout", message, severity="warning")


def _has_same_target(rule: Rule, one: Notify, other: Notify) -> bool:
    return one.channel == other.channel and (one.to or rule.to) == (other.to or rule.to)


def _when(at: DocumentNode) -> object:
    """The conditions of a step as written."""
    when = at.get("when")
    return None if when is None else when.value
