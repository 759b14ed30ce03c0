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
from rich.text import Text

from ..broker import Broker
from ..model.errors import InvalidBucket
from ..model.times import iso_time
from ..policy.bucket import PolicyBucket, Revisions, make_bucket, open_bucket, policy_diff
from ..policy.loader import Files, load_files, read_folder
from ..policy.testing.coverage import coverage
from ..policy.testing.runner import run_case
from ..runtime import now
from ..settings import Settings
from .common import DIRECTORY, TEXT_OR_JSON, examples, rulebook_of, stdout, with_settings
from .connect import run_connected
from .output import attributes, harmless, local, print_json, show_table
from .test import show_tests

T = TypeVar("T")
_PREVIOUS = "previous"  # the value of --rollback without a revision

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def bucket_name(settings: Settings) -> str:
    """Return the bucket in the settings, or else the default one of this MSS."""
    return settings.rules_bucket or f"{settings.stream_prefix}_POLICY"


def run_with_bucket(
    settings: Settings, work: Callable[[PolicyBucket], Awaitable[T]], *, make: bool = False
) -> T:
    """Connect, open the bucket (with ``make``, create it if it is missing) and run ``work``."""
    name = bucket_name(settings)

    async def connected(broker: Broker) -> T:
        connection = broker.connection
        try:
            bucket = (
                make_bucket(connection, name, settings.replicas) if make else open_bucket(connection, name)
            )
            return await work(await bucket)
        except InvalidBucket as error:
            raise InvalidBucket(f"nats://{name}: {error}") from error

    return run_connected(settings, connected)


async def active_files(bucket: PolicyBucket) -> Files:
    """Return the files of the active revision. Raises InvalidBucket, BrokerError."""
    return await bucket.files((await bucket.revisions()).require())


@click.command(
    epilog=examples(
        'mss push rules -m "mail to secops too"',
        "mss push --rollback",
        "mss push --rollback 2",
    )
)
@click.argument("folder", metavar="[DIR]", type=DIRECTORY, required=False)
@click.option("-m", "--message", metavar="TEXT", help="The message for mss revisions.")
@click.option("--by", "author", metavar="NAME", show_default="USER@HOST", help="The author.")
@click.option(
    "--rollback", is_flag=False, flag_value=_PREVIOUS, metavar="[REV]",
    help="Activate REV; without REV, the revision that was active before the last push.",
)  # fmt: skip
@with_settings
def push(
    folder: Path | None, message: str | None, author: str | None, rollback: str | None, settings: Settings
) -> None:
    """Check and test a policy, and make it active on the broker.

    The command stores the policy in the bucket that replicas follow, if their mss.yaml says
    "rules: nats://BUCKET". The bucket is the one in the settings, or else MSS_POLICY. A policy that has
    errors, or fails its tests, is not pushed. REV is a number, or a revision as mss check prints it.
    """
    if (folder is None) == (rollback is None):
        raise click.UsageError("give either DIR or --rollback")
    by = author or _current_user()
    if folder is None:
        work = partial(_activate, name=rollback or _PREVIOUS, who=by)
    else:
        files = _checked(settings, folder)
        work = partial(_push, files=files, folder=folder, who=by, message=message or "")
    click.echo(run_with_bucket(settings, work, make=folder is not None))


@click.command(epilog=examples("mss revisions", "mss revisions --format json"))
@TEXT_OR_JSON
@with_settings
def revisions(format_: str, settings: Settings) -> None:
    """List the revisions that were pushed, the newest last.

    A star marks the active one. The bucket keeps the last 200.
    """
    found = run_with_bucket(settings, PolicyBucket.revisions)
    if format_ == "json":
        print_json(revisions_document(bucket_name(settings), found))
    else:
        show_revisions(stdout(), found)


