"""``mss dead``: list, show, redrive and drop dead letters; payloads are shown with masked secrets."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from ..broker import Broker
from ..history.dead_letter_store import DeadLetterResult, DeadLetterStore, Redriver, open_redriver
from ..history.dead_letters import DeadLetter, DeadLetterFilter, masked_payload
from ..model.errors import MessageNotFound
from ..model.messages import Kind
from ..model.times import iso_time
from ..runtime import now
from ..settings import Settings
from .common import TEXT_OR_JSON, examples, options, since_option, stderr, stdout, with_settings
from .connect import run_connected, warn_hidden
from .output import as_json, attributes, count, indented, local, print_json, show_table, warn

T = TypeVar("T")

_MAX_PROBLEMS_SHOWN = 20
_NAMES = ("rule", "channel", "chain", "reqid", "delivery", "revision")

_FILTERS = options(
    click.option("--rule", metavar="ID", help="Only of this rule."),
    click.option("--channel", metavar="NAME", help="Only of this channel."),
    click.option("--reason", metavar="REASON", help="Only with this reason, such as refused."),
    click.option(
        "--kind", type=click.Choice([str(kind) for kind in Kind]), help="Only of this kind of event."
    ),
    click.option("--reqid", metavar="REQID", help="Only of this event."),
    since_option("Only of this time, such as 2h or 30m."),
)
_SELECTION = options(
    click.argument("names", metavar="[ID]...", nargs=-1),
    click.option("--all", "everything", is_flag=True, help="All that match the filters."),
)


@click.group(epilog=examples("mss dead list --since 1h", "mss dead retry --all --rule coffee"))
def dead() -> None:
    """List, show, redrive and drop dead letters.

    ID is the number that mss dead list shows, or the id of a delivery.
    """


@dead.command("list", epilog=examples("mss dead list", "mss dead list --rule coffee --since 1h"))
@_FILTERS
@click.option("--limit", metavar="N", default=100, type=click.IntRange(0), help="The newest N; 0 shows all.")
@TEXT_OR_JSON
@with_settings
def list_(limit: int, format_: str, settings: Settings, **filters: Any) -> None:
    """List dead letters, the newest last."""

    async def main(store: DeadLetterStore) -> None:
        newest: dict[Kind, deque[DeadLetter]] = defaultdict(lambda: deque(maxlen=limit or None))
        total = 0
        async for dead_letter in store.search(_filter_of(filters)):
            newest[dead_letter.kind].append(dead_letter)
            total += 1
        found = sorted((each for kept in newest.values() for each in kept), key=lambda each: each.sequence)
        found = found[-limit:]
        if format_ == "json":
            print_json({"total": total, "dead_letters": list(map(dead_letter_document, found))})
        else:
            show_dead_letters(stdout(), found, total)

    _with_store(settings, main)


@dead.command(epilog=examples("mss dead show 17", "mss dead show 17 --format json"))
@click.argument("name", metavar="ID")
@TEXT_OR_JSON
@with_settings
def show(name: str, format_: str, settings: Settings) -> None:
    """Show one dead letter with its payload; secrets are masked."""

    async def main(store: DeadLetterStore) -> None:
        found = await store.resolve(name)
        if not found:
            raise click.ClickException(f"there is no dead letter {name}")
        documents = []
        for dead_letter in found:
            try:
                payload = masked_payload(dead_letter, await store.payload(dead_letter))
            except MessageNotFound as error:
                raise click.ClickException(f"dead letter {name} was removed just now") from error
            if format_ == "json":
                documents.append({**dead_letter_document(dead_letter), "payload": payload})
            else:
                show_dead_letter(stdout(), dead_letter, payload)
        if format_ == "json":
            print_json(documents[0] if len(documents) == 1 else documents)

    _with_store(settings, main)


@dead.command(epilog=examples("mss dead retry 17 18", "mss dead retry --all --reason refused --since 2h"))
@_SELECTION
@_FILTERS
@with_settings
def retry(names: tuple[str, ...], everything: bool, settings: Settings, **filters: Any) -> None:
    """Redrive dead letters, each exactly once.

    A delivery keeps its id; a part of it that was sent is not sent again. An event is planned again with
    the active policy; if only one of its deliveries failed to render, only that one. A digest is rendered
    again from the same events, with the active policy.

    Exit code 1: a dead letter was not redriven.
    """
    selection = _Selection(names=names, everything=everything, filter=_filter_of(filters))

    async def main(store: DeadLetterStore) -> bool:
        return await _process(store, selection, "redriven", Redriver.redrive)

    if not _with_store(settings, main):
        raise SystemExit(1)


@dead.command(epilog=examples("mss dead drop 17", "mss dead drop --all --rule coffee --yes"))
@_SELECTION
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@_FILTERS
@with_settings
def drop(names: tuple[str, ...], everything: bool, yes: bool, settings: Settings, **filters: Any) -> None:
    """Delete dead letters for good.

    Exit code 1: a dead letter was not deleted.
    """
    selection = _Selection(names=names, everything=everything, filter=_filter_of(filters))

    async def main(store: DeadLetterStore) -> bool:
        return await _process(store, selection, "dropped", Redriver.drop, confirm=everything and not yes)

    if not _with_store(settings, main):
        raise SystemExit(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Selection:
    """The dead letters that a command is about: those with an ID, or all that match a filter."""

    names: tuple[str, ...]
    everything: bool
    filter: DeadLetterFilter

    def __post_init__(self) -> None:
        if self.names and (self.everything or self.filter != DeadLetterFilter()):
            raise click.UsageError("give either IDs or --all with filters")
        if not self.names and not self.everything:
            raise click.UsageError("give IDs, or --all for all that match the filters")

    async def find(self, store: DeadLetterStore) -> tuple[list[DeadLetter], list[str]]:
        """Return the dead letters, the oldest first, and the IDs that do not exist."""
        if self.everything:
            found = [dead_letter async for dead_letter in store.search(self.filter)]
            return sorted(found, key=lambda dead_letter: dead_letter.sequence), []
        by_sequence: dict[int, DeadLetter] = {}
        missing = []
        for name in dict.fromkeys(self.names):
            resolved = await store.resolve(name)
            if not resolved:
                missing.append(name)
            by_sequence |= {dead_letter.sequence: dead_letter for dead_letter in resolved}
        return [by_sequence[sequence] for sequence in sorted(by_sequence)], missing


async def _process(
    store: DeadLetterStore,
    selection: _Selection,
    done_to_it: str,
    process: Callable[[Redriver, Sequence[DeadLetter]], AsyncIterator[DeadLetterResult]],
    *,
    confirm: bool = False,
) -> bool:
    """Process each dead letter, print a summary, and return whether all succeeded."""
    found, missing = await selection.find(store)
    if confirm and found:
        click.confirm(f"Drop {_count(len(found))} for good?", abort=True, err=True)
    problems = [f"{name}: there is no such dead letter" for name in missing]
    done = 0
    async with AsyncExitStack() as stack:
        redriver = await stack.enter_async_context(open_redriver(store, now))
        console = stderr()
        progress = stack.enter_context(
            Progress(console=console, transient=True, disable=not console.is_terminal)
        )
        task = progress.add_task("", total=len(found))
        try:
            async for result in process(redriver, found):
                progress.advance(task)
                if result.problem:
                    problems.append(f"{result.dead_letter.sequence}: {result.problem}")
                else:
                    done += 1
        finally:
            progress.stop()
            for problem in problems[:_MAX_PROBLEMS_SHOWN]:
                warn(problem, "red")
            if len(problems) > _MAX_PROBLEMS_SHOWN:
                warn(f"and {len(problems) - _MAX_PROBLEMS_SHOWN} more", "red")
            total = len(found) + len(missing)
            click.echo(f"{'' if done == total else f'{done} of '}{_count(total)} {done_to_it}")
    return not problems


def _with_store(settings: Settings, work: Callable[[DeadLetterStore], Awaitable[T]]) -> T:
    async def connected(broker: Broker) -> T:
        store = DeadLetterStore(broker)
        result = await work(store)
        warn_hidden(store.hidden)
        return result

    return run_connected(settings, connected)


def _filter_of(filters: dict[str, Any]) -> DeadLetterFilter:
    kind = filters.pop("kind")
    return DeadLetterFilter(
        kind=Kind(kind) if kind else None, **{name: value for name, value in filters.items() if value}
    )


def _count(number: int) -> str:
    return count(number, "dead letter")


def show_dead_letters(console: Console, dead_letters: Sequence[DeadLetter], total: int) -> None:
    """Print a table, the newest last; ``total`` counts those that match, shown or not."""
    if not total:
        console.print("no dead letters")
        return
    header = ("id", "time", "kind", "reason", "rule", "channel", "reqid", "attempts", "detail")
    rows = [
        (
            Text(str(each.sequence), "bold"),
            local(each.at),
            each.kind,
            Text(each.reason, "red"),
            *(getattr(each, name) or "-" for name in ("rule", "channel", "reqid")),
            each.attempts or "-",
            each.detail,
        )
        for each in dead_letters
    ]
    show_table(console, header, rows, right=("id", "attempts"))
    if len(dead_letters) < total:
        newest = f"the newest {len(dead_letters)} of {total}; --limit 0 shows all"
        console.print(newest, style="dim", soft_wrap=True)


def show_dead_letter(console: Console, dead_letter: DeadLetter, payload: Any) -> None:
    """Print everything about one dead letter, and its payload."""
    console.print(
        Text.assemble(
            (f"dead letter {dead_letter.sequence}", "bold"),
            f"  {dead_letter.kind}, ",
            (dead_letter.reason, "red"),
            f", {local(dead_letter.at)}",
        ),
        soft_wrap=True,
    )
    if dead_letter.subject:
        indented(console, f"event     {dead_letter.subject}, received {local(dead_letter.received)}", 2)
    for name in _NAMES:
        if value := getattr(dead_letter, name):
            indented(console, f"{name:<9} {value}", 2)
    if dead_letter.attempts:
        indented(console, f"attempts  {dead_letter.attempts}", 2)
    indented(console, f"detail    {dead_letter.detail}", 2)
    if dead_letter.truncated:
        kept = f"{dead_letter.size} of {dead_letter.truncated} bytes"
        indented(console, Text(f"truncated only {kept} were kept", "yellow"), 2)
    console.print()
    indented(console, payload if isinstance(payload, str) else as_json(payload), 2)


def dead_letter_document(dead_letter: DeadLetter) -> dict[str, Any]:
    """Return one dead letter as a JSON object, without its payload."""
    return {
        **attributes(dead_letter, "sequence", "kind", "reason", "attempts", "size", "detail", *_NAMES),
        "at": iso_time(dead_letter.at),
        "event": dead_letter.subject,
        "truncated": bool(dead_letter.truncated),
    }
