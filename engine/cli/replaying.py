"""``mss replay``: what another policy would have made of the events that came."""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import report
from ..archive import Archive
from ..durations import parse_duration
from ..likeness import Side
from ..loader import Files, load_files, read_folder
from ..replay import Replay
from ..report_replay import replay_document, show_replay
from ..session import topology_of
from ..settings import Settings
from ..wordprints import template_prints
from .common import CONFIG, SERVER, err, out, settings_of
from .pushing import in_bucket, in_force
from .reaching import broker_of, tell_hidden
from .rehearsal import rulebook_of
from .running import run

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(short_help="Say what another policy would have made of the events that came.")
@click.option("--rules", "new", metavar="DIR", type=_FOLDER, required=True, help="The policy to try.")
@click.option(
    "--live",
    metavar="DIR",
    type=_FOLDER,
    help="The policy to compare it with; default: the one in the settings.",
)
@click.option(
    "--since", metavar="DURATION", default="24h", show_default=True, help="How far back: 7d, 90m, ..."
)
@click.option(
    "--samples", type=click.IntRange(0), default=3, show_default=True, help="Of each kind of difference."
)
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@CONFIG
@SERVER
def replay(
    new: Path,
    live: Path | None,
    since: str,
    samples: int,
    format_: str,
    config: Path | None,
    server: str | None,
) -> None:
    """Run the events that the archive holds through the live policy and a new one; nothing is sent.

    It shows which deliveries would appear, vanish or change, by rule and channel, with samples. Budgets,
    digests and people's preferences are left out. Secrets are masked.

    Exit code 1: the new policy has errors, or makes deliveries whose words it cannot write.
    """
    settings = settings_of(config)
    try:
        start = time.time_ns() // 1000 - round(parse_duration(since) * 1e6)
    except ValueError as error:
        raise click.UsageError(f"--since: {error}") from error
    names = {"live": str(live or settings.rules), "new": str(new)}
    files = {"live": read_folder(live or settings.rules), "new": read_folder(new)}
    if live is None and settings.rules_bucket:
        names["live"] = f"nats://{settings.rules_bucket}"
        files["live"] = run(partial(in_bucket, settings, server, in_force))
    sides = {word: _side(names[word], files[word], json=format_ == "json") for word in names}
    compared = Replay(sides["live"], sides["new"], samples=samples)
    archive = run(partial(_replay, settings, server, compared, start))
    if format_ == "json":
        click.echo(report.as_json(replay_document(compared, archive, names, start)))
    else:
        show_replay(out(), compared, archive, names)
    if compared.unwritable:
        sys.exit(1)


def _side(name: str, files: Files, *, json: bool) -> Side:
    rulebook = rulebook_of(name, load_files(files), json=json)
    return Side(rulebook=rulebook, prints=template_prints(files.contents))


async def _replay(settings: Settings, server: str | None, compared: Replay, since: int) -> Archive:
    console = err()
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    async with broker_of(settings, server) as connection:
        archive = Archive(connection=connection, topology=topology_of(settings))
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("", total=None)
            async for events in archive.events(settings.kinds, since):
                for event in events:
                    compared.add(event)
                done = compared.events.total()
                progress.update(task, completed=done, total=done + archive.waiting)
                await asyncio.sleep(0)  # the broker's signs of life are to be seen between two batches
        tell_hidden(archive.hidden)
        return archive
