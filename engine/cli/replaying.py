"""``mss replay``: what another policy would have made of the events that came."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import report
from ..archive import Archive
from ..choices import Choices, ChoicesOf
from ..durations import parse_duration
from ..errors import BrokerUnsupported, InvalidPreferences, NotPermitted
from ..loader import Files, load_files, read_folder
from ..preference_store import PreferenceStore
from ..preferences import parse
from ..replay import Replay
from ..replay.likeness import ReplaySide
from ..replay.wordprints import template_prints
from ..report.replay import ReplayReport, replay_document, show_replay
from ..session import topology_of
from ..settings import Settings
from .common import CONFIG, SERVER, settings_of, stderr, stdout
from .preferring import all_preferences
from .pushing import active_files, with_bucket
from .reaching import connect_to_broker, warn_hidden
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

    It shows which deliveries would appear, vanish or change, by rule and channel, with samples. Limits hold
    back as they would have; people have chosen what they have chosen by now. Secrets are masked.

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
        files["live"] = run(partial(with_bucket, settings, server, active_files))
    sides = {word: _side(names[word], files[word], json=format_ == "json") for word in names}
    compare = partial(Replay, sides["live"], sides["new"], samples=samples)
    past = run(partial(_replay, settings, server, compare, start))
    if format_ == "json":
        click.echo(report.as_json(replay_document(past, names, start)))
    else:
        show_replay(stdout(), past, names)
    if past.replay.unwritable:
        sys.exit(1)


def _side(name: str, files: Files, *, json: bool) -> ReplaySide:
    rulebook = rulebook_of(name, load_files(files), json=json)
    return ReplaySide(rulebook=rulebook, prints=template_prints(files.contents))


async def _replay(
    settings: Settings, server: str | None, compare: Callable[..., Replay], since: int
) -> ReplayReport:
    console = stderr()
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    async with connect_to_broker(settings, server) as connection:
        topology = topology_of(settings)
        store = PreferenceStore(connection=connection, name=topology.bucket("PREFERENCES"))
        documents = await _documents(store)
        replay = compare(choices_of=_choices_in(documents or {}))
        archive = Archive(connection=connection, topology=topology)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("", total=None)
            async for events in archive.events(settings.kinds, since):
                for event in events:
                    replay.add(event)
                done = replay.events.total()
                progress.update(task, completed=done, total=done + archive.waiting)
                await asyncio.sleep(0)  # the broker's signs of life are to be seen between two batches
        replay.finish(time.time_ns() // 1000)
        warn_hidden(archive.hidden)
        return ReplayReport(
            replay=replay, archive=archive, people=None if documents is None else len(documents)
        )


async def _documents(store: PreferenceStore) -> dict[str, dict[str, Any]] | None:
    """What everybody has chosen by now; None where we may not know."""
    try:
        return {user: document async for user, document in all_preferences(store)}
    except BrokerUnsupported:  # no server has run here yet that would have made the bucket
        return {}
    except NotPermitted as error:
        words = f"preferences: everybody counts as having chosen nothing, NATS does not permit it: {error}"
        stderr().print(words, style="yellow", soft_wrap=True)
        return None


def _choices_in(documents: Mapping[str, Mapping[str, Any]]) -> ChoicesOf:
    known: dict[str, Choices | None] = {}

    def choices_of(user: str) -> Choices | None:
        if user not in known and user in documents:
            try:
                known[user] = parse(documents[user])
            except InvalidPreferences:  # counts as none for the server too
                known[user] = None
        return known.get(user)

    return choices_of
