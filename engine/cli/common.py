"""What the commands share: options, consoles, reading what is given."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from .. import report
from ..errors import SettingsError
from ..settings import Settings, load_settings

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


def stdout() -> Console:
    return Console(highlight=False)


def stderr() -> Console:
    return Console(stderr=True, highlight=False)


def settings_of(config: Path | None) -> Settings:
    try:
        return load_settings(config)
    except SettingsError as error:
        report.show_problems(stderr(), "", error.problems)
        sys.exit(1)


def payload_of(file: Any) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number")  # the server refuses it too

    try:
        return json.loads(file.read(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--payload: no JSON: {error}") from error
