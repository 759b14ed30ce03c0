"""``mss push``, ``mss revisions`` and ``mss diff``: the policy on the broker."""

from __future__ import annotations

import getpass
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..model.errors import InvalidBucket
from ..model.times import iso_time
from ..policy.bucket import PolicyBucket, Revisions, make_bucket, open_bucket, policy_diff
from ..policy.loader import Files, load_files, read_folder
from ..policy.testing.coverage import coverage
from ..policy.testing.runner import run_case
from ..runtime import now
from ..settings import Settings
from . import output
from .common import CONFIG, SERVER, rulebook_of, settings_of, stdout
from .connect import connect_to_broker, run
from .output import harmless
from .test import show_tests
from .trace import local

T = TypeVar("T")
_BEFORE = "before"  # what --rollback means without a revision

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def bucket_name(settings: Settings) -> str:
    """The bucket that the settings name, else the one for this MSS."""
    return settings.rules_bucket or f"{settings.stream_prefix}_POLICY"


async def with_bucket(
    settings: Settings,
    server: str | None,
    work: Callable[[PolicyBucket], Awaitable[T]],
    *,
    make: bool = False,
) -> T:
    """Open the bucket and do ``work`` in it; what is wrong with it is told with its name."""
    name = bucket_name(settings)
    async with connect_to_broker(settings, server) as connection:
        try:
            opened = (
                make_bucket(connection, name, settings.replicas) if make else open_bucket(connection, name)
            )
            return await work(await opened)
        except InvalidBucket as error:
            raise InvalidBucket(f"nats://{name}: {error}") from error


async def active_files(bucket: PolicyBucket) -> Files:
    """The policy that replicas go by. Raises BadBucket, BrokerError."""
    return await bucket.files((await bucket.revisions()).require())


@click.command(short_help="Check and test a policy, and have every replica take it from the broker.")
@click.argument("folder", metavar="[DIR]", type=click.Path(file_okay=False, path_type=Path), required=False)
@click.option("-m", "--message", default="", help="What has changed, for mss revisions.")
@click.option("--by", "who", help="Who pushes it; default: USER@HOST.")
@click.option(
    "--rollback", is_flag=False, flag_value=_BEFORE, metavar="[REV]",
    help="Go back to REV; without it, to what was in force before the present one was pushed.",
)  # fmt: skip
@CONFIG
@SERVER
def push(
    folder: Path | None,
    message: str,
    who: str | None,
    rollback: str | None,
    config: Path | None,
    server: str | None,
) -> None:
    """Check and test the policy in DIR and put it into the bucket that replicas follow.

    They follow it where mss.yaml says "rules: nats://BUCKET"; the bucket is that one, else MSS_POLICY.
    A policy that has errors, or fails its tests, is not pushed. REV is a number, or a revision as
    mss check prints it.
    """
    if (folder is None) == (rollback is None):
        raise click.UsageError("give either DIR or --rollback")
    settings = settings_of(config)
    by = who or _current_user()
    if folder is None:
        work = partial(_move, name=rollback or _BEFORE, who=by)
    else:
        work = partial(_push, files=_checked(settings, folder), folder=folder, who=by, message=message)
    click.echo(run(lambda: with_bucket(settings, server, work, make=folder is not None)))


@click.command()
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@CONFIG
@SERVER
def revisions(format_: str, config: Path | None, server: str | None) -> None:
    """List what was pushed: number, revision, when, by whom, message.

    The one in force is marked. The last 200 are kept.
    """
    settings = settings_of(config)
    found = run(lambda: with_bucket(settings, server, PolicyBucket.revisions))
    if format_ == "json":
        click.echo(output.as_json(revisions_document(bucket_name(settings), found)))
    else:
        show_revisions(stdout(), found)


