"""What ``mss explain`` says, for people and for programs; sensitive values are masked in both."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace
from rich.console import Console
from rich.text import Text

from ..catalogue import mask
from ..conditions import ConditionResult
from ..durations import in_units
from ..explain import Explanation, RuleEvaluation, outline
from ..layout import indented
from ..model import Delivery
from ..passage import StageReport
from ..rulebook import Mode
from .gates import masked_finding, sentences_of, stage_document, time_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def show_explanation(console: Console, explanation: Explanation) -> None:
    """Rules, messages, and what is not sent, in this order."""
    plan = explanation.plan
    at = time_of(plan.event.received)
    console.print(Text.assemble((plan.event.name, "bold"), f" at {at}, revision {plan.revision}\n"))
    for considered in explanation.considered:
        _show_rule(console, considered, explanation.secrets)
        for gate in explanation.stages.get(considered.rule.id, ()):
            _show_stage(console, gate, explanation.secrets)
    if others := explanation.others:
        words = "rule looks" if others == 1 else "rules look"
        console.print(f"{others} {'more ' if explanation.considered else ''}{words} at other events.")
    _head(console, f"{len(plan.deliveries) or 'no'} message{'' if len(plan.deliveries) == 1 else 's'}")
    for position, delivery in enumerate(plan.deliveries):
        if position:
            console.print()
        _show_delivery(console, delivery, explanation.secrets)
    if plan.suppressed or plan.held or plan.failures:
        _head(console, "not sent, or not at once")
    for suppressed in plan.suppressed:
        detail = f": {suppressed.detail}" if suppressed.detail else ""
        line = f"{suppressed.channel} ({suppressed.rule}): {suppressed.reason}{detail}"
        indented(console, mask(line, explanation.secrets), 2)
    for held in plan.held:
        indented(console, f"{held.channel} ({held.rule}): {held.reason}, until {time_of(held.until)}", 2)
    for failure in plan.failures:
        line = f"{failure.channel} ({failure.rule}): its words could not be written: {failure.detail}"
        indented(console, Text(mask(line, explanation.secrets), "red"), 2)


def _show_rule(console: Console, considered: RuleEvaluation, secrets: tuple[str, ...]) -> None:
    rule = considered.rule
    note = ""
    if considered.stopped_by:
        note = f"  after {considered.stopped_by}, which says stop"
    elif considered.matched and rule.mode is Mode.SHADOW:
        note = "  in shadow: nothing is sent"
    elif considered.matched and rule.stop:
        note = "  and no rule after it: it says stop"
    verdict = ("yes", "bold green") if considered.matched else ("no ", "bold red")
    console.print(Text.assemble(verdict, "  ", (rule.id, "bold"), (note, "yellow")))
    first = True
    for finding in considered.findings:
        masked = masked_finding(finding, secrets)
        pointed = first and not finding.holds
        for depth, holds, words in outline(masked):
            mark = ("✓ ", "green") if holds else ("✗ ", "bold red" if pointed else "red")
            stop = "   <- first that does not hold" if pointed and not depth and not holds else ""
            indented(console, Text.assemble(mark, words, (stop, "bold")), 5 + 2 * depth)
        first = first and finding.holds


def _show_stage(console: Console, gate: StageReport, secrets: tuple[str, ...]) -> None:
    for words in sentences_of(gate, secrets):
        style = "" if gate.is_reached else "dim"
        indented(console, Text(words, style), 19, head=Text(f"     {gate.name}", "bold"))


def _show_delivery(console: Console, delivery: Delivery, secrets: tuple[str, ...]) -> None:
    to = ", ".join(delivery.to) or "nobody in particular"
    head = Text.assemble((delivery.channel, "bold"), f" to {to}, in {delivery.locale} ({delivery.rule})")
    indented(console, head, 2)
    message = delivery.message
    if message.title:
        indented(console, Text(mask(message.title, secrets), "bold"), 4)
    text = message.text or "(the event itself, for a machine)"
    indented(console, mask(text, secrets), 4)
    before = delivery
    for step in delivery.fallbacks:
        limit = f", or is not sent within {in_units(before.fallback_after)}" if before.fallback_after else ""
        indented(console, Text(f"if {before.channel} definitely fails{limit}:", "yellow"), 2)
        _show_delivery(console, replace(step, fallbacks=()), secrets)
        before = step


def _head(console: Console, words: str) -> None:
    console.print(Text(f"\n{words}", "bold underline"))


def explanation_document(explanation: Explanation) -> dict[str, Any]:
    """The shape that ``mss explain --format json`` prints.

    Where there is more to say there are more keys: the ``gates`` of a rule that matched, ``held``,
    ``failures``, the ``detail`` of what is suppressed, ``inside`` of a block, ``absent`` where the path
    leads nowhere, ``fallbacks`` with the fall-backs of a delivery and ``within``, the time that each has
    before the next goes on.
    """
    plan, secrets = explanation.plan, explanation.secrets
    document: dict[str, Any] = {
        "event": plan.event.name,
        "rules": [
            {
                "id": considered.rule.id,
                "matched": considered.matched,
                "conditions": [_finding(masked_finding(f, secrets)) for f in considered.findings],
                **({"stopped_by": considered.stopped_by} if considered.stopped_by else {}),
                **({"stages": [stage_document(gate, secrets) for gate in gates]} if gates else {}),
            }
            for considered in explanation.considered
            for gates in (explanation.stages.get(considered.rule.id, ()),)
        ],
        "deliveries": [
            {
                "rule": delivery.rule,
                **_delivery_document(delivery, secrets),
                **(
                    {"fallbacks": [_delivery_document(each, secrets) for each in delivery.fallbacks]}
                    if delivery.fallbacks
                    else {}
                ),
            }
            for delivery in plan.deliveries
        ],
        "suppressed": [
            {
                "rule": suppressed.rule,
                "channel": suppressed.channel,
                "reason": suppressed.reason,
                **({"detail": mask(suppressed.detail, secrets)} if suppressed.detail else {}),
            }
            for suppressed in plan.suppressed
        ],
    }
    if plan.held:
        document["held"] = [
            {
                "rule": held.rule,
                "channel": held.channel,
                "reason": held.reason,
                "until": (_EPOCH + timedelta(microseconds=held.until)).isoformat().replace("+00:00", "Z"),
            }
            for held in plan.held
        ]
    if plan.failures:
        document["failures"] = [
            {"rule": failure.rule, "channel": failure.channel, "detail": mask(failure.detail, secrets)}
            for failure in plan.failures
        ]
    return document


def _delivery_document(delivery: Delivery, secrets: tuple[str, ...]) -> dict[str, Any]:
    return {
        "channel": delivery.channel,
        "to": list(delivery.to),
        "locale": delivery.locale,
        "title": mask(delivery.message.title, secrets),
        "body": mask(delivery.message.text, secrets),
        **({"within": in_units(delivery.fallback_after)} if delivery.fallback_after else {}),
    }


def _finding(finding: ConditionResult) -> dict[str, Any]:
    return {
        "path": finding.path,
        "operator": finding.operator,
        "expected": finding.expected,
        "actual": finding.actual,
        "holds": finding.holds,
        **({"absent": True} if finding.path and not finding.present else {}),
        **({"inside": [_finding(each) for each in finding.inside]} if finding.inside else {}),
    }
