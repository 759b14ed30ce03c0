"""``mss trace``: show one event from its arrival to each receipt. The history has masked every secret."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing, suppress
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from ..broker import Broker
from ..history.dead_letters import DeadLetter
from ..history.entries import DropRecord, HistoryEntry, ReceiptRecord, RedriveRecord
from ..history.trace import DEAD, WAITING, DeliveryTrace, EventTrace
from ..history.trace_reader import TraceReader, open_trace
from ..model.messages import Kind, Outcome
from ..model.times import iso_time
from ..planning.records import PlanRecord
from ..settings import Settings
from .common import TEXT_OR_JSON, examples, stdout, with_settings
from .connect import ended_by_signal, run_connected, run_until, warn_hidden
from .output import attributes, count, indented, local, print_json, recipients_text, show_title, warn

_FIRST_ENTRY_LIMIT = 10.0  # seconds that --follow waits for the first entry

_COLOURS: dict[str, str] = {
    WAITING: "yellow", DEAD: "bold red", Outcome.SENT: "green", Outcome.DEFERRED: "yellow",
    Outcome.REFUSED: "bold red", Outcome.UNKNOWN: "bold yellow",
}  # fmt: skip
_VERDICTS = {
    "matched": "matched",
    "shadow": "matched, in shadow mode: nothing is sent",
    "stopped": "matched, and stopped the evaluation",
}


@click.command(epilog=examples("mss trace 5f1d8c0a", "mss trace 5f1d8c0a --follow"))
@click.argument("reqid", metavar="REQID")
@click.option("--follow", is_flag=True, help="Print new entries, and end when nothing is pending.")
@TEXT_OR_JSON
@with_settings
def trace(reqid: str, follow: bool, format_: str, settings: Settings) -> None:
    """Show what happened to an event.

    The command shows the matching rules, each delivery with every attempt, and the messages that were not
    sent. A delivery is waiting, sent, deferred (MSS will retry it), refused, unknown (it may have been
    sent) or dead (it is a dead letter). Times are in the local zone.

    Exit code 1: the history knows no such event.
    """
    if not reqid:
        raise click.UsageError("REQID is empty")

    async def connected(broker: Broker) -> bool:
        async with open_trace(broker, reqid) as reader:
            return await _trace(reader, json=format_ == "json", follow=follow)

    if not run_connected(settings, connected):
        raise click.ClickException(
            f"the history does not know reqid {reqid}: it was not published here, it is older than the "
            "history, or the message was not a valid event and is a dead letter (mss dead list)"
        )


async def _trace(reader: TraceReader, *, json: bool, follow: bool) -> bool:
    """Print the trace, and return whether the history knows the event."""
    warn_hidden(reader.hidden)
    if follow:
        await run_until(ended_by_signal(), _follow(reader, None if json else stdout()), name="follow")
    else:
        async for _ in reader.stored_entries():
            pass
    if not reader.traces:
        return False
    dead_letters = await reader.dead_letters()
    if json:
        print_json(
            trace_document(
                reader.reqid, reader.traces, dead_letters, tuple(reader.hidden), truncated=reader.is_truncated
            )
        )
    elif follow:
        click.echo(summary(reader.traces))
    else:
        show_trace(stdout(), reader.reqid, reader.traces, dead_letters)
    if reader.is_truncated:
        warn("the history has more entries; only the first ones were read")
    return True


async def _follow(reader: TraceReader, console: Console | None) -> None:
    """Print entries until nothing is pending, or until no first entry comes within the limit."""
    async with aclosing(reader.stored_entries()) as entries:
        async for kind, entry in entries:
            _print(console, kind, entry)
    if reader.is_final():
        return
    first_entry_limit = None if reader.traces else _FIRST_ENTRY_LIMIT
    with suppress(TimeoutError):
        async with asyncio.timeout(first_entry_limit) as limit, aclosing(reader.new_entries()) as entries:
            async for kind, entry in entries:
                limit.reschedule(None)
                _print(console, kind, entry)
                if reader.is_final():
                    return


def _print(console: Console | None, kind: Kind, entry: HistoryEntry) -> None:
    if console is not None:
        show_entry(console, kind, entry)


def show_trace(
    console: Console, reqid: str, events: Sequence[EventTrace], dead_letters: Sequence[DeadLetter]
) -> None:
    """Print each event: its arrivals, rules, deliveries with every attempt, and unsent messages."""
    for position, event in enumerate(events):
        if position:
            console.print()
        indented(console, Text.assemble((event.name, "bold"), f"  reqid {reqid}"), 0)
        for plan in event.plans:
            _show_arrival(console, plan)
        if not event.plans:
            indented(console, "the history no longer has its plan", 2)
        _show_rules(console, event)
        show_title(console, _deliveries(len(event.deliveries)))
        for delivery in event.deliveries:
            _show_delivery(console, delivery, [each for each in dead_letters if each.delivery == delivery.id])
        _show_unsent(console, event, dead_letters)


def _show_arrival(console: Console, plan: PlanRecord) -> None:
    if plan.redrive:
        redriven = f"redriven  {local(plan.redrive.at)}, planned again by revision {plan.revision}"
        indented(console, redriven, 2)
        return
    latency = (plan.event.received - plan.event.sent) / 1000
    indented(console, f"sent      {local(plan.event.sent)} by the sender's clock", 2)
    indented(console, f"received  {local(plan.event.received)}, {latency:+.0f} ms", 2)
    indented(console, f"planned   {local(plan.at)} by revision {plan.revision}", 2)


def _show_rules(console: Console, event: EventTrace) -> None:
    if not event.plans:
        return
    show_title(console, "rules")
    for rule, verdict in event.rules.items():
        indented(console, Text.assemble((rule, "bold"), f"  {_VERDICTS[verdict]}"), 2)
    more = "no other rule matched" if event.rules else "no rule matched"
    indented(console, Text(f"{more}; mss explain shows why", "dim"), 2)


def _show_delivery(console: Console, delivery: DeliveryTrace, dead_letters: Sequence[DeadLetter]) -> None:
    status, to = Text(delivery.status, _COLOURS[delivery.status]), recipients_text(delivery.to)
    head = Text.assemble(status, "  ", (delivery.channel, "bold"), f" to {to} ({delivery.rule})")
    indented(console, head, 2)
    indented(console, Text(f"id {delivery.id}", "dim"), 4)
    for attempt in delivery.attempts:
        outcome = (attempt.outcome, _COLOURS[attempt.outcome])
        indented(console, Text.assemble(f"{local(attempt.at)}  ", outcome, f"  {attempt.detail}"), 4)
    if note := _note(delivery):
        indented(console, Text(note, "yellow"), 4)
    for dead_letter in dead_letters:
        number = dead_letter.sequence
        indented(console, f"dead letter {number} ({dead_letter.reason}): mss dead retry {number}", 4)


def _note(delivery: DeliveryTrace) -> str:
    """Return what the list of attempts does not show, or an empty string."""
    if delivery.is_duplicated:
        twice = "its recipient may have it twice: it was sent after an attempt with an unknown outcome"
        return twice if delivery.times_sent == 1 else f"sent {delivery.times_sent} times"
    if delivery.fallback:
        return f"it fell back to {delivery.fallback.channel}"
    if delivery.dropped and delivery.is_dead_lettered:
        return f"an operator dropped its dead letter {local(delivery.dropped)}"
    if delivery.redriven and not delivery.times_sent:
        return f"redriven {local(delivery.redriven[-1])}"
    if delivery.is_dead_lettered:
        sent = "it may have been sent" if delivery.status == Outcome.UNKNOWN else "it was not sent"
        return f"dead-lettered after {count(len(delivery.attempts), 'attempt')}: {sent}"
    return "" if delivery.is_final or not delivery.attempts else "it will be retried"


def _show_unsent(console: Console, event: EventTrace, dead_letters: Sequence[DeadLetter]) -> None:
    if event.suppressed or event.held or event.failures:
        show_title(console, "not sent, or not at once")
    for suppressed in event.suppressed:
        detail = f": {suppressed.detail}" if suppressed.detail else ""
        indented(console, f"{suppressed.channel} ({suppressed.rule}): {suppressed.reason}{detail}", 2)
    for held in event.held:
        text = f"{held.channel} ({held.rule}): {held.reason}, until {local(held.until)}"
        text += f"; then mss trace {held.digest}" if held.digest else ""
        indented(console, Text(text, "yellow"), 2)
    for failure in event.failures:
        text = f"{failure.channel} ({failure.rule}): its template failed to render: {failure.detail}"
        indented(console, Text(text, "red"), 2)
        for dead_letter in dead_letters:
            if dead_letter.delivery == failure.delivery:
                number = dead_letter.sequence
                indented(console, f"dead letter {number}: mss dead retry {number}", 4)


def show_entry(console: Console, kind: Kind, entry: HistoryEntry) -> None:
    """Print one entry of the history."""
    match entry:
        case PlanRecord():
            name = f"{kind}.{entry.event.key}" if entry.event.key else str(kind)
            planned = f" planned: {_deliveries(len(entry.deliveries))}, {len(entry.suppressed)} suppressed"
            text = Text.assemble((name, "bold"), planned)
        case ReceiptRecord():
            outcome = (entry.outcome, _COLOURS[entry.outcome])
            end = f", falls back to {entry.fallback.channel}" if entry.fallback else ", dead-lettered"
            final = "" if entry.outcome is Outcome.SENT or not entry.final else end
            to = recipients_text(entry.to)
            text = Text.assemble(outcome, f"{final}  {entry.channel} to {to}: {entry.detail}")
        case RedriveRecord():
            text = Text(f"redriven: {entry.channel} ({entry.rule})")
        case DropRecord():
            text = Text(f"dead letter dropped: {entry.channel} ({entry.rule})")
    indented(console, Text.assemble(f"{local(entry.at)}  ", text), 0)


def summary(events: Sequence[EventTrace]) -> str:
    """Return the number of deliveries by status, in one line."""
    counted = Counter(delivery.status for event in events for delivery in event.deliveries)
    total = _deliveries(counted.total())
    return f"{total}: {', '.join(f'{n} {status}' for status, n in counted.items())}" if counted else total


def trace_document(
    reqid: str,
    events: Sequence[EventTrace],
    dead_letters: Sequence[DeadLetter],
    hidden: Sequence[Kind],
    *,
    truncated: bool,
) -> dict[str, Any]:
    """Return what ``mss trace --format json`` prints: the first event, and the others in ``others``."""
    first, *others = [_event(reqid, event, dead_letters) for event in events]
    return {**first, "others": others, "hidden": [str(kind) for kind in hidden], "cut": truncated}


def _event(reqid: str, event: EventTrace, dead_letters: Sequence[DeadLetter]) -> dict[str, Any]:
    return {
        "reqid": reqid,
        "event": event.name,
        "revision": event.plans[-1].revision if event.plans else "",
        "arrivals": [
            {
                "sent": iso_time(plan.event.sent),
                "received": iso_time(plan.event.received),
                "planned": iso_time(plan.at),
                "revision": plan.revision,
                "redriven": iso_time(plan.redrive.at) if plan.redrive else None,
            }
            for plan in event.plans
        ],
        "rules": [{"id": rule, "verdict": verdict} for rule, verdict in event.rules.items()],
        "deliveries": [_delivery(delivery) for delivery in event.deliveries],
        "suppressed": [attributes(each, "rule", "channel", "reason", "detail") for each in event.suppressed],
        "held": [
            {
                **attributes(each, "rule", "channel", "reason", "delivery", "digest"),
                "until": iso_time(each.until),
            }
            for each in event.held
        ],
        "failures": [
            {"id": each.delivery, **attributes(each, "rule", "channel", "detail")} for each in event.failures
        ],
        "dead": [
            {
                **attributes(each, "sequence", "reason", "delivery", "detail"),
                "at": iso_time(each.at),
            }
            for each in dead_letters
            if each.kind == event.kind
        ],
    }


def _delivery(delivery: DeliveryTrace) -> dict[str, Any]:
    return {
        **attributes(delivery, "id", "rule", "channel", "to", "locale", "status"),
        "final": delivery.is_final,
        "fallback": delivery.fallback.id if delivery.fallback else None,
        "duplicated": delivery.is_duplicated,
        "redriven": [iso_time(at) for at in delivery.redriven],
        "dropped": iso_time(delivery.dropped) if delivery.dropped else None,
        "attempts": [
            {**attributes(each, "outcome", "detail"), "at": iso_time(each.at)} for each in delivery.attempts
        ],
    }


def _deliveries(number: int) -> str:
    return count(number, "delivery", "deliveries")
