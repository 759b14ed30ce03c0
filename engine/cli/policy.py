"""``mss check`` and ``mss schema``: a policy before it is live."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .. import report, schemas
from ..loader import load_policy
from ..spelling import nearest
from .common import out


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("rules"))
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
def check(folder: Path, format_: str, strict: bool) -> None:
    """Check a policy and name every problem with file, line and column."""
    policy = load_policy(folder)
    if format_ == "json":
        click.echo(report.as_json(report.check_document(str(folder), policy)))
    else:
        report.show_check(out(), str(folder), policy)
    if not policy.ok or (strict and policy.problems):
        sys.exit(1)


@click.command()
@click.argument("name", default="")
def schema(name: str) -> None:
    """Print the JSON Schema NAME; without a name, the names."""
    if not name:
        click.echo("\n".join(schemas.names()))
        return
    if name not in schemas.names():
        hint = nearest(name, schemas.names())
        raise click.UsageError(f"no schema {name!r}{'; ' + hint if hint else ''}")
    click.echo(report.as_json(schemas.load(name)))
