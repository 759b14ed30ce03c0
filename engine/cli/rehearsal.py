"""``mss test`` and ``mss explain``: what a policy does, before it does it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from .. import documents, report
from ..case_compiler import parse_time
from ..choices import ADDRESSES, LOCALE, Choices
from ..coverage import coverage
from ..errors import InvalidPreferences
from ..explain import explain as explain_event
from ..loader import Policy, load_policy
from ..model import Event, Kind
from ..offers import options_of
from ..preferences import parse
from ..report.explain import explanation_document, show_explanation
from ..report.tests import problems_as_junit, show_tests, tests_as_junit, tests_document
from ..rulebook import Rulebook
from ..spelling import nearest
from ..subjects import valid_key
from ..trial import run_case
from .common import PAYLOAD, payload_of, stdout

FOLDER = click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("rules"))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@click.command(short_help="Run the policy's own tests; nothing is sent.")
@FOLDER
@click.option(
    "--format", "format_", type=click.Choice(["text", "json", "junit"]), default="text", show_default=True,
    help="junit is XML for CI servers.",
)  # fmt: skip
@click.option(
    "--require-coverage", is_flag=True,
    help="Fail too when a rule, a notify entry or a language is touched by no test.",
)  # fmt: skip
def test(folder: Path, format_: str, require_coverage: bool) -> None:
    """Run the tests beside the rules, on a virtual clock and with nothing sent.

    Of each failure it shows what was expected beside what came, and which condition was the reason; then
    which rules, notify entries and languages no test has touched. DIR is the policy's folder; default: rules.
    """
    policy = load_policy(folder)
    if not policy.ok and format_ == "junit":
        errors = [problem for problem in policy.problems if problem.severity == "error"]
        click.echo(problems_as_junit(str(folder), errors))
        sys.exit(1)
    rulebook = rulebook_of(folder, policy, json=format_ == "json")
    verdicts = [run_case(rulebook, case) for case in policy.cases]
    covered = coverage(rulebook, (plan for verdict in verdicts for plan in verdict.plans))
    if format_ == "json":
        click.echo(report.as_json(tests_document(str(folder), verdicts, covered)))
    elif format_ == "junit":
        click.echo(tests_as_junit(str(folder), verdicts))
    else:
        show_tests(stdout(), str(folder), verdicts, covered)
    if not all(verdict.ok for verdict in verdicts) or (require_coverage and not covered.complete):
        sys.exit(1)


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
    now = round((time - _EPOCH).total_seconds() * 1_000_000)
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
        click.echo(report.as_json(explanation_document(explanation)))
        return
    show_explanation(stdout(), explanation)
    if not explanation.considered and (hint := nearest(name, _events(rulebook))):
        click.echo(f"No rule looks at {name}; {hint}")


def _parse_preferences(written: str) -> dict[str, Choices]:
    """By person, from a mapping that is given as such or in a file."""
    if written.lstrip().startswith("{"):
        document = documents.read(written, "--preferences")
    else:
        try:
            document = documents.read_bytes(Path(written).read_bytes(), written)
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


def rulebook_of(
    folder: Path | str, policy: Policy, *, json: bool = False, console: Console | None = None
) -> Rulebook:
    """The rulebook; without one its problems are shown as ``mss check`` shows them, and that is all."""
    if policy.rulebook is not None:
        return policy.rulebook
    if json:
        click.echo(report.as_json(report.check_document(str(folder), policy)))
    else:
        report.show_check(console or stdout(), str(folder), policy)
    sys.exit(1)


def _events(rulebook: Rulebook) -> set[str]:
    named = {str(pattern) for rule in rulebook.rules for pattern in rule.events if not pattern.wild}
    return named | set(rulebook.catalogue.schemas)