@click.command()
@click.argument("old")
@click.argument("new")
@CONFIG
@SERVER
def diff(old: str, new: str, config: Path | None, server: str | None) -> None:
    """Show what differs between two policies, as a unified diff.

    OLD and NEW are folders, or revisions that were pushed: a number, a revision as mss check prints
    it, or "current".
    """
    settings = settings_of(config)
    folders = {name: read_folder(Path(name)) for name in (old, new) if Path(name).is_dir()}

    async def fetch(bucket: PolicyBucket) -> dict[str, Files]:
        pushed = await bucket.revisions()
        return {name: await bucket.files(pushed.resolve(name)) for name in (old, new) if name not in folders}

    if len(folders) < len({old, new}):
        folders |= run(lambda: with_bucket(settings, server, fetch))
    show_difference(stdout(), policy_diff(folders[old].contents, folders[new].contents, (old, new)))


def _checked(settings: Settings, folder: Path) -> Files:
    """The policy's files; where it may not be served its problems are shown, and that is all."""
    files = read_folder(folder)
    policy = load_files(files)
    rulebook = rulebook_of(folder, policy)
    verdicts = [run_case(rulebook, case) for case in policy.cases] if settings.require_tests else []
    if not all(verdict.ok for verdict in verdicts):
        covered = coverage(rulebook, (plan for verdict in verdicts for plan in verdict.plans))
        show_tests(stdout(), str(folder), verdicts, covered)
        sys.exit(1)
    return files


async def _push(bucket: PolicyBucket, *, files: Files, folder: Path, who: str, message: str) -> str:
    try:
        before = await bucket.revisions()
    except InvalidBucket:  # it is mended by what is pushed now, on top of what can still be read
        before = next(iter(await bucket.previous_pointers()), Revisions())
    else:
        if (
            (found := before.active)
            and found.revision == files.revision
            and await _has_all_files(bucket, before)
        ):
            return f"{folder}: nothing has changed, {found} is in force"
    after = await bucket.push(files, before, who=who, at=now(), message=message)
    was = f", before {before.active}" if before.active else ""
    return f"{folder}: {after.require()} is in force{was}"


async def _has_all_files(bucket: PolicyBucket, revisions: Revisions) -> bool:
    try:
        await bucket.files(revisions.require())
    except InvalidBucket:
        return False
    return True


async def _move(bucket: PolicyBucket, *, name: str, who: str) -> str:
    before = await bucket.revisions()
    target = before.previous() if name == _BEFORE else before.resolve(name)
    if target.number == before.current:
        return f"nothing has changed, {target} is in force"
    await bucket.files(target)  # else everybody would be sent to what is not there
    await bucket.activate(target.number, before, who=who, at=now())
    return f"{target} is in force, before {before.require()}"


def _current_user() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container may know no name for its user
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def show_revisions(console: Console, revisions: Revisions) -> None:
    """A line for each, the newest last; the one in force is marked."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for each in revisions.pushed:
        in_force = each.number == revisions.current
        table.add_row(
            Text(f"{'*' if in_force else ' '} {each.number}", "bold green" if in_force else ""),
            each.revision, local(each.at), harmless(each.who), harmless(each.message),
        )  # fmt: skip
    console.print(table)
    found = revisions.active
    if found is not None and revisions.moved_at != found.at:
        moved = f"{found} is in force since {local(revisions.moved_at)}, by {revisions.moved_by}"
        console.print(harmless(moved, "dim"), soft_wrap=True)


def revisions_document(bucket: str, revisions: Revisions) -> dict[str, Any]:
    """The shape that ``mss revisions --format json`` prints."""
    return {
        "bucket": bucket,
        "current": revisions.current,
        "since": iso_time(revisions.moved_at),
        "by": revisions.moved_by,
        "revisions": [
            {
                "number": each.number,
                "revision": each.revision,
                "current": each.number == revisions.current,
                "who": each.who,
                "at": iso_time(each.at),
                "message": each.message,
                "before": each.parent,
                "bytes": each.size,
            }
            for each in revisions.pushed
        ],
    }


def show_difference(console: Console, lines: Iterable[str]) -> None:
    """A unified diff, in colours on a terminal."""
    for line in lines:
        bold = line.startswith(("--- ", "+++ "))
        console.print(harmless(line, "bold" if bold else _COLOURS.get(line[:1], "")), soft_wrap=True)
