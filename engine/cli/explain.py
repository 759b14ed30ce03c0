"""``mss explain``: the deliveries of an event and the reasons for them; secrets are masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from msgspec import structs
from rich.console import Console
from rich.text import Text

from ..documents import yaml
from ..model.errors import InvalidPreferences
from ..model.masking import mask, masked
from ..model.messages import Delivery, Kind
from ..model.times import in_units, iso_time, parse_time, to_micros
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
from .common import (
    FOLDER,
    TEXT_OR_JSON,
    event_of,
    event_option,
    examples,
    payload_option,
    rulebook_of,
    stdout,
)
from .output import attributes, count, given, indented, print_json, recipients_text, show_title


def _parse_at(_context: click.Context, _option: click.Parameter, text: str | None) -> int:
    try:
        time = datetime.now(UTC) if text is None else parse_time(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return to_micros(time)


def _parse_preferences(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> dict[str, Choices] | None:
    """Read preferences by user from a mapping, or from a file with one."""
    if text is None:
        return None
    if text.lstrip().startswith("{"):
        document = yaml.read(text, "--preferences")
    else:
        try:
            document = yaml.read_bytes(Path(text).read_bytes(), text)
        except OSError as error:
            raise click.BadParameter(f"{text}: {error.strerror}") from error
    for problem in document.problems:
        raise click.BadParameter(f"{problem.place.line}:{problem.place.column}: {problem.message}")
    if not isinstance(document.data, dict):
        raise click.BadParameter('expected a mapping by user, such as {"u1": {"security": ["sms"]}}')
    choices, reasons = {}, []
    for user, chosen in document.data.items():
        try:
            choices[user] = parse(chosen)
        except InvalidPreferences as error:
            reasons += [f"{user}: {reason}" for reason in error.reasons]
    if reasons:
        raise click.BadParameter("; ".join(reasons))
    return choices


@click.command(
    epilog=examples(
        "mss explain --event notice.login.abnormal --payload event.json",
        """echo '{"userid": "u1"}' | mss explain shop --event notice.login --payload -""",
        "mss explain --event log --payload login.json --at 2026-03-02T23:30:00+08:00",
        "mss explain --event log --payload login.json --preferences chosen.yaml",
    )
)
@FOLDER
@event_option(*Kind, example="notice.login.abnormal")
@payload_option()
@click.option(
    "--at", "now", metavar="TIME", callback=_parse_at, show_default="now",
    help="The time of arrival, such as 2026-03-02T23:30:00+08:00.",
)  # fmt: skip
@click.option(
    "--preferences",
    "choices",
    metavar="FILE|JSON",
    callback=_parse_preferences,
    help="The preferences by user, as in a test.",
)
@TEXT_OR_JSON
def explain(
    folder: Path, name: str, payload: Any, now: int, choices: Mapping[str, Choices] | None, format_: str
) -> None:
    """Show which rules match an event, and why the others do not.

    For each matching rule, the command shows the stages in their order: conditions, preferences, the keys
    of dedupe, throttle and digest, time windows and budgets. It treats the event as the first one, because
    it does not know earlier events. Then it shows the deliveries. Nothing is sent, and no broker is needed.
    DIR is the policy; by default, the folder rules.
    """
    if not isinstance(payload, dict):
        raise click.BadParameter("the payload of an event is an object", param_hint="--payload")
    rulebook = rulebook_of(folder, load_policy(folder), json=format_ == "json")
    event = event_of(rulebook, name, payload, now)
    explanation = explain_event(rulebook, event, None if choices is None else choices.get)
    for violation in _preference_violations(rulebook, choices or {}):
        click.echo(violation, err=True)
    if format_ == "json":
        print_json(explanation_document(explanation))
        return
    show_explanation(stdout(), explanation)
    if not explanation.considered and (hint := nearest(name, _events(rulebook))):
        click.echo(f"No rule is for {name}; {hint}")


def _preference_violations(rulebook: Rulebook, choices: Mapping[str, Choices]) -> Iterator[str]:
    """Yield the preferences that the policy does not allow, such as a misspelled category."""
    if not choices:
        return
    allowed = options_of(rulebook)
    for user, chosen in choices.items():
        for reason in allowed.violations(chosen, {*chosen.channels, ADDRESSES, LOCALE}):
            yield f"the policy does not allow this preference of {user}: {reason}"


def _events(rulebook: Rulebook) -> set[str]:
    literal = {str(pattern) for rule in rulebook.rules for pattern in rule.events if not pattern.wild}
    return literal | set(rulebook.catalogue.schemas)


def show_explanation(console: Console, explanation: Explanation) -> None:
    """Print the rules, the messages and the unsent messages."""
    plan, secrets = explanation.plan, explanation.secrets
    at = iso_time(plan.event.received, "seconds")
    console.print(Text.assemble((plan.event.name, "bold"), f" at {at}, revision {plan.revision}\n"))
    for considered in explanation.considered:
        _show_rule(console, considered, secrets)
        for stage in explanation.stages.get(considered.rule.id, ()):
            _show_stage(console, stage, secrets)
    if explanation.others:
        rules = count(explanation.others, "more rule" if explanation.considered else "rule")
        console.print(f"{rules} for other events")
    show_title(console, count(len(plan.deliveries), "message"))
    for position, delivery in enumerate(plan.deliveries):
        if position:
            console.print()
        _show_delivery(console, delivery, secrets)
    if plan.suppressed or plan.held or plan.failures:
        show_title(console, "not sent, or not at once")
    for suppressed in plan.suppressed:
        detail = f": {suppressed.detail}" if suppressed.detail else ""
        line = f"{suppressed.channel} ({suppressed.rule}): {suppressed.reason}{detail}"
        indented(console, mask(line, secrets), 2)
    for held in plan.held:
        indented(
            console,
            f"{held.channel} ({held.rule}): {held.reason}, until {iso_time(held.until, 'seconds')}",
            2,
        )
    for failure in plan.failures:
        line = f"{failure.channel} ({failure.rule}): its template failed to render: {failure.detail}"
        indented(console, Text(mask(line, secrets), "red"), 2)


def _show_rule(console: Console, considered: RuleEvaluation, secrets: tuple[str, ...]) -> None:
    rule = considered.rule
    note = ""
    if considered.stopped_by:
        note = f"  {considered.stopped_by} stopped the evaluation"
    elif considered.matched and rule.mode is Mode.SHADOW:
        note = "  in shadow mode: nothing is sent"
    elif considered.matched and rule.stop:
        note = "  stops the evaluation"
    verdict = ("yes", "bold green") if considered.matched else ("no ", "bold red")
    console.print(Text.assemble(verdict, "  ", (rule.id, "bold"), (note, "yellow")))
    first = True
    for finding in considered.findings:
        pointed = first and not finding.holds
        for depth, holds, text in outline(masked_finding(finding, secrets)):
            mark = ("✓ ", "green") if holds else ("✗ ", "bold red" if pointed else "red")
            pointer = "   <- the first that fails" if pointed and not depth and not holds else ""
            indented(console, Text.assemble(mark, text, (pointer, "bold")), 5 + 2 * depth)
        first = first and finding.holds


def _show_stage(console: Console, stage: StageReport, secrets: tuple[str, ...]) -> None:
    for text in sentences_of(stage, secrets):
        style = "" if stage.is_reached else "dim"
        indented(console, Text(text, style), 19, head=Text(f"     {stage.name}", "bold"))


def _show_delivery(console: Console, delivery: Delivery, secrets: tuple[str, ...]) -> None:
    to = recipients_text(delivery.to)
    head = Text.assemble((delivery.channel, "bold"), f" to {to}, in {delivery.locale} ({delivery.rule})")
    indented(console, head, 2)
    message = delivery.message
    if message.title:
        indented(console, Text(mask(message.title, secrets), "bold"), 4)
    text = message.text or "(the event itself, as JSON)"
    indented(console, mask(text, secrets), 4)
    before = delivery
    for step in delivery.fallbacks:
        limit = f", or is not sent within {in_units(before.fallback_after)}" if before.fallback_after else ""
        indented(console, Text(f"if {before.channel} definitely fails{limit}:", "yellow"), 2)
        _show_delivery(console, structs.replace(step, fallbacks=()), secrets)
        before = step


def explanation_document(explanation: Explanation) -> dict[str, Any]:
    """Return what ``mss explain --format json`` prints.

    These keys are there only if they have a value: the ``stages`` of a matching rule, ``stopped_by``,
    ``held``, ``failures``, the ``detail`` of a suppressed message, ``inside`` of a block, ``absent`` if the
    path leads nowhere, ``fallbacks`` of a delivery, and ``within``, the time before the next fallback.
    """
    plan, secrets = explanation.plan, explanation.secrets
    return {
        "event": plan.event.name,
        "rules": [
            {
                "id": considered.rule.id,
                "matched": considered.matched,
                "conditions": [_finding(masked_finding(each, secrets)) for each in considered.findings],
                **given(
                    stopped_by=considered.stopped_by,
                    stages=[
                        stage_document(stage, secrets)
                        for stage in explanation.stages.get(considered.rule.id, ())
                    ],
                ),
            }
            for considered in explanation.considered
        ],
        "deliveries": [
            {
                "rule": delivery.rule,
                **_delivery_document(delivery, secrets),
                **given(fallbacks=[_delivery_document(each, secrets) for each in delivery.fallbacks]),
            }
            for delivery in plan.deliveries
        ],
        "suppressed": [
            {**attributes(each, "rule", "channel", "reason"), **given(detail=mask(each.detail, secrets))}
            for each in plan.suppressed
        ],
        **given(
            held=[
                {**attributes(each, "rule", "channel", "reason"), "until": iso_time(each.until, "auto")}
                for each in plan.held
            ],
            failures=[
                {**attributes(each, "rule", "channel"), "detail": mask(each.detail, secrets)}
                for each in plan.failures
            ],
        ),
    }


def _delivery_document(delivery: Delivery, secrets: tuple[str, ...]) -> dict[str, Any]:
    return {
        **attributes(delivery, "channel", "to", "locale"),
        "title": mask(delivery.message.title, secrets),
        "body": mask(delivery.message.text, secrets),
        **given(within=in_units(delivery.fallback_after) if delivery.fallback_after else ""),
    }


def _finding(finding: ConditionResult) -> dict[str, Any]:
    return {
        **attributes(finding, "path", "operator", "expected", "actual", "holds"),
        **given(
            absent=bool(finding.path) and not finding.present,
            inside=[_finding(each) for each in finding.inside],
        ),
    }


def stage_document(stage: StageReport, secrets: tuple[str, ...]) -> dict[str, Any]:
    """Return a stage as a JSON object, with the key of its limit."""
    return {
        "stage": stage.name,
        **given(key=masked(stage.key, secrets)),
        "reached": stage.is_reached,
        "details": list(sentences_of(stage, secrets)),
    }


def sentences_of(stage: StageReport, secrets: tuple[str, ...]) -> Iterator[str]:
    """Yield the results of a stage, a sentence each."""
    if not stage.is_reached:
        yield "not evaluated: no message is left"
        return
    if stage.limit is not None:
        under = ", ".join(f"{path} {_values(found, secrets)}" for path, found in stage.key.items())
        by = f"by {under}: " if under else "of the whole policy: " if stage.is_shared else ""
        yield by + _limit(stage.limit)
    for chosen in stage.chosen:
        yield _preference_text(chosen)
    for channel, finding in stage.findings:
        yield f"{channel}: {sentence(masked_finding(finding, secrets))}"
    for suppressed in stage.suppressed:
        if not _is_reported(stage, suppressed.channel):
            yield mask(f"{suppressed.channel}: {suppressed.detail or suppressed.reason}", secrets)
    for held in stage.held:
        yield f"{held.channel}: {held.reason}, held until {iso_time(held.until, 'seconds')}"
    if stage.name == "time windows" and not (stage.suppressed or stage.held):
        yield "open now"


def masked_finding(finding: ConditionResult, secrets: tuple[str, ...]) -> ConditionResult:
    """Return ``finding`` with masked secrets."""
    return replace(
        finding,
        expected=masked(finding.expected, secrets),
        actual=masked(finding.actual, secrets),
        inside=tuple(masked_finding(each, secrets) for each in finding.inside),
    )


def _limit(limit: Dedupe | Throttle | Digest | Budget) -> str:
    match limit:
        case Dedupe():
            return f"the first within {in_units(limit.window)} passes"
        case Throttle():
            return f"{limit.limit} pass in any {in_units(limit.per)}, {_rest(limit)}"
        case Digest():
            again = f", and {in_units(limit.interval)} after the last digest" if limit.interval else ""
            return f"digested {in_units(limit.wait)} after the first event{again}"
        case Budget():
            return f"{limit.limit} messages in each {in_units(limit.per)}, {_rest(limit)}"


def _rest(limit: Throttle | Budget) -> str:
    return f"the rest is {'digested' if limit.digest else 'suppressed'}"


def _values(found: list[Any], secrets: tuple[str, ...]) -> str:
    """Return the values at one path of a key. Events without the path have the same key."""
    return ", ".join(format_value(masked(value, secrets)) for value in found) or "(absent)"


def _preference_text(chosen: PreferenceReport) -> str:
    if chosen.choices is None:
        return f"{chosen.user} has no preferences"
    about = f", for {chosen.category}" if chosen.category else ""
    states = {True: "on", False: "off", None: "no preference"}
    channels = ", ".join(f"{channel} {states[on]}" for channel, on in chosen.channels.items())
    critical = "; the rule is critical and notifies anyway" if chosen.is_critical else ""
    return f"{chosen.user}{about}: {channels}{critical}"


def _is_reported(stage: StageReport, channel: str) -> bool:
    """Return whether a condition or a preference already explains why the channel is not used."""
    return any(name == channel for name, _ in stage.findings) or any(
        each.channels.get(channel) is False for each in stage.chosen
    )
