"""``mss check`` and ``mss schema``: a policy before it is live."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import click

from .. import report, schemas
from ..loader import MAX_FILE, load_bytes, load_policy
from ..report.check import github_lines, sarif_document
from ..spelling import nearest
from .common import stdout

FORMATS = ["text", "json", "github", "sarif"]
STDIN = "<stdin>"


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("rules"))
@click.option(
    "--format", "format_", type=click.Choice(FORMATS), default="text", show_default=True,
    help="github: annotations; sarif: for code scanning.",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
def check(folder: Path, format_: str, strict: bool) -> None:
    """Check a policy and name every problem with file, line and column.

    DIR is the policy's folder, by default rules; - is a policy of one file on standard input.
    docs/problems.md explains every code. ${NAME} in channels is taken from the environment: set what
    they need, or give a default, as ${NAME:-text}.

    Exit code 0: it can be served (with --strict: and there is no warning); 1: it cannot.
    """
    texts: dict[str, str] = {}
    name = str(folder)
    if name == "-":
        data = sys.stdin.buffer.read(MAX_FILE + 1)
        texts, name = {STDIN: data.decode(errors="replace")}, ""
        policy = load_bytes(data, STDIN)
    else:
        policy = load_policy(folder)
    if format_ == "json":
        click.echo(report.as_json(report.check_document(name, policy)))
    elif format_ == "sarif":
        click.echo(report.as_json(sarif_document(name, policy.problems, version("mss-server"))))
    elif format_ == "github":
        for line in github_lines(name, policy.problems):
            click.echo(line)
    else:
        report.show_check(stdout(), name, policy, texts)
    if not policy.ok or (strict and any(problem.severity == "warning" for problem in policy.problems)):
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
