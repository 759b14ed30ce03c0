"""What ``mss replay`` says, for people and for programs; secrets are masked already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..archive import Archive
from ..layout import harmless, indented
from ..replay import DeliveryChange, Replay, Sample
from ..replay.likeness import ReplaySide
from ..replay.readers import FieldChange
from .trace import iso, local

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
        (sample.verdict, _COLOURS[sample.verdict]), "  ", (sample.rule, "bold"), f" over {sample.channel}"
    )
    indented(console, head, 0)
    indented(console, Text(f"{sample.event}, reqid {sample.reqid}, {local(sample.received)}", "dim"), 2)
    if sample.why:
        indented(console, f"{_WHOSE[sample.verdict]} policy: {sample.why}", 2)
    for each in sample.fields:
        for sign, value, colour in (("-", each.live, "red"), ("+", each.new, "green")):
            if value:
                indented(console, Text(f"{sign} {each.name}: {value}", colour), 2)


def replay_document(past: ReplayReport, names: Mapping[str, str], since: int) -> dict[str, Any]:
    """The shape that ``mss replay --format json`` prints."""
    replay, archive = past.replay, past.archive
    totals = {str(each): sum(tally[each] for tally in replay.tallies.values()) for each in DeliveryChange}
    return {
        "since": iso(since),
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
        "change": str(sample.verdict),
        "rule": sample.rule,
        "channel": sample.channel,
        "event": sample.event,
        "reqid": sample.reqid,
        "received": iso(sample.received),
        "reason": sample.why,
        "fields": [_field(each) for each in sample.fields],
    }


def _field(field: FieldChange) -> dict[str, str]:
    return {"field": field.name, "live": field.live, "new": field.new}


def _sides(replay: Replay) -> tuple[tuple[str, ReplaySide, int], ...]:
    return ("live", replay.live, replay.of_live), ("new", replay.new, replay.of_new)


def _deliveries(count: int) -> str:
    return f"{count} delivery" if count == 1 else f"{count} deliveries"


def _people(number: int) -> str:
    return "what 1 person has" if number == 1 else f"what {number} people have"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
