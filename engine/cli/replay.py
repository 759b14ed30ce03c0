"""``mss replay``: the deliveries that another policy would have planned for past events."""

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
from rich.text import Text

from ..broker import Broker
from ..history.archive import Archive
from ..history.replay.diff import ReplaySide
from ..history.replay.replay import DeliveryChange, Replay, Sample
from ..model.errors import BrokerUnsupported, InvalidPreferences, NotPermitted
from ..model.times import iso_time
from ..planning.recipients import Choices, ChoicesOf
from ..policy.loader import Files, load_files, read_folder
from ..preferences.document import parse
from ..preferences.store import PreferenceStore
from ..settings import Settings
from ..templates.compiler import template_prints
from .common import (
    DIRECTORY,
    TEXT_OR_JSON,
    examples,
    rulebook_of,
    since_option,
    stderr,
    stdout,
    with_settings,
)  # fmt: skip
from .connect import run_connected, warn_hidden
from .output import attributes, count, indented, local, print_json, show_table, warn
from .preferences import all_preferences
from .push import active_files, run_with_bucket

_COLOURS = {
    DeliveryChange.APPEARS: "green", DeliveryChange.VANISHES: "bold red", DeliveryChange.CHANGES: "yellow",
    DeliveryChange.UNWRITABLE: "bold red",
}  # fmt: skip
_DIFFERING = tuple(change for change in DeliveryChange if change is not DeliveryChange.SAME)


@click.command(
    epilog=examples(
        "mss replay --rules new-rules --since 7d", "mss replay --rules new --live old --format json"
    )
)
@click.option("--rules", "new", metavar="DIR", type=DIRECTORY, required=True, help="The new policy.")
@click.option(
    "--live", metavar="DIR", type=DIRECTORY, show_default="the one in the settings",
    help="The policy to compare it with.",
)  # fmt: skip
@since_option("How far to go back, such as 7d or 90m.", "24h")
@click.option(
    "--samples", metavar="N", type=click.IntRange(0), default=3, help="How many samples of each difference."
)
@TEXT_OR_JSON
@with_settings
def replay(new: Path, live: Path | None, since: int, samples: int, format_: str, settings: Settings) -> None:
    """Compare a new policy with the live one, with archived events.

    Nothing is sent. The command shows the deliveries that would appear, vanish or change, by rule and
    channel, with samples. Limits apply as they would have. The preferences are those of today. Secrets are
    masked.

    Exit code 1: the new policy has errors, or a template of it fails to render.
    """
    names = {"live": str(live or settings.rules), "new": str(new)}
    files = {"live": read_folder(live or settings.rules), "new": read_folder(new)}
    if live is None and settings.rules_bucket:
        names["live"] = f"nats://{settings.rules_bucket}"
        files["live"] = run_with_bucket(settings, active_files)
    sides = {side: _side(names[side], files[side], json=format_ == "json") for side in names}
    compare = partial(Replay, sides["live"], sides["new"], samples=samples)
    report = run_connected(settings, partial(_replay, settings=settings, compare=compare, since=since))
    if format_ == "json":
        print_json(replay_document(report, names, since))
    else:
        show_replay(stdout(), report, names)
    if report.replay.unwritable:
        sys.exit(1)


def _side(name: str, files: Files, *, json: bool) -> ReplaySide:
    rulebook = rulebook_of(name, load_files(files), json=json)
    return ReplaySide(rulebook=rulebook, prints=template_prints(files.contents))


