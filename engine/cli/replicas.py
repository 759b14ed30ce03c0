"""``mss reload`` and ``mss status``: every replica is asked over the broker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .. import report
from ..control import ReplicaReplies, ask_replicas
from ..report.replicas import document, find_problems, is_well, show_reload, show_status
from ..settings import Settings
from .common import CONFIG, SERVER, settings_of, stderr, stdout
from .reaching import connect_to_broker
from .running import run

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
        click.echo(report.as_json(document(answers, expect)))
    for complaint in said:
        stderr().print(complaint, style="red", soft_wrap=True)
    if said or not all(map(is_well, answers.done)):
        raise SystemExit(1)
