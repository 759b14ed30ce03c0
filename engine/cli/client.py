"""``mss publish`` and ``mss request``: act as a client."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import click

import msc

from ..settings import Settings
from . import output
from .common import CONFIG, PAYLOAD, SERVER, payload_of, settings_of
from .connect import run


@click.command()
@click.argument("kind", type=click.Choice(["notice", "audit", "log"]))
@click.argument("key", default="")
@PAYLOAD
@CONFIG
@SERVER
@click.option("--confirm", is_flag=True, help="Wait until a stream has stored the event.")
def publish(
    kind: str, key: str, payload_file: Any, config: Path | None, server: str | None, confirm: bool
) -> None:
    """Announce an event; prints its reqid."""
    payload = payload_of(payload_file)
    if kind != "log" and not key:
        raise click.UsageError(f"a {kind} needs a KEY")

    async def main() -> str:
        async with client_of(settings_of(config), server) as client:
            if kind == "log":
                return await client.log(payload, key, confirm=confirm)
            send = client.notice if kind == "notice" else client.audit
            return await send(key, payload, confirm=confirm)

    click.echo(run(main))


@click.command()
@click.argument("key")
@PAYLOAD
@CONFIG
@SERVER
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for the reply.")
def request(key: str, payload_file: Any, config: Path | None, server: str | None, timeout: float) -> None:
    """Request an action; prints the reply's payload."""
    payload = payload_of(payload_file)

    async def main() -> Any:
        async with client_of(settings_of(config), server) as client:
            return await client.request(key, payload, timeout=timeout)

    click.echo(output.as_json(run(main)))


def client_of(settings: Settings, server: str | None) -> AbstractAsyncContextManager[msc.Client]:
    servers = server or list(settings.servers)
    return msc.connect(servers, prefix=settings.prefix, name="mss", **settings.access)
