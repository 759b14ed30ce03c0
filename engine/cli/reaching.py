"""How the commands that look into the broker reach it: once, with a limit, and quietly."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import nats.errors

from msc.options import ConnectOptions

from ..broker import Connection, connect
from ..errors import BrokerError, NotPermitted
from ..model import Kind
from ..settings import Settings
from .common import stderr

_REACH_LIMIT = 10.0  # seconds


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
