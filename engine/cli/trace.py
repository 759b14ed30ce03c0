"""``mss trace``: one event from its arrival to each receipt; the history has masked its secrets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from ..broker import Topology
from ..history.dead_letters import DeadLetter
from ..history.entries import DropRecord, HistoryEntry, ReceiptRecord, RedriveRecord
from ..history.trace import DEAD, WAITING, DeliveryTrace, EventTrace
from ..history.trace_reader import TraceReader, open_trace
from ..model.messages import Kind, Outcome
from ..model.times import from_micros, iso_time
from ..planning.records import PlanRecord
from ..settings import Settings
from . import output
from .common import CONFIG, SERVER, settings_of, stderr, stdout
from .connect import connect_to_broker, ended_by_signal, run, warn_hidden
from .output import indented

_PATIENCE = 10.0  # seconds that --follow waits for the first entry

_COLOURS: dict[str, str] = {
    WAITING: "yellow", DEAD: "bold red", Outcome.SENT: "green", Outcome.DEFERRED: "yellow",
    Outcome.REFUSED: "bold red", Outcome.UNKNOWN: "bold yellow",
}  # fmt: skip
_VERDICTS = {
    "matched": "matched",
    "shadow": "matched, in shadow: nothing is sent",
    "stopped": "matched, and none after it: it says stop",
}


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
        open_trace(connection, Topology.of(settings), reqid) as tracer,
    ):
        warn_hidden(tracer.hidden)
        if follow:
            await _follow(tracer, None if json else stdout())
        else:
            async for _ in tracer.stored_entries():
                pass
        if not tracer.traces:
            return False
        letters = await tracer.dead_letters()
        if json:
            click.echo(output.as_json(_document(tracer, letters)))
        elif follow:
            click.echo(summary(tracer.traces))
        else:
            show_trace(stdout(), reqid, tracer.traces, letters)
        if tracer.is_truncated:
            stderr().print("there is more: only the beginning was read", style="yellow", soft_wrap=True)
    return True


def _document(tracer: TraceReader, letters: Sequence[DeadLetter]) -> dict[str, object]:
    return trace_document(tracer.reqid, tracer.traces, letters, tuple(tracer.hidden), cut=tracer.is_truncated)


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
    async with aclosing(tracer.stored_entries()) as entries:
        async for kind, entry in entries:
            _print(console, kind, entry)
    if tracer.is_final():
        return
    patience = None if tracer.traces else _PATIENCE
    with suppress(TimeoutError):  # nothing came at all
        async with asyncio.timeout(patience) as limit, aclosing(tracer.new_entries()) as entries:
            async for kind, entry in entries:
                limit.reschedule(None)
                _print(console, kind, entry)
                if tracer.is_final():
                    return


def _print(console: Console | None, kind: Kind, entry: HistoryEntry) -> None:
    if console is not None:
        show_entry(console, kind, entry)


def local(at: int) -> str:
    """A time in the local zone with its offset, to the millisecond; ``at`` in microseconds."""
    return from_micros(at).astimezone().isoformat(" ", "milliseconds")


def show_trace(
    console: Console, reqid: str, stories: Sequence[EventTrace], letters: Sequence[DeadLetter]
) -> None:
    """Each event: how it came, its rules, its deliveries with every attempt, what was not sent."""
    for position, story in enumerate(stories):
        if position:
            console.print()
        indented(console, Text.assemble((story.name, "bold"), f"  reqid {reqid}"), 0)
        for plan in story.plans:
            _show_arrival(console, plan)
        if not story.plans:
            indented(console, "what was planned is not in the history any more", 2)
        _show_rules(console, story)
        _head(console, _count(len(story.deliveries), "delivery", "deliveries"))
        for delivery in story.deliveries:
            _show_delivery(console, delivery, [each for each in letters if each.delivery == delivery.id])
        _show_unsent(console, story, letters)


def _show_arrival(console: Console, plan: PlanRecord) -> None:
    if plan.redrive:
        words = f"brought back from the dead letters {local(plan.redrive.at)}"
        indented(console, f"{words}, planned again by revision {plan.revision}", 2)
        return
    off = (plan.event.received - plan.event.sent) / 1000
    indented(console, f"sent      {local(plan.event.sent)} by the sender's clock", 2)
    indented(console, f"received  {local(plan.event.received)}, {off:+.0f} ms", 2)
    indented(console, f"planned   {local(plan.at)} by revision {plan.revision}", 2)


def _show_rules(console: Console, story: EventTrace) -> None:
    if not story.plans:
        return
    _head(console, "rules")
    for rule, verdict in story.rules.items():
        indented(console, Text.assemble((rule, "bold"), f"  {_VERDICTS[verdict]}"), 2)
    more = "no other" if story.rules else "none"
    indented(console, Text(f"{more} matched; mss explain says of each why", "dim"), 2)


def _show_delivery(console: Console, delivery: DeliveryTrace, letters: Sequence[DeadLetter]) -> None:
    status = Text(delivery.status, _COLOURS[delivery.status])
    head = Text.assemble(status, "  ", (delivery.channel, "bold"), f" {_to(delivery.to)} ({delivery.rule})")
    indented(console, head, 2)
    indented(console, Text(f"id {delivery.id}", "dim"), 4)
    for attempt in delivery.attempts:
        words = Text.assemble(
            f"{local(attempt.at)}  ", (attempt.outcome, _COLOURS[attempt.outcome]), f"  {attempt.detail}"
        )
        indented(console, words, 4)
    if note := _remark(delivery):
        indented(console, Text(note, "yellow"), 4)
    for letter in letters:
        indented(
            console, f"dead letter {letter.sequence} ({letter.reason}): mss dead retry {letter.sequence}", 4
        )


def _remark(delivery: DeliveryTrace) -> str:
    """What the attempts alone do not say."""
    if delivery.is_duplicated:
        return (
            "its reader may have it twice: it was sent after an attempt of unknown outcome"
            if (delivery.times_sent == 1)
            else f"sent {delivery.times_sent} times"
        )
    if delivery.fallback:
        return f"it goes on over {delivery.fallback.channel}"
    if delivery.dropped and delivery.is_dead_lettered:
        return f"an operator dropped its dead letter {local(delivery.dropped)}"
    if delivery.redriven and not delivery.times_sent:
        return f"brought back from the dead letters {local(delivery.redriven[-1])}"
    if delivery.is_dead_lettered:
        may = "it may have gone out" if delivery.status == Outcome.UNKNOWN else "it did not go out"
        return f"given up after {_count(len(delivery.attempts), 'attempt')}: {may}"
    return "" if delivery.is_final or not delivery.attempts else "it will be tried again"


def _show_unsent(console: Console, story: EventTrace, letters: Sequence[DeadLetter]) -> None:
    if story.suppressed or story.held or story.failures:
        _head(console, "not sent, or not at once")
    for each in story.suppressed:
        detail = f": {each.detail}" if each.detail else ""
        indented(console, f"{each.channel} ({each.rule}): {each.reason}{detail}", 2)
    for waiting in story.held:
        words = f"{waiting.channel} ({waiting.rule}): {waiting.reason}, until {local(waiting.until)}"
        words += f"; then mss trace {waiting.digest}" if waiting.digest else ""
        indented(console, Text(words, "yellow"), 2)
    for failure in story.failures:
        words = f"{failure.channel} ({failure.rule}): its words could not be written: {failure.detail}"
        indented(console, Text(words, "red"), 2)
        for letter in letters:
            if letter.delivery == failure.delivery:
                indented(console, f"dead letter {letter.sequence}: mss dead retry {letter.sequence}", 4)


def show_entry(console: Console, kind: Kind, entry: HistoryEntry) -> None:
    """One entry as it comes, on a line of its own."""
    at = local(entry.at)
    match entry:
        case PlanRecord():
            name = f"{kind}.{entry.event.key}" if entry.event.key else str(kind)
            count = _count(len(entry.deliveries), "delivery", "deliveries")
            words = Text.assemble((name, "bold"), f" planned: {count}, {len(entry.suppressed)} suppressed")
        case ReceiptRecord():
            outcome = (entry.outcome, _COLOURS[entry.outcome])
            end = f", goes on over {entry.fallback.channel}" if entry.fallback else ", given up"
            final = "" if entry.outcome is Outcome.SENT or not entry.final else end
            words = Text.assemble(outcome, f"{final}  {entry.channel} {_to(entry.to)}: {entry.detail}")
        case RedriveRecord():
            words = Text(f"brought back from the dead letters: {entry.channel} ({entry.rule})")
        case DropRecord():
            words = Text(f"dropped from the dead letters: {entry.channel} ({entry.rule})")
    indented(console, Text.assemble(f"{at}  ", words), 0)


def summary(stories: Sequence[EventTrace]) -> str:
    """The deliveries of all events by status, in one line."""
    counted = Counter(delivery.status for story in stories for delivery in story.deliveries)
    total = _count(sum(counted.values()), "delivery", "deliveries")
    return f"{total}: {', '.join(f'{n} {status}' for status, n in counted.items())}" if counted else total


def trace_document(
    reqid: str,
    stories: Sequence[EventTrace],
    letters: Sequence[DeadLetter],
    hidden: Sequence[Kind],
    *,
    cut: bool,
) -> dict[str, Any]:
    """The shape that ``mss trace --format json`` prints: the first event, and under ``others`` the rest."""
    first, *others = [_story(reqid, story, letters) for story in stories]
    return {**first, "others": others, "hidden": [str(kind) for kind in hidden], "cut": cut}


def _story(reqid: str, story: EventTrace, letters: Sequence[DeadLetter]) -> dict[str, Any]:
    return {
        "reqid": reqid,
        "event": story.name,
        "revision": story.plans[-1].revision if story.plans else "",
        "arrivals": [
            {
                "sent": iso_time(plan.event.sent),
                "received": iso_time(plan.event.received),
                "planned": iso_time(plan.at),
                "revision": plan.revision,
                "redriven": iso_time(plan.redrive.at) if plan.redrive else None,
            }
            for plan in story.plans
        ],
        "rules": [{"id": rule, "verdict": verdict} for rule, verdict in story.rules.items()],
        "deliveries": [_delivery(delivery) for delivery in story.deliveries],
        "suppressed": [
            {"rule": s.rule, "channel": s.channel, "reason": s.reason, "detail": s.detail}
            for s in story.suppressed
        ],
        "held": [
            {
                "rule": h.rule,
                "channel": h.channel,
                "reason": h.reason,
                "until": iso_time(h.until),
                "delivery": h.delivery,
                "digest": h.digest,
            }
            for h in story.held
        ],
        "failures": [
            {"id": f.delivery, "rule": f.rule, "channel": f.channel, "detail": f.detail}
            for f in story.failures
        ],
        "dead": [
            {
                "sequence": letter.sequence,
                "at": iso_time(letter.at),
                "reason": letter.reason,
                "delivery": letter.delivery,
                "detail": letter.detail,
            }
            for letter in letters
            if letter.kind == story.kind
        ],
    }


def _delivery(delivery: DeliveryTrace) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "rule": delivery.rule,
        "channel": delivery.channel,
        "to": list(delivery.to),
        "locale": delivery.locale,
        "status": delivery.status,
        "final": delivery.is_final,
        "fallback": delivery.fallback.id if delivery.fallback else None,
        "duplicated": delivery.is_duplicated,
        "redriven": [iso_time(at) for at in delivery.redriven],
        "dropped": iso_time(delivery.dropped) if delivery.dropped else None,
        "attempts": [
            {"at": iso_time(attempt.at), "outcome": str(attempt.outcome), "detail": attempt.detail}
            for attempt in delivery.attempts
        ],
    }


def _to(addresses: Sequence[str]) -> str:
    return f"to {', '.join(addresses)}" if addresses else "to nobody in particular"


def _count(number: int, word: str, plural: str = "") -> str:
    return f"{number or 'no'} {word if number == 1 else plural or f'{word}s'}"


def _head(console: Console, words: str) -> None:
    console.print(Text(f"\n{words}", "bold underline"))
