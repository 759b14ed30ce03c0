"""``mss trace``: one event from its arrival to each receipt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, suppress
from pathlib import Path

import click
from rich.console import Console

from .. import report
from ..dead import DeadLetter
from ..entries import HistoryEntry
from ..model import Kind
from ..report.trace import show_entry, show_trace, summary, trace_document
from ..session import topology_of
from ..settings import Settings
from ..tracing import TraceReader, open_trace
from .common import CONFIG, SERVER, settings_of, stderr, stdout
from .reaching import connect_to_broker, warn_hidden
from .running import ended_by_signal, run

_PATIENCE = 10.0  # seconds that --follow waits for the first entry


@click.command()
@click.argument("reqid")
@CONFIG
@SERVER
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--follow", is_flag=True, help="Print entries as they come; end when nothing is waited for.")
def trace(reqid: str, config: Path | None, server: str | None, format_: str, follow: bool) -> None:
    """Say what became of an event: its rules, its deliveries with every attempt, what was not sent.

    A delivery is waiting, sent, deferred (it will be tried again), refused, unknown (it may have gone
    out) or dead (given up). Times are in the local zone.
    """
    if not reqid:
        raise click.UsageError("REQID is empty")
    settings = settings_of(config)
    if not run(lambda: _trace(settings, server, reqid, json=format_ == "json", follow=follow)):
        raise click.ClickException(
            f"nothing is known of reqid {reqid}: it was not published here, or is older than the history, or "
            "was no event and lies among the dead letters (mss dead list)"
        )


async def _trace(settings: Settings, server: str | None, reqid: str, *, json: bool, follow: bool) -> bool:
    """Whether anything is known."""
    async with (
        connect_to_broker(settings, server) as connection,
        open_trace(connection, topology_of(settings), reqid) as tracer,
    ):
        warn_hidden(tracer.hidden)
        if follow:
            await _follow(tracer, None if json else stdout())
        else:
            async for _ in tracer.present():
                pass
        if not tracer.stories:
            return False
        letters = await tracer.dead_letters()
        if json:
            click.echo(report.as_json(_document(tracer, letters)))
        elif follow:
            click.echo(summary(tracer.stories))
        else:
            show_trace(stdout(), reqid, tracer.stories, letters)
        if tracer.cut:
            stderr().print("there is more: only the beginning was read", style="yellow", soft_wrap=True)
    return True


def _document(tracer: TraceReader, letters: Sequence[DeadLetter]) -> dict[str, object]:
    return trace_document(tracer.reqid, tracer.stories, letters, tuple(tracer.hidden), cut=tracer.cut)


async def _follow(tracer: TraceReader, console: Console | None) -> None:
    """Print what comes until nothing is waited for, somebody says stop, or nothing comes at all."""
    stop = ended_by_signal()
    following = asyncio.create_task(_print_all(tracer, console), name="follow")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait((following, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if following.done():
        await following
    else:
        following.cancel()
        await asyncio.wait((following,))


async def _print_all(tracer: TraceReader, console: Console | None) -> None:
    async with aclosing(tracer.present()) as entries:
        async for kind, entry in entries:
            _print(console, kind, entry)
    if tracer.settled():
        return
    patience = None if tracer.stories else _PATIENCE
    with suppress(TimeoutError):  # nothing came at all
        async with asyncio.timeout(patience) as limit, aclosing(tracer.following()) as entries:
            async for kind, entry in entries:
                limit.reschedule(None)
                _print(console, kind, entry)
                if tracer.settled():
                    return


def _print(console: Console | None, kind: Kind, entry: HistoryEntry) -> None:
    if console is not None:
        show_entry(console, kind, entry)
