"""``mss reload`` and ``mss status``: ask every replica over the broker."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from ..model.times import iso_time
from ..server.control import ConsumerLag, ReloadResult, ReplicaReplies, ReplicaReply, Status, ask_replicas
from ..settings import Settings
from .common import TEXT_OR_JSON, examples, options, stdout, timeout_option, with_settings
from .connect import run_connected
from .output import (
    attributes,
    count,
    harmless,
    indented,
    local,
    print_json,
    problem_document,
    show_table,
    warn,
)

_EXPECT = click.option(
    "--expect", metavar="N", type=click.IntRange(0), default=0, help="Fail if fewer replicas reply."
)
_TIMEOUT = "How long to wait for the replies."


@click.command(epilog=examples("mss reload --expect 3", "mss reload --dry-run"))
@click.option("--dry-run", is_flag=True, help="Read, check and test the files, but change nothing.")
@options(_EXPECT, timeout_option(60.0, _TIMEOUT), TEXT_OR_JSON, with_settings)
def reload(dry_run: bool, expect: int, timeout: float, format_: str, settings: Settings) -> None:
    """Make every replica load mss.yaml and the policy again.

    Each replica reads its own files, and activates them as a whole or not at all.

    Exit code 1: a replica refused, the revisions differ afterwards, or fewer replicas replied than expected.
    """
    replies = _ask(settings, "check" if dry_run else "reload", timeout, expect)
    if format_ == "text":
        show_reload(stdout(), replies, dry_run=dry_run)
    _print_and_exit(replies, expect, format_)


@click.command(epilog=examples("mss status", "mss status --expect 3 --format json"))
@options(_EXPECT, timeout_option(10.0, _TIMEOUT), TEXT_OR_JSON, with_settings)
def status(expect: int, timeout: float, format_: str, settings: Settings) -> None:
    """Show every replica, and what is pending on the broker.

    For each replica: its active revision, its services, and the result of its last reload. Then the
    pending and in-flight messages of each stream and each channel, over all replicas.

    Exit code 1: the revisions differ, or fewer replicas replied than expected.
    """
    replies = _ask(settings, "status", timeout, expect)
    if format_ == "text":
        show_status(stdout(), replies)
    _print_and_exit(replies, expect, format_)


def _ask(settings: Settings, command: str, limit: float, expect: int) -> ReplicaReplies:
    return run_connected(
        settings,
        lambda broker: ask_replicas(
            broker.connection, settings.namespace, command, limit=limit, expect=expect
        ),
    )


def _print_and_exit(replies: ReplicaReplies, expect: int, format_: str) -> None:
    problems = find_problems(replies, expect)
    if format_ == "json":
        print_json(document(replies, expect))
    for problem in problems:
        warn(problem, "red")
    if problems or not all(map(is_well, replies.done)):
        raise SystemExit(1)


def find_problems(replies: ReplicaReplies, expect: int) -> list[str]:
    """Return the problems over all replicas."""
    if not replies.done and not replies.silent:
        return ["no replica replies: is mss serve running with this namespace, on this broker?"]
    problems = []
    if expect > len(replies.done):
        problems.append(f"{count(len(replies.done), 'replica')} of {expect} expected")
    problems += [f"{reply.name} has begun but did not reply in time" for reply in replies.silent]
    problems += [
        f"{reply.name} cannot read its policy: {reply.status.source_error}"
        for reply in replies.done
        if reply.status and reply.status.source_error
    ]
    revisions = {reply.revision for reply in replies.done}
    if len(revisions) > 1:
        problems.append(f"the replicas serve different revisions: {', '.join(sorted(revisions))}")
    return problems


def is_well(reply: ReplicaReply) -> bool:
    """Return whether a replica did what it was asked to do."""
    return not reply.error and (reply.reload is None or reply.reload.ok)


def show_reload(console: Console, replies: ReplicaReplies, *, dry_run: bool) -> None:
    """Print a line for each replica, and below it the problems."""
    for reply in replies.done:
        result, colour = reply.reload, "green"
        if result is None or not result.ok:
            state, colour = "refused" if result else reply.error or "no result", "red"
        elif dry_run:
            state = f"would activate {result.revision}" if result.changed else "would change nothing"
        else:
            state = "reloaded" if result.changed else "nothing has changed"
        _show_replica(console, reply, (state, colour))
        if result is not None:
            _show_result(console, result)


def show_status(console: Console, replies: ReplicaReplies) -> None:
    """Print a block for each replica, then a table of the streams and channels, which all replicas share."""
    for reply in replies.done:
        status = reply.status
        if status is None:
            _show_replica(console, reply, (reply.error or "no status", "red"))
            continue
        _show_replica(console, reply, ("serving", "green") if status.is_serving else ("not serving", "red"))
        rules, up = count(status.rules, "rule"), _span(time.time() - status.started)
        indented(console, f"up {up}, mss {status.version}, {rules}, {status.in_flight} in flight", 2)
        for title in ("kinds", "channels", "actions"):
            indented(console, f"{title:<9} {', '.join(getattr(status, title)) or 'none'}", 2)
        if status.reload is not None:
            result = "succeeded" if status.reload.ok else "was refused"
            indented(console, f"the reload of {local(int(status.reload.at * 1e6))} {result}", 2)
            _show_result(console, status.reload)
        if status.source_error:
            indented(console, Text(f"the policy cannot be read: {status.source_error}", "red"), 2)
    if lags := _lags(replies):
        console.print()
        rows = [
            (lag.name, *(("-", "-") if lag.error else (lag.pending, lag.in_flight)),
             Text(lag.error, "red"))
            for lag in lags
        ]  # fmt: skip
        header = ("stream or channel", "pending", "in flight", "error")
        show_table(console, header, rows, right=("pending", "in flight"))


def document(replies: ReplicaReplies, expect: int) -> dict[str, Any]:
    """Return what ``--format json`` prints."""
    problems = find_problems(replies, expect)
    return {
        "ok": not problems and all(map(is_well, replies.done)),
        "issues": problems,
        "replicas": [_replica(reply) for reply in replies.done],
        "unresponsive": [reply.name for reply in replies.silent],
    }


def _show_replica(console: Console, reply: ReplicaReply, state: tuple[str, str]) -> None:
    since = local(int(reply.since * 1e6))
    head = Text.assemble((reply.name, "bold"), f"  revision {reply.revision} since {since}  ", state)
    console.print(harmless(head), soft_wrap=True)


def _show_result(console: Console, result: ReloadResult) -> None:
    for problem in result.problems:
        indented(console, Text(str(problem), "red"), 2)
    if result.restart_required:
        indented(console, f"these settings need a restart: {', '.join(result.restart_required)}", 2)


def _lags(replies: ReplicaReplies) -> list[ConsumerLag]:
    """Return one entry for each name, from the first replica without an error."""
    found: dict[str, ConsumerLag] = {}
    for status in filter(None, (reply.status for reply in replies.done)):
        queues = (replace(queue, name=f"channel {queue.name}") for queue in status.queues)
        for lag in (
            *status.streams,
            *queues,
        ):
            if lag.name not in found or found[lag.name].error:
                found[lag.name] = lag
    return list(found.values())


def _replica(reply: ReplicaReply) -> dict[str, Any]:
    return {
        "replica": reply.name,
        **attributes(reply, "id", "revision"),
        "since": _time(reply.since),
        "ok": is_well(reply),
        "error": reply.error,
        **({"reload": _reload(reply.reload)} if reply.reload else {}),
        **(_status(reply.status) if reply.status else {}),
    }


def _reload(result: ReloadResult) -> dict[str, Any]:
    return {
        "at": _time(result.at),
        **attributes(result, "ok", "changed", "revision", "restart_required"),
        "problems": [problem_document("", problem) for problem in result.problems],
    }


def _status(status: Status) -> dict[str, Any]:
    return {
        **attributes(status, "version", "rules", "kinds", "actions", "channels", "in_flight", "source_error"),
        "started": _time(status.started),
        "serving": status.is_serving,
        "streams": list(map(asdict, status.streams)),
        "queues": list(map(asdict, status.queues)),
        "last_reload": _reload(status.reload) if status.reload else None,
    }


def _time(at: float) -> str:
    return iso_time(int(at * 1e6))


def _span(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours}h {minutes % 60}m" if hours else f"{minutes}m {int(seconds % 60)}s"
