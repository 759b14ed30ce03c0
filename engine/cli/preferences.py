"""``mss preferences``: show, change, export and import the preferences of users."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn

from ..model.errors import InvalidPreferences
from ..model.wording import shorten
from ..policy.loader import load_policy
from ..preferences.document import check_choice, decode, merged
from ..preferences.options import PreferenceOptions, options_of
from ..preferences.store import PreferenceStore
from ..settings import Settings
from . import output
from .common import TEXT_OR_JSON, examples, stderr, stdout, with_settings
from .connect import run_connected
from .output import print_json, show_table, warn

T = TypeVar("T")

_RULES = click.option(
    "--rules", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Accept only preferences that this policy allows.",
)  # fmt: skip
_USER = click.argument("user", metavar="USER")
_PARALLEL_WRITES = 64
_MAX_SHOWN_LENGTH = 100  # characters of one document in a list


@click.group(epilog=examples("mss preferences get u-1024", "mss preferences export > all.jsonl"))
def preferences() -> None:
    """Show and change the preferences of users.

    USER is the user's id, as in events. These commands have the rights of the server.
    """


@preferences.command(epilog=examples("mss preferences get u-1024"))
@_USER
@with_settings
def get(user: str, settings: Settings) -> None:
    """Print the preferences of a user as JSON.

    A user without preferences has {}.
    """

    async def main(store: PreferenceStore) -> Any:
        return (await store.get(user)).document_of(user) or {}

    print_json(_with_store(settings, main))


@preferences.command(
    "set",
    epilog=examples(
        """mss preferences set u-1024 '{"locale": "de"}' --rules shop""",
        """mss preferences set u-1024 '{"security": null}'""",
        "mss preferences set u-1024 '{}' --replace",
    ),
)
@_USER
@click.argument("document", metavar="JSON")
@click.option("--replace", is_flag=True, help="Delete all other preferences of the user.")
@_RULES
@with_settings
def set_(user: str, document: str, replace: bool, rules: Path | None, settings: Settings) -> None:
    """Change the preferences of a user, key by key.

    JSON is an object; - reads it from standard input. null deletes a key.
    """
    changes = _parse(sys.stdin.read() if document == "-" else document)
    allowed = _load_options(rules)

    def change(present: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        document = merged({} if replace else present, changes)
        changed = changes.keys() | (present.keys() - document.keys())
        if reasons := check_choice(allowed, document, changed):
            raise InvalidPreferences(reasons)
        return document, document

    async def main(store: PreferenceStore) -> Any:
        return (await store.change(user, change))[0]

    print_json(_with_store(settings, main))


@preferences.command("list", epilog=examples("mss preferences list", "mss preferences list --format json"))
@TEXT_OR_JSON
@with_settings
def list_(format_: str, settings: Settings) -> None:
    """List the users with preferences, the latest change last."""

    async def main(store: PreferenceStore) -> list[tuple[str, dict[str, Any]]]:
        return [each async for each in all_preferences(store)]

    found = _with_store(settings, main)
    if format_ == "json":
        print_json([_record(*each) for each in found])
    elif found:
        rows = (
            (user, shorten(json.dumps(document, ensure_ascii=False), _MAX_SHOWN_LENGTH))
            for user, document in found
        )
        show_table(stdout(), ("user", "preferences"), rows)


@preferences.command("export", epilog=examples("mss preferences export > all.jsonl"))
@with_settings
def export(settings: Settings) -> None:
    """Print the preferences of all users, one line of JSON each.

    mss preferences import reads these lines.
    """

    async def main(store: PreferenceStore) -> None:
        async for user, document in all_preferences(store):
            click.echo(msgspec.json.encode(_record(user, document)))

    _with_store(settings, main)


@preferences.command("import", epilog=examples("mss preferences import all.jsonl --rules rules"))
@click.argument("file", metavar="FILE", type=click.File("rb"))
@_RULES
@with_settings
def import_(file: Any, rules: Path | None, settings: Settings) -> None:
    """Read the preferences of users from lines of JSON.

    With - as FILE, the command reads standard input. A line replaces all preferences of its user; a line
    without preferences deletes them. Other users keep theirs. A line that is refused is reported, and the
    others are imported.

    Exit code 1: a line was refused.
    """
    allowed = _load_options(rules)

    async def import_line(store: PreferenceStore, number: int, line: bytes) -> bool:
        try:
            user, document = decode(line)
            reasons = check_choice(allowed, document)
            if not reasons:
                await store.change(user, lambda _: (document, None))
        except InvalidPreferences as error:
            reasons = error.reasons
        if reasons:
            warn(f"line {number}: {'; '.join(reasons)}", "red")
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
            while batch := list(islice(lines, _PARALLEL_WRITES)):
                results += await asyncio.gather(*(import_line(store, number, line) for number, line in batch))
                progress.advance(task, len(batch))
        return results

    results = _with_store(settings, main)
    refused = results.count(False)
    click.echo(f"{results.count(True)} imported" + (f", {refused} refused" if refused else ""))
    if refused:
        raise SystemExit(1)


async def all_preferences(store: PreferenceStore) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Yield each user with the preferences. A record that cannot be read is reported on standard error."""
    async for record in store.records():
        try:
            yield decode(record.data)
        except InvalidPreferences as error:
            warn(f"revision {record.revision}: {error}", "red")


def _record(user: str, document: dict[str, Any]) -> dict[str, Any]:
    return {"userid": user, "preferences": document}


def _parse(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"invalid JSON: {error}") from error
    if not isinstance(document, dict):
        raise click.UsageError('expected an object, such as {"security": ["sms"]}')
    return document


def _load_options(rules: Path | None) -> PreferenceOptions | None:
    """Return the preferences that the policy in a folder allows."""
    if rules is None:
        return None
    policy = load_policy(rules)
    if policy.rulebook is None or not policy.ok:
        output.show_problems(stderr(), str(rules), policy.problems)
        raise click.ClickException(f"{rules}: the policy has errors")
    return options_of(policy.rulebook)


def _with_store(settings: Settings, work: Callable[[PreferenceStore], Awaitable[T]]) -> T:
    return run_connected(settings, lambda broker: work(PreferenceStore(broker.preferences)))
