"""``mss reload`` and ``mss status``: ask every replica over the broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.text import Text

from ..model.problems import Problem
from ..model.times import iso_time
from ..server.control import ConsumerLag, ReloadResult, ReplicaReplies, ReplicaReply, Status, ask_replicas
from ..settings import Settings
from . import output
from .common import CONFIG, SERVER, settings_of, stderr, stdout
from .connect import connect_to_broker, run
from .output import harmless, indented, problem_document
from .trace import local

_F = TypeVar("_F", bound=Callable[..., Any])


def _replica_options(limit: float) -> Callable[[_F], _F]:
    """The options of whatever asks all replicas."""

    def decorate(command: _F) -> _F:
        options = (
            click.option(
                "--expect", type=click.IntRange(0), default=0, metavar="N", help="Fail if fewer answer."
            ),
            click.option(
                "--timeout", "limit", type=click.FloatRange(min=0, min_open=True), default=limit,
                show_default=True, metavar="SECONDS", help="For all to answer.",
            ),
            click.option(
                "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
            ),
            CONFIG,
            SERVER,
        )  # fmt: skip
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command()
@click.option("--dry-run", is_flag=True, help="Read, check and test, and change nothing.")
@_replica_options(60.0)
def reload(
    dry_run: bool, expect: int, limit: float, format_: str, config: Path | None, server: str | None
) -> None:
    """Have every replica read mss.yaml and the policy anew, and say what came of it.

    Each takes its own files over whole or not at all. Exit code 1 if one refused, if their revisions
    differ afterwards, or if fewer answered than expected.
    """
    answers = _ask_replicas(config, server, "check" if dry_run else "reload", limit, expect)
    if format_ == "text":
        show_reload(stdout(), answers, is_rehearsal=dry_run)
    _print_and_exit(answers, expect, format_)


@click.command()
@_replica_options(10.0)
def status(expect: int, limit: float, format_: str, config: Path | None, server: str | None) -> None:
    """Show every replica: by which revision it goes, what it does, how its last reload went.

    Below them what is still to be done over all replicas, of each stream and for each channel. Exit
    code 1 if revisions differ, or if fewer answered than expected.
    """
    answers = _ask_replicas(config, server, "status", limit, expect)
    if format_ == "text":
        show_status(stdout(), answers)
    _print_and_exit(answers, expect, format_)


def _ask_replicas(
    config: Path | None, server: str | None, verb: str, limit: float, expect: int
) -> ReplicaReplies:
    settings = settings_of(config)
    return run(lambda: _ask(settings, server, verb, limit, expect))


async def _ask(
    settings: Settings, server: str | None, verb: str, limit: float, expect: int
) -> ReplicaReplies:
    async with connect_to_broker(settings, server) as connection:
        return await ask_replicas(connection, settings.namespace, verb, limit=limit, expect=expect)


def _print_and_exit(answers: ReplicaReplies, expect: int, format_: str) -> None:
    said = find_problems(answers, expect)
    if format_ == "json":
        click.echo(output.as_json(document(answers, expect)))
    for complaint in said:
        stderr().print(complaint, style="red", soft_wrap=True)
    if said or not all(map(is_well, answers.done)):
        raise SystemExit(1)


def find_problems(answers: ReplicaReplies, expect: int) -> list[str]:
    """What is not as it should be, over all replicas: empty when nothing is."""
    if not answers.done and not answers.silent:
        return ["no replica answers: is mss serve running with this namespace, on this broker?"]
    said = []
    if expect > len(answers.done):
        said.append(f"{_count(len(answers.done))} of {expect} expected")
    said += [f"{answer.name} has begun and has not answered" for answer in answers.silent]
    said += [
        f"{answer.name} cannot look at its policy: {answer.status.source_error}"
        for answer in answers.done
        if answer.status and answer.status.source_error
    ]
    revisions = {answer.revision for answer in answers.done}
    if len(revisions) > 1:
        said.append(f"the replicas go by different revisions: {', '.join(sorted(revisions))}")
    return said


def is_well(answer: ReplicaReply) -> bool:
    """Whether a replica could do what it was asked."""
    return not answer.error and (answer.reload is None or answer.reload.ok)


def show_reload(console: Console, answers: ReplicaReplies, *, is_rehearsal: bool) -> None:
    """A line for each replica, and below it what is wrong."""
    for answer in answers.done:
        result = answer.reload
        if result is None or not result.ok:
            words, colour = ("refused", "red") if result else (answer.error or "says nothing", "red")
        elif is_rehearsal:
            words = f"would go to {result.revision}" if result.changed else "nothing would change"
            colour = "green"
        else:
            words, colour = ("reloaded" if result.changed else "nothing has changed"), "green"
        _line(console, answer, (words, colour))
        if result is not None:
            _show_reload(console, result)


def show_status(console: Console, answers: ReplicaReplies) -> None:
    """A block for each replica, then what lies on the broker, which is the same for all."""
    for answer in answers.done:
        status = answer.status
        if status is None:
            _line(console, answer, (answer.error or "says nothing", "red"))
            continue
        serving = ("serving", "green") if status.is_serving else ("not serving", "red")
        _line(console, answer, serving)
        took = _span(time.time() - status.started)
        indented(
            console, f"up {took}, mss {status.version}, {status.rules} rules, {status.in_flight} in flight", 2
        )
        indented(console, f"takes    {_names(status.kinds)}", 2)
        indented(console, f"sends    {_names(status.channels)}", 2)
        indented(console, f"answers  {_names(status.actions)}", 2)
        if status.reload is not None:
            ok = "went well" if status.reload.ok else "was refused"
            indented(console, f"the reload of {local(int(status.reload.at * 1e6))} {ok}", 2)
            _show_reload(console, status.reload)
        if status.source_error:
            indented(console, Text(f"the policy cannot be looked at: {status.source_error}", "red"), 2)
    for lag in _lags(answers):
        text = lag.error or f"{lag.pending} pending, {lag.in_flight} in flight"
        console.print(harmless(f"{lag.name:<18} {text}", "red" if lag.error else ""), soft_wrap=True)


def document(answers: ReplicaReplies, expect: int) -> dict[str, Any]:
    """The shape that ``--format json`` prints."""
    said = find_problems(answers, expect)
    return {
        "ok": not said and all(map(is_well, answers.done)),
        "issues": said,
        "replicas": [_replica(answer) for answer in answers.done],
        "unresponsive": [answer.name for answer in answers.silent],
    }


def _line(console: Console, answer: ReplicaReply, words: tuple[str, str]) -> None:
    since = local(int(answer.since * 1e6))
    head = Text.assemble((answer.name, "bold"), f"  revision {answer.revision} since {since}  ", words)
    console.print(harmless(head), soft_wrap=True)


def _show_reload(console: Console, result: ReloadResult) -> None:
    for problem in result.problems:
        indented(console, Text(str(problem), "red"), 2)
    if result.restart_required:
        indented(console, f"take effect at the next start: {', '.join(result.restart_required)}", 2)


def _lags(answers: ReplicaReplies) -> list[ConsumerLag]:
    """One of each name: the first replica that knows."""
    found: dict[str, ConsumerLag] = {}
    for status in (answer.status for answer in answers.done if answer.status):
        queues = (
            ConsumerLag(name=f"channel {q.name}", pending=q.pending, in_flight=q.in_flight, error=q.error)
            for q in status.queues
        )
        for lag in (*status.streams, *queues):
            if lag.name not in found or found[lag.name].error:
                found[lag.name] = lag
    return list(found.values())


def _replica(answer: ReplicaReply) -> dict[str, Any]:
    return {
        "replica": answer.name,
        "id": answer.id,
        "revision": answer.revision,
        "since": _when(answer.since),
        "ok": is_well(answer),
        "error": answer.error,
        **({"reload": _reload(answer.reload)} if answer.reload else {}),
        **(_status(answer.status) if answer.status else {}),
    }


def _reload(result: ReloadResult) -> dict[str, Any]:
    return {
        "at": _when(result.at),
        "ok": result.ok,
        "changed": result.changed,
        "revision": result.revision,
        "problems": _problems(result.problems),
        "restart_required": list(result.restart_required),
    }


def _status(status: Status) -> dict[str, Any]:
    return {
        "version": status.version,
        "started": _when(status.started),
        "serving": status.is_serving,
        "rules": status.rules,
        "kinds": list(status.kinds),
        "actions": list(status.actions),
        "channels": list(status.channels),
        "in_flight": status.in_flight,
        "streams": _lag_documents(status.streams),
        "queues": _lag_documents(status.queues),
        "last_reload": _reload(status.reload) if status.reload else None,
        "source_error": status.source_error,
    }


def _lag_documents(lags: Iterable[ConsumerLag]) -> list[dict[str, Any]]:
    return [
        {"name": lag.name, "pending": lag.pending, "in_flight": lag.in_flight, "error": lag.error}
        for lag in lags
    ]


def _problems(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    return [problem_document("", problem) for problem in problems]


def _when(at: float) -> str:
    return iso_time(int(at * 1e6))


def _span(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours}h {minutes % 60}m" if hours else f"{minutes}m {int(seconds % 60)}s"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


def _count(number: int) -> str:
    return f"{number or 'no'} replica{'' if number == 1 else 's'}"
