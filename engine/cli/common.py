"""What the commands share: options, consoles, running and failing."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

import msc

from .. import report
from ..errors import MssError, PolicyError, SettingsError, innermost
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

T = TypeVar("T")


def out() -> Console:
    return Console(highlight=False)


def err() -> Console:
    return Console(stderr=True, highlight=False)


def run(work: Callable[[], Coroutine[Any, Any, T]], folder: str = "", *, fast: bool = False) -> T:
    """Run ``work``; what MSS or the client raises on purpose becomes words and exit code 1.

    ``fast`` asks for the quicker event loop, where it is installed.
    """
    try:
        with asyncio.Runner(loop_factory=_fast_loop() if fast else None) as runner:
            return runner.run(work())
    except PolicyError as error:
        report.show_problems(err(), folder, error.problems)
        raise click.ClickException(f"{folder}: the policy has {len(error.problems)} errors") from error
    except (MssError, msc.MscError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except BaseExceptionGroup as group:
        meant, bugs = group.split((MssError, msc.MscError, OSError))
        if bugs is not None or meant is None:
            raise
        raise click.ClickException(str(innermost(meant))) from group


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 -- not everywhere, and not for commands that are over in a moment
    except ImportError:
        return None
    return uvloop.new_event_loop


def settings_of(config: Path | None) -> Settings:
    try:
        return load_settings(config)
    except SettingsError as error:
        report.show_problems(err(), "", error.problems)
        sys.exit(1)


def payload_of(file: Any) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number")  # the server refuses it too

    try:
        return json.loads(file.read(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--payload: no JSON: {error}") from error


async def reload_by_signal(reload: Callable[[], Awaitable[object]]) -> None:
    """Call ``reload`` at each SIGHUP; for ever, until cancelled."""
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    while True:
        await asked.wait()
        asked.clear()
        await reload()


def ended_by_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    return ended