@click.command(epilog=examples("mss diff 2 current", "mss diff current rules"))
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@with_settings
def diff(old: str, new: str, settings: Settings) -> None:
    """Show the difference of two policies as a unified diff.

    OLD and NEW are folders, or revisions that were pushed: a number, a revision as mss check prints it,
    or "current" for the active one.
    """
    folders = {name: read_folder(Path(name)) for name in (old, new) if Path(name).is_dir()}

    async def fetch(bucket: PolicyBucket) -> dict[str, Files]:
        pushed = await bucket.revisions()
        return {name: await bucket.files(pushed.resolve(name)) for name in (old, new) if name not in folders}

    if len(folders) < len({old, new}):
        folders |= run_with_bucket(settings, fetch)
    show_difference(stdout(), policy_diff(folders[old].contents, folders[new].contents, (old, new)))


def _checked(settings: Settings, folder: Path) -> Files:
    """Return the files of a policy. If it may not be served, print why and exit with code 1."""
    files = read_folder(folder)
    policy = load_files(files)
    rulebook = rulebook_of(folder, policy)
    results = [run_case(rulebook, case) for case in policy.cases] if settings.require_tests else []
    if not all(result.ok for result in results):
        covered = coverage(rulebook, (plan for result in results for plan in result.plans))
        show_tests(stdout(), str(folder), results, covered)
        sys.exit(1)
    return files


async def _push(bucket: PolicyBucket, *, files: Files, folder: Path, who: str, message: str) -> str:
    try:
        before = await bucket.revisions()
    except InvalidBucket:  # this push repairs the pointer; it continues from the last readable one
        before = next(iter(await bucket.previous_pointers()), Revisions())
    else:
        active = before.active
        if active and active.revision == files.revision and await _has_all_files(bucket, before):
            return f"{folder}: nothing has changed, {active} is active"
    after = await bucket.push(files, before, who=who, at=now(), message=message)
    was = f", before {before.active}" if before.active else ""
    return f"{folder}: {after.require()} is active{was}"


async def _has_all_files(bucket: PolicyBucket, revisions: Revisions) -> bool:
    try:
        await bucket.files(revisions.require())
    except InvalidBucket:
        return False
    return True


async def _activate(bucket: PolicyBucket, *, name: str, who: str) -> str:
    before = await bucket.revisions()
    target = before.previous() if name == _PREVIOUS else before.resolve(name)
    if target.number == before.current:
        return f"nothing has changed, {target} is active"
    await bucket.files(target)  # otherwise the replicas would follow a revision whose files are missing
    await bucket.activate(target.number, before, who=who, at=now())
    return f"{target} is active, before {before.require()}"


def _current_user() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # in a container, the user may have no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def show_revisions(console: Console, revisions: Revisions) -> None:
    """Print a table, the newest revision last, with a star at the active one."""
    rows = []
    for each in revisions.pushed:
        mark, style = ("*", "bold green") if each.number == revisions.current else (" ", "")
        number = Text(f"{mark} {each.number}", style)
        rows.append((number, each.revision, local(each.at), each.who, each.message))
    show_table(console, ("  number", "revision", "pushed", "author", "message"), rows)
    active = revisions.active
    if active is not None and revisions.moved_at != active.at:
        since = f"{active} is active since {local(revisions.moved_at)}, by {revisions.moved_by}"
        console.print(harmless(since, "dim"), soft_wrap=True)


def revisions_document(bucket: str, revisions: Revisions) -> dict[str, Any]:
    """Return what ``mss revisions --format json`` prints."""
    return {
        "bucket": bucket,
        "current": revisions.current,
        "since": iso_time(revisions.moved_at),
        "by": revisions.moved_by,
        "revisions": [
            {
                **attributes(each, "number", "revision", "who", "message"),
                "current": each.number == revisions.current,
                "at": iso_time(each.at),
                "before": each.parent,
                "bytes": each.size,
            }
            for each in revisions.pushed
        ],
    }


def show_difference(console: Console, lines: Iterable[str]) -> None:
    """Print a unified diff."""
    for line in lines:
        bold = line.startswith(("--- ", "+++ "))
        console.print(harmless(line, "bold" if bold else _COLOURS.get(line[:1], "")), soft_wrap=True)
