"""Report rules that can never match, and rules that an earlier ``stop`` hides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ...documents.cursor import Diagnostics, DocumentNode
from ...model.subjects import Pattern, covers
from ...rules.analysis import LogicCase, cases, clash, implies, rarest_first, signature
from ...rules.rulebook import FirstOf, Mode
from ..rule_compiler import steps_of
from .context import LintContext, SourceRule

_MAX_COMPARED = 200  # earlier rules that one rule is compared with


def check(context: LintContext, diagnostics: Diagnostics) -> None:
    rules = [each for each in context.rules if not each.flaws and each.rule.mode is not Mode.OFF]
    possible: dict[str, Sequence[LogicCase]] = {}  # by id: the ways in which the rule can match
    for source in rules:
        ways = cases(source.when)
        if ways is None:
            continue
        when = source.entry.get("when")
        if when is not None and _report_contradiction(source, when, ways, "this rule", diagnostics):
            continue
        possible[source.rule.id] = ways
        for at, entry in source.notify():
            steps = steps_of(at, entry) if isinstance(entry, FirstOf) else ()
            for own in filter(None, (at.get("when"), *(step.get("when") for step, _ in steps))):
                _check_entry(source, own, ways, diagnostics)
    _check_hidden(rules, possible, diagnostics)


def _check_entry(
    source: SourceRule, when: DocumentNode, ways: Sequence[LogicCase], diagnostics: Diagnostics
) -> None:
    own = cases(when.value)
    if own is not None and not _report_contradiction(source, when, own, "this entry", diagnostics):
        both = [(*mine, *rules) for rules in ways for mine in own]
        clashes = [clash(case, source.events.is_single) for case in both]
        if clashes and all(clashes):
            message = "this entry is never used: its conditions contradict those of the rule"
            diagnostics.add(when, "never-matches", message, at_key=True)


def _report_contradiction(
    source: SourceRule, when: DocumentNode, ways: Sequence[LogicCase], what: str, diagnostics: Diagnostics
) -> bool:
    """Report conditions that cannot hold in any of their ``ways``. Returns whether that is so."""
    clashes = [clash(case, source.events.is_single) for case in ways]
    if not all(clashes):
        return False
    only = clashes[0] if len(clashes) == 1 else None
    at = when.below(only.literal.at) if only else when
    reason = f": {only.reason}" if only else ": all alternatives of its conditions contradict themselves"
    verb = "never matches" if what == "this rule" else "is never used"
    diagnostics.add(at, "never-matches", f"{what} {verb}{reason}", at_key=True)
    return True


def _check_hidden(
    rules: Sequence[SourceRule], possible: dict[str, Sequence[LogicCase]], diagnostics: Diagnostics
) -> None:
    stops = {
        place: each
        for place, each in enumerate(rules)
        if each.rule.stop and each.rule.mode is Mode.LIVE and each.rule.id in possible
    }
    denied = {place: cases(each.when, holds=False) or [] for place, each in stops.items()}
    common = Counter(signature(case) for ways in denied.values() for case in ways)
    denied = {place: rarest_first(ways, common) for place, ways in denied.items()}
    by_event: dict[str, set[int]] = {}  # places of rules with stop, by an event without wildcards
    wide: list[tuple[int, Pattern]] = []
    for place, each in stops.items():
        for pattern in each.rule.events:
            if pattern.wild:
                wide.append((place, pattern))
            else:
                by_event.setdefault(str(pattern), set()).add(place)

    def covering(narrow: Pattern, before: int) -> set[int]:
        found = {place for place, pattern in wide if place < before and covers(pattern, narrow)}
        return found | {place for place in by_event.get(str(narrow), ()) if place < before}

    for place, source in enumerate(rules):
        ways = possible.get(source.rule.id)
        if ways is None or not source.rule.events:
            continue
        hiding = set.intersection(*(covering(pattern, place) for pattern in source.rule.events))
        for at in sorted(hiding)[:_MAX_COMPARED]:
            earlier = stops[at]
            known = bool(denied[at]) or not earlier.when  # else there are too many ways to check
            if known and implies(ways, denied[at], source.events.is_single):
                message = (
                    f"the rule {source.rule.id!r} is never evaluated: {earlier.rule.id!r} "
                    f"({earlier.rule.place}) matches each of its events and has stop"
                )
                diagnostics.add(source.entry / "id", "hidden-rule", message)
                break
