"""``mss explain``: the deliveries of an event and the reasons; sensitive values are masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace
from rich.console import Console
from rich.text import Text

from ..documents import yaml
from ..model.errors import InvalidPreferences
from ..model.masking import mask, masked
from ..model.messages import Delivery, Event, Kind
from ..model.subjects import valid_key
from ..model.times import from_micros, in_units, iso_time, parse_time, to_micros
from ..model.wording import nearest
from ..planning.explain import (
    Explanation,
    PreferenceReport,
    RuleEvaluation,
    StageReport,
    format_value,
    outline,
    sentence,
)
from ..planning.explain import explain as explain_event
from ..planning.recipients import ADDRESSES, LOCALE, Choices
from ..policy.loader import load_policy
from ..preferences.document import parse
from ..preferences.options import options_of
from ..rules.conditions import ConditionResult
from ..rules.rulebook import Budget, Dedupe, Digest, Mode, Rulebook, Throttle
from . import output
from .common import FOLDER, PAYLOAD, payload_of, rulebook_of, stdout
from .output import indented


@click.command(short_help="Say for one event which rules match and what is sent.")
@FOLDER
@click.option("--event", "name", metavar="KIND.KEY", required=True, help="For example notice.login.abnormal.")
@PAYLOAD
@click.option("--at", metavar="TIME", help="When it arrives, as 2026-03-02T23:30:00+08:00; default: now.")
@click.option(
    "--preferences", "written", metavar="FILE|JSON",
    help='What people have chosen, as in a test: {"u1": {"security": ["sms"]}}.',
)  # fmt: skip
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
def explain(
    folder: Path, name: str, payload_file: Any, at: str | None, written: str | None, format_: str
) -> None:
    """Say for one event which rules match, why the others do not, and what would be sent.

    \b
    echo '{"userid": "u1", "result": "success"}' |
      mss explain rules --event notice.login.abnormal --payload -

    Of each rule that matches it shows the gates on the way, in their order: what people have chosen,
    under which key dedupe, throttle and digest would count the event, the time windows, the budget. The
    event counts as the first: what came before is not known.

    Nothing is sent, and no broker is needed. DIR is the policy's folder; default: rules.
    """
    kind, _, key = name.partition(".")
    if kind not in tuple(Kind) or not (valid_key(key) if key else name == Kind.LOG):
        raise click.UsageError(f"--event: {name!r} is no KIND.KEY such as notice.login.abnormal")
    try:
        time = datetime.now(UTC) if at is None else parse_time(at)
    except ValueError as error:
        raise click.UsageError(f"--at: {error}") from error
    payload = payload_of(payload_file)
    if not isinstance(payload, dict):
        raise click.UsageError("--payload: an event's payload is an object")
    choices = None if written is None else _parse_preferences(written)
    rulebook = rulebook_of(folder, load_policy(folder), json=format_ == "json")
    now = to_micros(time)
    explanation = explain_event(
        rulebook,
        Event(
            kind=Kind(kind),
            key=key,
            reqid="0" * 32,
            payload=rulebook.catalogue.canonical(name, payload),
            sent=now,
            received=now,
        ),
        None if choices is None else choices.get,
    )
    for objection in _preference_violations(rulebook, choices or {}):
        click.echo(objection, err=True)
    if format_ == "json":
        click.echo(output.as_json(explanation_document(explanation)))
        return
    show_explanation(stdout(), explanation)
    if not explanation.considered and (hint := nearest(name, _events(rulebook))):
        click.echo(f"No rule looks at {name}; {hint}")


def _parse_preferences(written: str) -> dict[str, Choices]:
    """By person, from a mapping that is given as such or in a file."""
    if written.lstrip().startswith("{"):
        document = yaml.read(written, "--preferences")
    else:
        try:
            document = yaml.read_bytes(Path(written).read_bytes(), written)
        except OSError as error:
            raise click.UsageError(f"--preferences: {written}: {error.strerror}") from error
    for problem in document.problems:
        place = f"{problem.place.line}:{problem.place.column}"
        raise click.UsageError(f"--preferences: {place}: {problem.message}")
    if not isinstance(document.data, dict):
        raise click.UsageError('--preferences: a mapping by person, such as {"u1": {"security": ["sms"]}}')
    choices, reasons = {}, []
    for user, chosen in document.data.items():
        try:
            choices[user] = parse(chosen)
        except InvalidPreferences as error:
            reasons += [f"{user}: {reason}" for reason in error.reasons]
    if reasons:
        raise click.UsageError(f"--preferences: {'; '.join(reasons)}")
    return choices


def _preference_violations(rulebook: Rulebook, choices: Mapping[str, Choices]) -> Iterator[str]:
    """What people could not choose under the policy, such as a category that is misspelled."""
    if not choices:
        return
    offers = options_of(rulebook)
    for user, chosen in choices.items():
        for reason in offers.violations(chosen, {*chosen.channels, ADDRESSES, LOCALE}):
            yield f"{user} could not choose this now: {reason}"


def _events(rulebook: Rulebook) -> set[str]:
    named = {str(pattern) for rule in rulebook.rules for pattern in rule.events if not pattern.wild}
    return named | set(rulebook.catalogue.schemas)


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
                "until": iso_time(held.until, "auto"),
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


def stage_document(gate: StageReport, secrets: tuple[str, ...]) -> dict[str, Any]:
    """A gate as JSON: its name, what it counts under, whether a message gets as far, and the words."""
    return {
        "stage": gate.name,
        **({"key": masked(gate.key, secrets)} if gate.key else {}),
        "reached": gate.is_reached,
        "details": list(sentences_of(gate, secrets)),
    }


def sentences_of(gate: StageReport, secrets: tuple[str, ...]) -> Iterator[str]:
    """What there is to say of one gate, a sentence each."""
    if not gate.is_reached:
        yield "not asked: no message is left"
        return
    if gate.limit is not None:
        under = ", ".join(f"{path} {_values(found, secrets)}" for path, found in gate.key.items())
        by = f"by {under}: " if under else "of the whole policy: " if gate.is_shared else ""
        yield by + _limit(gate.limit)
    for chosen in gate.chosen:
        yield _preference_text(chosen)
    for channel, finding in gate.findings:
        yield f"{channel}: {sentence(masked_finding(finding, secrets))}"
    for suppressed in gate.suppressed:
        if not _is_said(gate, suppressed.channel):
            yield mask(f"{suppressed.channel}: {suppressed.detail or suppressed.reason}", secrets)
    for held in gate.held:
        yield f"{held.channel}: {held.reason}, it waits until {time_of(held.until)}"
    if gate.name == "time windows" and not (gate.suppressed or gate.held):
        yield "it may be sent now"


def time_of(at: int) -> str:
    """``at``, microseconds since the epoch, as people and programs read it."""
    return from_micros(at).isoformat(timespec="seconds")


def masked_finding(finding: ConditionResult, secrets: tuple[str, ...]) -> ConditionResult:
    """``finding`` without sensitive values."""
    return ConditionResult(
        path=finding.path,
        operator=finding.operator,
        expected=masked(finding.expected, secrets),
        actual=masked(finding.actual, secrets),
        present=finding.present,
        holds=finding.holds,
        inside=tuple(masked_finding(each, secrets) for each in finding.inside),
    )


def _limit(limit: Dedupe | Throttle | Digest | Budget) -> str:
    match limit:
        case Dedupe():
            return f"the first within {in_units(limit.window)} passes"
        case Throttle():
            return f"{limit.limit} pass in any {in_units(limit.per)}, {_rest(limit)}"
        case Digest():
            again = f", and {in_units(limit.interval)} after the digest before" if limit.interval else ""
            return f"told of together, {in_units(limit.wait)} after the first{again}"
        case Budget():
            return f"{limit.limit} messages in each {in_units(limit.per)}, {_rest(limit)}"


def _rest(limit: Throttle | Budget) -> str:
    return f"the rest is {'told of together' if limit.digest else 'not sent'}"


def _values(found: list[Any], secrets: tuple[str, ...]) -> str:
    """What lies at one path of a key; what is not there is alike too."""
    return ", ".join(format_value(masked(value, secrets)) for value in found) or "(not there)"


def _preference_text(chosen: PreferenceReport) -> str:
    if chosen.choices is None:
        return f"{chosen.user} has chosen nothing"
    about = f", for {chosen.category}" if chosen.category else ""
    words = {True: "on", False: "off", None: "not said"}
    said = ", ".join(f"{channel} {words[on]}" for channel, on in chosen.channels.items())
    critical = "; critical, so it is told all the same" if chosen.is_critical else ""
    return f"{chosen.user}{about}: {said}{critical}"


def _is_said(gate: StageReport, channel: str) -> bool:
    """Whether it is clear already why nothing goes over that channel."""
    return any(name == channel for name, _ in gate.findings) or any(
        each.channels.get(channel) is False for each in gate.chosen
    )
