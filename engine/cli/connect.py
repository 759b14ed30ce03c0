"""Connect a command to the broker: one attempt with a limit, no log, and exit codes for failures.

This is not part of ``common``, because importing the client takes time.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import click
import nats.errors

import msc

from ..broker import Broker, Topology, connect, connect_options
from ..model.errors import BrokerError, MssError, NotPermitted, PolicyError, innermost
from ..model.messages import Kind
from ..settings import Settings
from . import output
from .common import stderr

T = TypeVar("T")

_CONNECT_LIMIT = 10.0  # seconds


def run(work: Callable[[], Coroutine[Any, Any, T]], folder: str = "", *, fast: bool = False) -> T:
    """Run ``work``. An error of MSS or of the client becomes a message and exit code 1.

    ``fast`` asks for the faster event loop, if it is installed.
    """
    try:
        with asyncio.Runner(loop_factory=_fast_loop() if fast else None) as runner:
            return runner.run(work())
    except PolicyError as error:
        output.show_problems(stderr(), folder, error.problems)
        count = output.count(len(error.problems), "error")
        raise click.ClickException(f"{folder}: the policy has {count}") from error
    except (MssError, msc.MscError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except BaseExceptionGroup as group:
        expected, bugs = group.split((MssError, msc.MscError, OSError))
        if bugs is not None or expected is None:
            raise
        raise click.ClickException(str(innermost(expected))) from group


def run_connected(settings: Settings, work: Callable[[Broker], Awaitable[T]]) -> T:
    """Connect to the broker, run ``work`` and close the connection, with the exit codes of `run`."""

    async def connected() -> T:
        async with connect_to_broker(settings) as broker:
            return await work(broker)

    return run(connected)


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 -- not on every system, and too slow to load for short commands
    except ImportError:
        return None
    return uvloop.new_event_loop


async def reload_by_signal(reload: Callable[[], Awaitable[object]]) -> None:
    """Call ``reload`` at each SIGHUP, until cancelled."""
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    while True:
        await asked.wait()
        asked.clear()
        await reload()


def ended_by_signal() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    return ended


async def run_until(stop: asyncio.Event, work: Coroutine[Any, Any, T], *, name: str) -> T | None:
    """Return the result of ``work``. If ``stop`` is set first, cancel ``work`` and return None."""
    working = asyncio.create_task(work, name=name)
    stopped = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if working.done():
        return await working
    working.cancel()
    await asyncio.wait((working,))
    return None


@asynccontextmanager
async def connect_to_broker(settings: Settings) -> AsyncIterator[Broker]:
    """Connect with the login of the server. Raises BrokerError if no server answers within the limit."""
    options = connect_options(settings)
    try:
        async with asyncio.timeout(_CONNECT_LIMIT):
            connection = await connect(options)
    except TimeoutError:
        raise BrokerError(f"no NATS server answers at {', '.join(options['servers'])}") from None
    # The command itself reports what the broker does not permit.
    log = logging.getLogger("engine.broker")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield Broker(connection, Topology.of(settings))
    except nats.errors.Error as error:
        raise BrokerError(f"NATS: {str(error) or type(error).__name__}") from error
    finally:
        await connection.close()
        log.setLevel(before)


def warn_hidden(hidden: Mapping[Kind, NotPermitted]) -> None:
    """Report which kinds are not shown, and why."""
    for kind, error in hidden.items():
        output.warn(f"{kind}: not shown, because NATS does not permit it: {error}")
