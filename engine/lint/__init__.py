"""What a policy means and should not: checked once all of it is compiled, over what was written.

Each module looks for one family of mistakes and complains about each where it stands.
"""

from __future__ import annotations

from ..cursors import Diagnostics
from . import chains, fields, leftovers, people, reach, words
from .fields import check as check_fields
from .policy import LintContext, SourceRule, SourceRuleBuilder
from .secrets import check_secrets

__all__ = ["LintContext", "SourceRule", "SourceRuleBuilder", "check", "check_fields", "check_secrets"]


def check(policy: LintContext, complaints: Diagnostics, *, warn: bool) -> None:
    """Everything that needs the whole policy; unless ``warn``, nothing that only leads to warnings."""
    for written in policy.rules:
        fields.check(written, complaints)
    words.check(policy, complaints)
    chains.check_fallbacks(policy, complaints)
    if warn:
        reach.check(policy, complaints)
        people.check_categories(policy, complaints)
        leftovers.check_usage(policy, complaints)
