"""``mss check``, with output for GitHub and in SARIF; ``mss schema``; ``mss init``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

import click

from ..documents import schemas
from ..model.errors import MssError
from ..model.problems import CODES, Problem
from ..model.wording import nearest
from ..policy.loader import MAX_FILE, load_bytes, load_policy
from . import output
from .common import FOLDER, examples, format_option, stdout
from .output import file_of, print_json

STDIN = "<stdin>"

SARIF_VERSION = "2.1.0"
_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_GITHUB = {"error": "error", "warning": "warning", "info": "notice"}
_SARIF = {"error": "error", "warning": "warning", "info": "note"}

_STARTER = Path(__file__).parent / "starter"
_SCHEMA_FILE = "policy.schema.json"  # the first line of each file names it, so no network is needed


@click.command(
    epilog=examples(
        "mss check",
        "mss check shop --strict",
        "mss check shop --format sarif > policy.sarif",
        "mss check - < policy.yaml",
    )
)
@FOLDER
@format_option("text", "json", "github", "sarif", note="github: annotations; sarif: code scanning.")
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
def check(folder: Path, format_: str, strict: bool) -> None:
    """Check a policy and show every problem with its place.

    DIR is the policy; by default, the folder rules. With -, the command reads a policy of one file from
    standard input. docs/problems.md explains every code. A channel takes ${NAME} from the environment: set
    the variable, or write a default, as in ${NAME:-text}.

    Exit code 1: the policy has errors. With --strict: or warnings.
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
        print_json(output.check_document(name, policy))
    elif format_ == "sarif":
        print_json(sarif_document(name, policy.problems, version("mss-server")))
    elif format_ == "github":
        for line in github_lines(name, policy.problems):
            click.echo(line)
    else:
        output.show_check(stdout(), name, policy, texts)
    if not policy.ok or (strict and any(problem.severity == "warning" for problem in policy.problems)):
        sys.exit(1)


@click.command(epilog=examples("mss schema", "mss schema policy > policy.schema.json"))
@click.argument("name", metavar="[NAME]", default="")
def schema(name: str) -> None:
    """Print a JSON Schema; without NAME, list the schemas."""
    if not name:
        click.echo("\n".join(schemas.names()))
        return
    if name not in schemas.names():
        hint = nearest(name, schemas.names())
        raise click.UsageError(f"no schema {name!r}{'; ' + hint if hint else ''}")
    print_json(schemas.load(name))


def github_lines(folder: str, problems: Iterable[Problem]) -> Iterator[str]:
    """Yield a workflow command for each problem; GitHub shows it at its line."""
    for problem in problems:
        place = problem.place
        properties = {
            "file": file_of(folder, place.file),
            "line": str(place.line),
            "col": str(place.column),
            "title": problem.code,
        }
        listed = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
        hint = f" ({problem.hint})" if problem.hint else ""
        yield f"::{_GITHUB[problem.severity]} {listed}::{_data(problem.message + hint)}"


def sarif_document(folder: str, problems: Iterable[Problem], version: str) -> dict[str, Any]:
    """Return a SARIF log with one run; ``version`` is the version of the command."""
    found = list(problems)
    codes = sorted({problem.code for problem in found})
    return {
        "$schema": _SARIF_SCHEMA,
        "version": SARIF_VERSION,
        "runs": [
            {
                "tool": {
                    "driver": {"name": "mss", "version": version, "rules": [_rule(code) for code in codes]}
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(folder, problem, codes.index(problem.code)) for problem in found],
            }
        ],
    }


def _rule(code: str) -> dict[str, Any]:
    known = CODES.get(code)
    rule: dict[str, Any] = {"id": code}
    if known is not None:
        rule["shortDescription"] = {"text": known.meaning}
        rule["defaultConfiguration"] = {"level": _SARIF[known.severity]}
    return rule


def _result(folder: str, problem: Problem, index: int) -> dict[str, Any]:
    place = problem.place
    hint = f" ({problem.hint})" if problem.hint else ""
    return {
        "ruleId": problem.code,
        "ruleIndex": index,
        "level": _SARIF[problem.severity],
        "message": {"text": problem.message + hint},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": _uri(file_of(folder, place.file))},
                    "region": {"startLine": place.line, "startColumn": place.column},
                }
            }
        ],
    }


def _uri(file: str) -> str:
    path = PurePath(file)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


@click.command(epilog=examples("mss init shop"))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Write a first policy that you can edit.

    DIR must be empty or new. The policy has two channels, a rule, its templates in two languages, the
    schema of its event, and tests. mss check and mss test find no problem in it.
    """
    try:
        names = write_starter(folder)
    except (MssError, OSError) as error:
        raise click.ClickException(str(error)) from error
    for name in names:
        click.echo(f"  {folder / name}")
    click.echo(f"Next: mss check {folder}; mss test {folder}; then edit rules.yaml.")


def write_starter(folder: Path) -> list[str]:
    """Write the first policy into ``folder`` and return the names of its files.

    Raises MssError if ``folder`` exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MssError(f"{folder} exists and is not empty; nothing was written")
    sources = {p.relative_to(_STARTER).as_posix(): p.read_bytes() for p in _STARTER.rglob("*") if p.is_file()}
    sources[_SCHEMA_FILE] = (json.dumps(schemas.load("policy"), ensure_ascii=False, indent=2) + "\n").encode()
    for name, content in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return sorted(sources)
