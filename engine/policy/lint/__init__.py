"""Checks that need the whole compiled policy. Entry: `check`.

Each module checks for one kind of mistake.
"""

from __future__ import annotations

from ...documents.cursor import Diagnostics
from . import fields, reachability, templates, usage
from .context import LintContext, SourceRule, SourceRuleBuilder
from .fields import check as check_fields
from .secrets import check_secrets

__all__ = ["LintContext", "SourceRule", "SourceRuleBuilder", "check", "check_fields", "check_secrets"]


def check(context: LintContext, diagnostics: Diagnostics, *, warn: bool) -> None:
    """Run every check; unless ``warn``, without those that only lead to warnings."""
    for source in context.rules:
        fields.check(source, diagnostics)
    templates.check(context, diagnostics)
    usage.check_fallbacks(context, diagnostics)
    if warn:
        reachability.check(context, diagnostics)
        usage.check_categories(context, diagnostics)
        usage.check_usage(context, diagnostics)
