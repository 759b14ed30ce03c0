"""``mss preferences``: show, change, export and import the preferences of users."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn

from ..broker import Bucket, Topology
from ..model.errors import InvalidPreferences
from ..policy.loader import load_policy
from ..preferences.document import check_choice, decode, merged
from ..preferences.options import PreferenceOptions, options_of
from ..preferences.store import PreferenceStore
from ..settings import Settings
from . import output
from .common import CONFIG, SERVER, settings_of, stderr, stdout
from .connect import connect_to_broker, run

_RULES = click.option(
    "--rules",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Take only what this policy allows people to choose.",
)
_USER = click.argument("user", metavar="USER")
_AT_ONCE = 64  # people whose choices are written at the same time
_MAX_SHOWN_LENGTH = 100  # characters of somebody's choices in a list


@click.group()
def preferences() -> None:
    """Show and change what people have chosen for themselves.

    USER is the person's id as events have it. Whoever runs this has the rights of the server.
    """


@preferences.command()
@_USER
@CONFIG
@SERVER
def get(user: str, config: Path | None, server: str | None) -> None:
    """Print what a person has chosen, as JSON; {} is nothing."""

    async def main(store: PreferenceStore) -> Any:
        return (await store.get(user)).document_of(user) or {}

    click.echo(output.as_json(_with_store(config, server, main)))


@preferences.command("set")
@_USER
@click.argument("choices", metavar="JSON|-")
@click.option("--replace", is_flag=True, help="Forget all else that the person has chosen.")
@_RULES
@CONFIG
@SERVER
def set_(
    user: str, choices: str, replace: bool, rules: Path | None, config: Path | None, server: str | None
) -> None:
    """Change what a person has chosen, key by key; null takes a key back.

    For example: mss preferences set u-1024 '{"security": ["email"], "locale": "de"}'
    """
    text = sys.stdin.read() if choices == "-" else choices
    changes = _document(text)
    offers = _load_options(rules)

    def change(present: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        document = merged({} if replace else present, changes)
        changed = changes.keys() | (present.keys() - document.keys())
        if reasons := check_choice(offers, document, changed):
            raise InvalidPreferences(reasons)
        return document, document

    async def main(store: PreferenceStore) -> Any:
        return (await store.change(user, change))[0]

    click.echo(output.as_json(_with_store(config, server, main)))


@preferences.command("list")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@CONFIG
@SERVER
def list_(format_: str, config: Path | None, server: str | None) -> None:
    """List everybody who has chosen something, the latest change last."""

    async def main(store: PreferenceStore) -> list[dict[str, Any]]:
        found = []
        async for user, document in all_preferences(store):
            if format_ == "json":
                found.append({"userid": user, "preferences": document})
                continue
            text = json.dumps(document, ensure_ascii=False)
            stdout().print(
                f"{user}  {text if len(text) <= _MAX_SHOWN_LENGTH else text[: _MAX_SHOWN_LENGTH - 1] + '…'}",
                soft_wrap=True,
                markup=False,
            )
        return found

    found = _with_store(config, server, main)
    if format_ == "json":
        click.echo(output.as_json(found))


@preferences.command("export")
@CONFIG
@SERVER
def export(config: Path | None, server: str | None) -> None:
    """Print everybody's choices, a line of JSON for each person: what "import" reads."""

    async def main(store: PreferenceStore) -> None:
        async for user, document in all_preferences(store):
            click.echo(msgspec.json.encode({"userid": user, "preferences": document}))

    _with_store(config, server, main)


@preferences.command("import")
@click.argument("file", type=click.File("rb"))
@_RULES
@CONFIG
@SERVER
def import_(file: Any, rules: Path | None, config: Path | None, server: str | None) -> None:
    """Bring in everybody's choices from lines of JSON; - is standard input.

    A person's line replaces all that they had chosen; one without choices forgets them. Who is not
    named keeps what there is. A line that cannot be taken is said, and the others are brought in.
    """
    offers = _load_options(rules)

    async def take(store: PreferenceStore, number: int, line: bytes) -> bool:
        try:
            user, document = decode(line)
            reasons = check_choice(offers, document)
            if not reasons:
                await store.change(user, lambda _: (document, None))
        except InvalidPreferences as error:
            reasons = error.reasons
        if reasons:
            stderr().print(f"line {number}: {'; '.join(reasons)}", style="red", soft_wrap=True, markup=False)
        return not reasons

    async def main(store: PreferenceStore) -> list[bool]:
        lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        results: list[bool] = []
        console = stderr()
        with Progress(
            SpinnerColumn(), MofNCompleteColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        ) as progress:  # fmt: skip
            task = progress.add_task("", total=None)
            while some := list(islice(lines, _AT_ONCE)):
                results += await asyncio.gather(*(take(store, number, line) for number, line in some))
                progress.advance(task, len(some))
        return results

    results = _with_store(config, server, main)
    refused = results.count(False)
    click.echo(f"{results.count(True)} brought in" + (f", {refused} refused" if refused else ""))
    if refused:
        raise SystemExit(1)


async def all_preferences(store: PreferenceStore) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Whose record it is, and the document; what cannot be read is said."""
    async for record in store.records():
        try:
            yield decode(record.data)
        except InvalidPreferences as error:
            stderr().print(f"revision {record.revision}: {error}", style="red", soft_wrap=True, markup=False)


def _document(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"no JSON: {error}") from error
    if not isinstance(document, dict):
        raise click.UsageError('a mapping is wanted, such as {"security": ["sms"]}')
    return document


def _load_options(rules: Path | None) -> PreferenceOptions | None:
    """What the policy in a folder lets people choose."""
    if rules is None:
        return None
    policy = load_policy(rules)
    if policy.rulebook is None or not policy.ok:
        output.show_problems(stderr(), str(rules), policy.problems)
        raise click.ClickException(f"{rules}: the policy has errors")
    return options_of(policy.rulebook)


def _with_store(
    config: Path | None, server: str | None, work: Callable[[PreferenceStore], Coroutine[Any, Any, Any]]
) -> Any:
    return run(partial(_connect_and_run, settings_of(config), server, work))


async def _connect_and_run(
    settings: Settings, server: str | None, work: Callable[[PreferenceStore], Any]
) -> Any:
    async with connect_to_broker(settings, server) as connection:
        return await work(PreferenceStore(Bucket(connection, Topology.of(settings).bucket("PREFERENCES"))))
