"""``mss replay``: the deliveries that another policy would have made of past events."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..broker import Bucket, Topology
from ..history.archive import Archive
from ..history.replay.diff import FieldChange, ReplaySide
from ..history.replay.replay import DeliveryChange, Replay, Sample
from ..model.errors import BrokerUnsupported, InvalidPreferences, NotPermitted
from ..model.times import iso_time, parse_duration
from ..planning.recipients import Choices, ChoicesOf
from ..policy.loader import Files, load_files, read_folder
from ..preferences.document import parse
from ..preferences.store import PreferenceStore
from ..settings import Settings
from ..templates.compiler import template_prints
from . import output
from .common import CONFIG, SERVER, rulebook_of, settings_of, stderr, stdout
from .connect import connect_to_broker, run, warn_hidden
from .output import harmless, indented
from .preferences import all_preferences
from .push import active_files, with_bucket
from .trace import local

_FOLDER = click.Path(file_okay=False, path_type=Path)

_COLOURS = {
    DeliveryChange.APPEARS: "green", DeliveryChange.VANISHES: "bold red", DeliveryChange.CHANGES: "yellow",
    DeliveryChange.UNWRITABLE: "bold red",
}  # fmt: skip
# Of which policy ``why`` speaks.
_WHOSE = {
    DeliveryChange.APPEARS: "live",
    DeliveryChange.VANISHES: "new",
    DeliveryChange.CHANGES: "new",
    DeliveryChange.UNWRITABLE: "new",
}
_DIFFERING = tuple(verdict for verdict in DeliveryChange if verdict is not DeliveryChange.SAME)


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
        click.echo(output.as_json(replay_document(past, names, start)))
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
        topology = Topology.of(settings)
        store = PreferenceStore(Bucket(connection, topology.bucket("PREFERENCES")))
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """A replay that is finished, and how much of the past it knew."""

    replay: Replay
    archive: Archive
    people: int | None  # who have chosen something; None: it may not be known who


def show_replay(console: Console, past: ReplayReport, names: Mapping[str, str]) -> None:
    """Counts of both, a line for each rule and channel that differs, and a few samples of each."""
    replay = past.replay
    kinds = ", ".join(f"{count} {kind}" for kind, count in replay.events.items())
    events = f"{_count(replay.events.total(), 'event')} replayed{f' ({kinds})' if kinds else ''}"
    lost = past.archive.undecodable.total()
    indented(console, f"{events}; {lost} could not be read" if lost else events, 0)
    if past.people:
        indented(console, f"{_people(past.people)} chosen for themselves, as it is now", 0)
    for word, side, count in _sides(replay):
        line = f"{word:<5}{names[word]}, revision {side.rulebook.revision}: {_deliveries(count)}"
        indented(console, line, 0)
    if not replay.events:
        console.print(Text("no event came, so nothing is known of the difference", "yellow"))
        return
    if not any(replay.tallies[group][verdict] for group in replay.tallies for verdict in _DIFFERING):
        console.print(Text("no delivery differs", "green"))
        return
    _show_table(console, replay)
    for sample in (sample for samples in replay.samples.values() for sample in samples):
        _show_sample(console, sample)


def _show_table(console: Console, replay: Replay) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("rule", "channel", *DeliveryChange):
        table.add_column(
            str(name), justify="left" if name in ("rule", "channel") else "right", overflow="fold"
        )
    alike = 0
    for (rule, channel), tally in sorted(replay.tallies.items()):
        if not any(tally[verdict] for verdict in _DIFFERING):
            alike += 1
            continue
        counts = (
            Text(str(tally[each] or "-"), _COLOURS.get(each, "") if tally[each] else "dim")
            for each in DeliveryChange
        )
        table.add_row(harmless(rule), harmless(channel), *counts)
    console.print(table)
    if alike:
        console.print(Text(f"and {alike} more where nothing differs", "dim"))


def _show_sample(console: Console, sample: Sample) -> None:
    console.print()
    head = Text.assemble(
        (sample.change, _COLOURS[sample.change]), "  ", (sample.rule, "bold"), f" over {sample.channel}"
    )
    indented(console, head, 0)
    indented(console, Text(f"{sample.event}, reqid {sample.reqid}, {local(sample.received)}", "dim"), 2)
    if sample.why:
        indented(console, f"{_WHOSE[sample.change]} policy: {sample.why}", 2)
    for each in sample.fields:
        for sign, value, colour in (("-", each.live, "red"), ("+", each.new, "green")):
            if value:
                indented(console, Text(f"{sign} {each.name}: {value}", colour), 2)


def replay_document(past: ReplayReport, names: Mapping[str, str], since: int) -> dict[str, Any]:
    """The shape that ``mss replay --format json`` prints."""
    replay, archive = past.replay, past.archive
    totals = {str(each): sum(tally[each] for tally in replay.tallies.values()) for each in DeliveryChange}
    return {
        "since": iso_time(since),
        "events": replay.events.total(),
        "kinds": dict(replay.events),
        "undecodable": archive.undecodable.total(),
        "hidden": sorted(map(str, archive.hidden)),
        "users_with_preferences": past.people,
        **{
            word: {"policy": names[word], "revision": side.rulebook.revision, "deliveries": count}
            for word, side, count in _sides(replay)
        },
        **totals,
        "rules": [
            {"rule": rule, "channel": channel, **{str(each): tally[each] for each in DeliveryChange}}
            for (rule, channel), tally in sorted(replay.tallies.items())
        ],
        "samples": [_sample(each) for samples in replay.samples.values() for each in samples],
    }


def _sample(sample: Sample) -> dict[str, Any]:
    return {
        "change": str(sample.change),
        "rule": sample.rule,
        "channel": sample.channel,
        "event": sample.event,
        "reqid": sample.reqid,
        "received": iso_time(sample.received),
        "reason": sample.why,
        "fields": [_field(each) for each in sample.fields],
    }


def _field(field: FieldChange) -> dict[str, str]:
    return {"field": field.name, "live": field.live, "new": field.new}


def _sides(replay: Replay) -> tuple[tuple[str, ReplaySide, int], ...]:
    return ("live", replay.live, replay.live_deliveries), ("new", replay.new, replay.new_deliveries)


def _deliveries(count: int) -> str:
    return f"{count} delivery" if count == 1 else f"{count} deliveries"


def _people(number: int) -> str:
    return "what 1 person has" if number == 1 else f"what {number} people have"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