async def _replay(
    broker: Broker, *, settings: Settings, compare: Callable[..., Replay], since: int
) -> ReplayReport:
    console = stderr()
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    store = PreferenceStore(broker.preferences)
    documents = await _documents(store)
    replay = compare(choices_of=_choices_in(documents or {}))
    archive = Archive(broker=broker, tolerance=settings.clock_tolerance)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        async for events in archive.events(settings.kinds, since):
            for event in events:
                replay.add(event)
            done = replay.events.total()
            progress.update(task, completed=done, total=done + archive.waiting)
            await asyncio.sleep(0)  # let the client answer the broker's pings between two batches
    replay.finish(time.time_ns() // 1000)
    warn_hidden(archive.hidden)
    return ReplayReport(replay=replay, archive=archive, people=None if documents is None else len(documents))


async def _documents(store: PreferenceStore) -> dict[str, dict[str, Any]] | None:
    """Return the preferences of all users, by user; None if NATS does not permit to read them."""
    try:
        return {user: document async for user, document in all_preferences(store)}
    except BrokerUnsupported:  # no server has created the bucket yet
        return {}
    except NotPermitted as error:
        warn(f"preferences: treated as empty, because NATS does not permit to read them: {error}")
        return None


def _choices_in(documents: Mapping[str, Mapping[str, Any]]) -> ChoicesOf:
    known: dict[str, Choices | None] = {}

    def choices_of(user: str) -> Choices | None:
        if user not in known and user in documents:
            try:
                known[user] = parse(documents[user])
            except InvalidPreferences:  # the server treats them as empty too
                known[user] = None
        return known.get(user)

    return choices_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """A finished replay, with the archive and the number of users that it knew."""

    replay: Replay
    archive: Archive
    people: int | None  # users with preferences; None: not permitted to read


def show_replay(console: Console, report: ReplayReport, names: Mapping[str, str]) -> None:
    """Print the totals of both policies, a table of the rules and channels that differ, and samples."""
    replay = report.replay
    kinds = ", ".join(f"{number} {kind}" for kind, number in replay.events.items())
    events = f"{count(replay.events.total(), 'event')} replayed{f' ({kinds})' if kinds else ''}"
    undecodable = report.archive.undecodable.total()
    indented(console, f"{events}; {undecodable} could not be read" if undecodable else events, 0)
    if report.people:
        indented(console, f"preferences of {count(report.people, 'user')}, as of today", 0)
    for name, side, number in _sides(replay):
        deliveries = count(number, "delivery", "deliveries")
        indented(console, f"{name:<5}{names[name]}, revision {side.rulebook.revision}: {deliveries}", 0)
    if not replay.events:
        console.print(Text("there was no event to compare the policies with", "yellow"))
        return
    if not any(replay.tallies[group][change] for group in replay.tallies for change in _DIFFERING):
        console.print(Text("no delivery differs", "green"))
        return
    _show_table(console, replay)
    for sample in (sample for samples in replay.samples.values() for sample in samples):
        _show_sample(console, sample)


def _show_table(console: Console, replay: Replay) -> None:
    rows = [
        (rule, channel, *(_number(tally[change], _COLOURS.get(change, "")) for change in DeliveryChange))
        for (rule, channel), tally in sorted(replay.tallies.items())
        if any(tally[change] for change in _DIFFERING)
    ]
    changes = [str(change) for change in DeliveryChange]
    show_table(console, ("rule", "channel", *changes), rows, right=changes)
    if same := len(replay.tallies) - len(rows):
        console.print(Text(f"and {same} more without a difference", "dim"))


def _number(number: int, colour: str) -> Text:
    return Text(str(number), colour) if number else Text("-", "dim")


def _show_sample(console: Console, sample: Sample) -> None:
    console.print()
    change = (sample.change, _COLOURS[sample.change])
    indented(console, Text.assemble(change, "  ", (sample.rule, "bold"), f" over {sample.channel}"), 0)
    indented(console, Text(f"{sample.event}, reqid {sample.reqid}, {local(sample.received)}", "dim"), 2)
    if sample.why:
        policy = "live" if sample.change is DeliveryChange.APPEARS else "new"
        indented(console, f"{policy} policy: {sample.why}", 2)
    for each in sample.fields:
        for sign, value, colour in (("-", each.live, "red"), ("+", each.new, "green")):
            if value:
                indented(console, Text(f"{sign} {each.name}: {value}", colour), 2)


def replay_document(report: ReplayReport, names: Mapping[str, str], since: int) -> dict[str, Any]:
    """Return what ``mss replay --format json`` prints."""
    replay, archive = report.replay, report.archive
    return {
        "since": iso_time(since),
        "events": replay.events.total(),
        "kinds": dict(replay.events),
        "undecodable": archive.undecodable.total(),
        "hidden": sorted(map(str, archive.hidden)),
        "users_with_preferences": report.people,
        **{
            name: {"policy": names[name], "revision": side.rulebook.revision, "deliveries": number}
            for name, side, number in _sides(replay)
        },
        **{str(each): sum(tally[each] for tally in replay.tallies.values()) for each in DeliveryChange},
        "rules": [
            {"rule": rule, "channel": channel, **{str(each): tally[each] for each in DeliveryChange}}
            for (rule, channel), tally in sorted(replay.tallies.items())
        ],
        "samples": [_sample(each) for samples in replay.samples.values() for each in samples],
    }


def _sample(sample: Sample) -> dict[str, Any]:
    return {
        **attributes(sample, "change", "rule", "channel", "event", "reqid"),
        "received": iso_time(sample.received),
        "reason": sample.why,
        "fields": [{"field": each.name, **attributes(each, "live", "new")} for each in sample.fields],
    }


def _sides(replay: Replay) -> tuple[tuple[str, ReplaySide, int], ...]:
    return ("live", replay.live, replay.live_deliveries), ("new", replay.new, replay.new_deliveries)
