"""Options, consoles, logging and the loaded policy that commands share.

This module does not import the client, because that takes longer than checking a small policy.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from rich.console import Console

from ..model.errors import SettingsError
from ..model.messages import Event, Kind
from ..model.subjects import valid_key
from ..model.times import parse_duration
from ..policy.loader import Policy
from ..rules.rulebook import Rulebook
from ..runtime import now
from ..settings import Settings, load_settings
from . import output

F = TypeVar("F", bound=Callable[..., Any])

DIRECTORY = click.Path(file_okay=False, path_type=Path)

# A command whose subject is one policy takes it as an argument; every other command as ``--rules``.
FOLDER = click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("rules"))

CONFIG = click.option(
    "-c", "--config", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
    show_default="mss.yaml, if it exists", help="The settings.",
)  # fmt: skip
SERVER = click.option("--server", metavar="URL", help="The NATS server, instead of the one in the settings.")


def options(*wanted: Callable[[F], F]) -> Callable[[F], F]:
    """Make one decorator of several options; help lists them in this order."""

    def decorate(command: F) -> F:
        for option in reversed(wanted):
            command = option(command)
        return command

    return decorate


def with_settings(command: F) -> F:
    """Add ``--config`` and ``--server``; the command gets the ``settings`` that result from them."""

    @wraps(command)
    def call(*args: Any, config: Path | None, server: str | None, **named: Any) -> Any:
        settings = settings_of(config)
        return command(*args, settings=replace(settings, servers=(server,)) if server else settings, **named)

    return cast(F, CONFIG(SERVER(call)))


def format_option(*formats: str, note: str = "") -> Callable[[F], F]:
    """``--format``; the first of ``formats`` is the default."""
    return click.option(
        "--format", "format_", type=click.Choice(formats), default=formats[0],
        help=f"The output format.{note and ' '}{note}",
    )  # fmt: skip


TEXT_OR_JSON = format_option("text", "json")


def payload_option(*, required: bool = True) -> Callable[[F], F]:
    """``--payload``, a file of JSON; the command gets the decoded value, or None."""
    return click.option(
        "--payload", metavar="FILE", type=click.File("rb"), required=required, callback=_decode_payload,
        help="The payload as JSON; - reads standard input.",
    )  # fmt: skip


def _decode_payload(_context: click.Context, _option: click.Parameter, file: Any) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not a number")  # the server refuses it too

    try:
        return None if file is None else json.loads(file.read(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"invalid JSON: {error}") from error


def event_option(*kinds: str, example: str) -> Callable[[F], F]:
    """``--event KIND.KEY``, of one of ``kinds``; the command gets the name, which is valid."""

    def check(_context: click.Context, _option: click.Parameter, name: str) -> str:
        kind, _, key = name.partition(".")
        if kind not in kinds or not (valid_key(key) if key else name == Kind.LOG):
            raise click.BadParameter(f"{name!r} is not KIND.KEY, such as {example}")
        return name

    return click.option(
        "--event", "name", metavar="KIND.KEY", required=True, callback=check, help=f"For example {example}."
    )


def since_option(help_: str, default: str | None = None) -> Callable[[F], F]:
    """``--since DURATION``; the command gets a time in microseconds since the epoch, 0 without the option."""

    def parse(_context: click.Context, _option: click.Parameter, duration: str | None) -> int:
        try:
            return now() - round(parse_duration(duration) * 1e6) if duration else 0
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return click.option("--since", metavar="DURATION", default=default, callback=parse, help=help_)


def timeout_option(seconds: float, help_: str) -> Callable[[F], F]:
    """``--timeout SECONDS``."""
    return click.option(
        "--timeout", metavar="SECONDS", type=click.FloatRange(min=0, min_open=True), default=seconds,
        help=help_,
    )  # fmt: skip


def examples(*lines: str) -> str:
    """Return the end of a command's help."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))


def event_of(rulebook: Rulebook, name: str, payload: Mapping[str, Any], at: int) -> Event:
    """Return an event that was sent and received at ``at``, with the payload in its canonical form."""
    kind, _, key = name.partition(".")
    payload = rulebook.catalogue.canonical(name, payload)
    return Event(kind=Kind(kind), key=key, reqid="0" * 32, payload=payload, sent=at, received=at)


def stdout() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


def stderr() -> Console:
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def settings_of(config: Path | None) -> Settings:
    """Load the settings. If they have problems, print these and exit with code 1."""
    try:
        return load_settings(config)
    except SettingsError as error:
        output.show_problems(stderr(), "", error.problems)
        sys.exit(1)


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
    """Write log lines of ``level`` and above to standard error, as text or as JSON."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
    handler.setFormatter(_JsonLines() if format_ == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It logs each change of a file. If the log file is in a watched folder, each line would cause another.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)


def rulebook_of(
    folder: Path | str, policy: Policy, *, json: bool = False, console: Console | None = None
) -> Rulebook:
    """Return the compiled policy. If it has errors, print them as ``mss check`` does and exit with code 1."""
    if policy.rulebook is not None:
        return policy.rulebook
    if json:
        output.print_json(output.check_document(str(folder), policy))
    else:
        output.show_check(console or stdout(), str(folder), policy)
    sys.exit(1)
