"""Connect a command to the broker: one attempt with a limit, no log, and exit codes for failures.

Apart from ``common``, since the client takes time to import.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import click
import nats.errors

import msc
from msc.options import ConnectOptions

from ..broker import Connection, connect
from ..model.errors import BrokerError, MssError, NotPermitted, PolicyError, innermost
from ..model.messages import Kind
from ..settings import Settings
from . import output
from .common import stderr

T = TypeVar("T")

_REACH_LIMIT = 10.0  # seconds


def run(work: Callable[[], Coroutine[Any, Any, T]], folder: str = "", *, fast: bool = False) -> T:
    """Run ``work``; what MSS or the client raises on purpose becomes words and exit code 1.

    ``fast`` asks for the quicker event loop, where it is installed.
    """
    try:
        with asyncio.Runner(loop_factory=_fast_loop() if fast else None) as runner:
            return runner.run(work())
    except PolicyError as error:
        output.show_problems(stderr(), folder, error.problems)
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


@asynccontextmanager
async def connect_to_broker(settings: Settings, server: str | None) -> AsyncIterator[Connection]:
    """A connection as the server's own. Raises BrokerError when nobody answers within the limit."""
    if server:
        settings = replace(settings, servers=(server,))
    options = ConnectOptions(
        servers=settings.servers,
        name="mss",
        inbox_prefix=f"_INBOX_{settings.namespace}",
        **settings.access,
    ).to_nats()
    try:
        async with asyncio.timeout(_REACH_LIMIT):
            connection = await connect(options)
    except TimeoutError:
        raise BrokerError(f"no NATS server answers at {', '.join(options['servers'])}") from None
    # What the broker does not permit is told in our own words.
    log = logging.getLogger("engine.broker")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield connection
    except nats.errors.Error as error:
        raise BrokerError(f"NATS: {str(error) or type(error).__name__}") from error
    finally:
        await connection.close()
        log.setLevel(before)


def warn_hidden(hidden: Mapping[Kind, NotPermitted]) -> None:
    """Say which kinds are not shown, and why."""
    for kind, error in hidden.items():
        stderr().print(f"{kind}: not shown, NATS does not permit it: {error}", style="yellow", soft_wrap=True)
