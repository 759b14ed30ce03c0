"""``mss dead``: list, show, redrive and drop dead letters; payloads are shown with secrets masked."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from ..broker import Topology
from ..history.dead_letter_store import DeadLetterResult, DeadLetterStore, Redriver, open_redriver
from ..history.dead_letters import DeadLetter, DeadLetterFilter, masked_payload
from ..model.errors import MessageNotFound
from ..model.messages import Kind
from ..model.times import iso_time, parse_duration
from ..runtime import now
from ..settings import Settings
from . import output
from .common import CONFIG, SERVER, settings_of, stderr, stdout
from .connect import connect_to_broker, run, warn_hidden
from .output import as_json, harmless, indented
from .trace import local

_MAX_PROBLEMS_SHOWN = 20  # listed
_TEXT_OR_JSON = click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)
_F = TypeVar("_F", bound=Callable[..., Any])

_NAMES = ("rule", "channel", "chain", "reqid", "delivery", "revision")


def _filters(command: _F) -> _F:
    """The options that say which letters are meant."""
    options = (
        click.option("--rule", default="", help="Of this rule."),
        click.option("--channel", default="", help="Of this channel."),
        click.option("--reason", default="", help="Given up for this reason: refused, exhausted, ..."),
        click.option(
            "--kind", type=click.Choice([str(kind) for kind in Kind]), help="Of this kind of event."
        ),
        click.option("--reqid", default="", help="Of this event."),
        click.option("--since", metavar="DURATION", help="Given up within the last 2h, 30m, ..."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def dead() -> None:
    """List, show, bring back or throw away what was given up.

    An ID is the number that "list" shows, or the id of a delivery.
    """


@dead.command("list")
@_filters
@click.option("--limit", default=100, show_default=True, type=click.IntRange(0), help="The newest N; 0: all.")
@_TEXT_OR_JSON
@CONFIG
@SERVER
def list_(limit: int, format_: str, config: Path | None, server: str | None, **filters: Any) -> None:
    """List dead letters, the newest last."""
    wanted = _filter_of(filters)

    async def main(letters: DeadLetterStore) -> None:
        newest: dict[Kind, deque[DeadLetter]] = defaultdict(lambda: deque(maxlen=limit or None))
        total = 0
        async for letter in letters.search(wanted):
            newest[letter.kind].append(letter)
            total += 1
        found = sorted((each for kept in newest.values() for each in kept), key=lambda each: each.sequence)
        found = found[-limit:]
        if format_ == "json":
            documents = [letter_document(letter) for letter in found]
            click.echo(output.as_json({"total": total, "letters": documents}))
        else:
            show_letters(stdout(), found, total)

    _with_letters(config, server, main)


@dead.command()
@click.argument("name", metavar="ID")
@_TEXT_OR_JSON
@CONFIG
@SERVER
def show(name: str, format_: str, config: Path | None, server: str | None) -> None:
    """Show a dead letter with what is in it; secrets are masked."""

    async def main(letters: DeadLetterStore) -> None:
        found = await letters.resolve(name)
        if not found:
            raise click.ClickException(f"there is no dead letter {name}")
        documents = []
        for letter in found:
            try:
                payload = masked_payload(letter, await letters.payload(letter))
            except MessageNotFound as error:
                raise click.ClickException(f"dead letter {name} was removed just now") from error
            if format_ == "json":
                documents.append({**letter_document(letter), "payload": payload})
            else:
                show_letter(stdout(), letter, payload)
        if format_ == "json":
            click.echo(output.as_json(documents[0] if len(documents) == 1 else documents))

    _with_letters(config, server, main)


_IDS = click.argument("names", metavar="[ID]...", nargs=-1)
_ALL = click.option("--all", "everything", is_flag=True, help="All that the other options mean.")


@dead.command()
@_IDS
@_ALL
@_filters
@CONFIG
@SERVER
def retry(
    names: tuple[str, ...], everything: bool, config: Path | None, server: str | None, **filters: Any
) -> None:
    """Bring dead letters back to where they came from, each once.

    A delivery keeps its id, and what did go out is not sent again. An event is planned by the rules of
    today; where one delivery of it could not be written, only that one. A digest is told again, of the
    same events, by the rules of today.
    """
    meant = _Selection(names=names, everything=everything, wanted=_filter_of(filters))

    async def main(letters: DeadLetterStore) -> bool:
        return await _process_letters(letters, meant, "brought back", Redriver.redrive)

    if not _with_letters(config, server, main):
        raise SystemExit(1)


@dead.command()
@_IDS
@_ALL
@click.option("--yes", is_flag=True, help="Do not ask.")
@_filters
@CONFIG
@SERVER
def drop(
    names: tuple[str, ...],
    everything: bool,
    yes: bool,
    config: Path | None,
    server: str | None,
    **filters: Any,
) -> None:
    """Throw dead letters away for good."""
    meant = _Selection(names=names, everything=everything, wanted=_filter_of(filters))

    async def main(letters: DeadLetterStore) -> bool:
        return await _process_letters(letters, meant, "dropped", Redriver.drop, ask=everything and not yes)

    if not _with_letters(config, server, main):
        raise SystemExit(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Selection:
    """Which letters a command is about: those named, or all that are wanted."""

    names: tuple[str, ...]
    everything: bool
    wanted: DeadLetterFilter

    def __post_init__(self) -> None:
        if self.names and (self.everything or self.wanted != DeadLetterFilter()):
            raise click.UsageError("give either IDs or --all with filters")
        if not self.names and not self.everything:
            raise click.UsageError("give IDs, or --all for all that the filters mean")

    async def find(self, letters: DeadLetterStore) -> tuple[list[DeadLetter], list[str]]:
        """The letters, from the oldest on, and the names under which there is none."""
        if self.everything:
            found = [letter async for letter in letters.search(self.wanted)]
            return sorted(found, key=lambda letter: letter.sequence), []
        by_sequence: dict[int, DeadLetter] = {}
        missing = []
        for name in dict.fromkeys(self.names):
            named = await letters.resolve(name)
            if not named:
                missing.append(name)
            by_sequence |= {letter.sequence: letter for letter in named}
        return [by_sequence[sequence] for sequence in sorted(by_sequence)], missing


async def _process_letters(
    letters: DeadLetterStore,
    meant: _Selection,
    done_to_it: str,
    treat: Callable[[Redriver, Sequence[DeadLetter]], Any],
    *,
    ask: bool = False,
) -> bool:
    """Do it to each letter, with progress on a terminal and a summary; whether it was done to all."""
    found, missing = await meant.find(letters)
    if ask and found:
        click.confirm(f"Drop {_count(len(found))} for good?", abort=True, err=True)
    problems = [f"{name}: there is no such dead letter" for name in missing]
    done = 0
    async with AsyncExitStack() as stack:
        desk = await stack.enter_async_context(open_redriver(letters, now))
        console = stderr()
        progress = stack.enter_context(
            Progress(console=console, transient=True, disable=not console.is_terminal)
        )
        task = progress.add_task("", total=len(found))
        try:
            each: DeadLetterResult
            async for each in treat(desk, found):
                progress.advance(task)
                if each.problem:
                    problems.append(f"{each.dead_letter.sequence}: {each.problem}")
                else:
                    done += 1
        finally:
            progress.stop()
            for problem in problems[:_MAX_PROBLEMS_SHOWN]:
                console.print(problem, style="red", soft_wrap=True)
            if len(problems) > _MAX_PROBLEMS_SHOWN:
                console.print(f"and {len(problems) - _MAX_PROBLEMS_SHOWN} more", style="red")
            total = len(found) + len(missing)
            click.echo(
                f"{done} of {_count(total)} {done_to_it}" if done != total else f"{_count(done)} {done_to_it}"
            )
    return not problems


def _with_letters(config: Path | None, server: str | None, work: Callable[[DeadLetterStore], Any]) -> Any:
    settings = settings_of(config)
    return run(partial(_connect_and_run, settings, server, work))


async def _connect_and_run(
    settings: Settings, server: str | None, work: Callable[[DeadLetterStore], Any]
) -> Any:
    async with connect_to_broker(settings, server) as connection:
        letters = DeadLetterStore(connection=connection, topology=Topology.of(settings))
        result = await work(letters)
        warn_hidden(letters.hidden)
        return result


def _filter_of(filters: dict[str, Any]) -> DeadLetterFilter:
    since = filters["since"]
    try:
        ago = parse_duration(since) if since else 0.0
    except ValueError as error:
        raise click.UsageError(f"--since: {error}") from error
    return DeadLetterFilter(
        kind=Kind(filters["kind"]) if filters["kind"] else None,
        reason=filters["reason"],
        rule=filters["rule"],
        channel=filters["channel"],
        reqid=filters["reqid"],
        since=time.time_ns() // 1000 - int(ago * 1e6) if since else 0,
    )


def _count(number: int) -> str:
    return f"{number or 'no'} dead letter{'' if number == 1 else 's'}"


def letter_line(letter: DeadLetter) -> Text:
    """One letter in one line: id, when, kind, reason, rule, channel, reqid, attempts, detail."""
    attempts = f"{letter.attempts}×" if letter.attempts else "-"
    whose = (
        letter.rule or "-",
        letter.channel or "-",
        letter.reqid or "-",
        attempts,
    )
    return harmless(
        Text.assemble(
            (f"{letter.sequence:>6}", "bold"),
            f"  {local(letter.at)}  {letter.kind:<6} ",
            (letter.reason, "red"),
            f"  {'  '.join(whose)}  {letter.detail}",
        )
    )


def show_letters(console: Console, letters: Sequence[DeadLetter], total: int) -> None:
    """A line for each, the newest last; ``total`` is how many there are of these."""
    for letter in letters:
        console.print(letter_line(letter), soft_wrap=True)
    if not total:
        console.print("no dead letters")
    elif len(letters) < total:
        console.print(
            f"the newest {len(letters)} of {total}; --limit 0 shows all", style="dim", soft_wrap=True
        )


def show_letter(console: Console, letter: DeadLetter, payload: Any) -> None:
    """All that is known of one letter, and what is in it."""
    console.print(Text.assemble((f"dead letter {letter.sequence}", "bold"), f"  {letter.kind}, ",
                                (letter.reason, "red"), f", {local(letter.at)}"), soft_wrap=True)  # fmt: skip
    if letter.subject:
        indented(console, f"event     {letter.subject}, received {local(letter.received)}", 2)
    for name in _NAMES:
        if said := getattr(letter, name):
            indented(console, f"{name:<9} {said}", 2)
    if letter.attempts:
        indented(console, f"attempts  {letter.attempts}", 2)
    indented(console, f"detail    {letter.detail}", 2)
    if letter.truncated:
        indented(
            console, Text(f"cut       only {letter.size} of {letter.truncated} bytes were kept", "yellow"), 2
        )
    console.print()
    indented(console, payload if isinstance(payload, str) else as_json(payload), 2)


def letter_document(letter: DeadLetter) -> dict[str, Any]:
    """One letter for programs, without its payload."""
    return {
        "sequence": letter.sequence,
        "at": iso_time(letter.at),
        "kind": str(letter.kind),
        "reason": letter.reason,
        "detail": letter.detail,
        "event": letter.subject,
        **{name: getattr(letter, name) for name in _NAMES},
        "attempts": letter.attempts,
        "size": letter.size,
        "truncated": bool(letter.truncated),
    }
