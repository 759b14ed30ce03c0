"""Running what talks to a broker, and failing: apart from the rest, for the client takes time to import."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import click

import msc

from .. import report
from ..errors import MssError, PolicyError, innermost
from .common import stderr

T = TypeVar("T")


def run(work: Callable[[], Coroutine[Any, Any, T]], folder: str = "", *, fast: bool = False) -> T:
    """Run ``work``; what MSS or the client raises on purpose becomes words and exit code 1.

    ``fast`` asks for the quicker event loop, where it is installed.
    """
    try:
        with asyncio.Runner(loop_factory=_fast_loop() if fast else None) as runner:
            return runner.run(work())
    except PolicyError as error:
        report.show_problems(stderr(), folder, error.problems)
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
