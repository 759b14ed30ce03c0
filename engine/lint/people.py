"""What people are to choose, and cannot."""

from __future__ import annotations

from ..cursors import Diagnostics
from ..rulebook import Rule, Rulebook
from .policy import LintContext


def check_categories(policy: LintContext, complaints: Diagnostics) -> None:
    """A category is for choosing: some rule of it has to offer a channel that reaches the person."""
    offered = {each.rule.category for each in policy.rules if _offers(each.rule, policy.rulebook)}
    for written in policy.rules:
        category = written.rule.category
        if category and category not in offered:
            offered.add(category)  # once is enough
            message = (
                f"nobody can choose anything in {category!r}: no rule of it reaches a person of the event"
            )
            complaints.add(
                written.entry / "category", "category-without-channel", message, severity="warning"
            )


def _offers(rule: Rule, rulebook: Rulebook) -> bool:
    """Whether a message goes to the person of the event over a channel that needs their address."""
    for step in rule.steps:
        channel = rulebook.channels.get(step.channel)
        to = step.to or rule.to
        if not to.person and (channel is None or channel.address is not None):
            return True
    return False
