"""Shared by the commands: options, consoles, logging, and a policy to work on.

It does not import the client, which takes longer to load than a small policy to check.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..model.errors import SettingsError
from ..policy.loader import Policy
from ..rules.rulebook import Rulebook
from ..settings import Settings, load_settings
from . import output

CONFIG = click.option(
    "-c",
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Settings; default: mss.yaml if it is there.",
)
PAYLOAD = click.option(
    "--payload",
    "payload_file",
    type=click.File("rb"),
    required=True,
    help="A file of JSON; - is standard input.",
)
SERVER = click.option("--server", help="The NATS server, instead of the one in the settings.")

FOLDER = click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("rules"))


def stdout() -> Console:
    return Console(highlight=False)


def stderr() -> Console:
    return Console(stderr=True, highlight=False)


def settings_of(config: Path | None) -> Settings:
    try:
        return load_settings(config)
    except SettingsError as error:
        output.show_problems(stderr(), "", error.problems)
        sys.exit(1)


def payload_of(file: Any) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number")  # the server refuses it too

    try:
        return json.loads(file.read(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--payload: no JSON: {error}") from error


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def log_to_stderr(level: str, format_: str) -> None:
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
    handler.setFormatter(_JsonLines() if format_ == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It tells each change of a file: a log that is written beside mss.yaml would tell of itself for ever.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)


def rulebook_of(
    folder: Path | str, policy: Policy, *, json: bool = False, console: Console | None = None
) -> Rulebook:
    """The rulebook; without one its problems are shown as ``mss check`` shows them, and that is all."""
    if policy.rulebook is not None:
        return policy.rulebook
    if json:
        click.echo(output.as_json(output.check_document(str(folder), policy)))
    else:
        output.show_check(console or stdout(), str(folder), policy)
    sys.exit(1)
