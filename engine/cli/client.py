"""``mss publish`` and ``mss request``: act as a client."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import click

import msc

from ..model.messages import Kind
from ..settings import Settings
from .common import event_option, examples, payload_option, timeout_option, with_settings
from .connect import run
from .output import print_json


@click.command(
    epilog=examples(
        """echo '{"who": "Ada"}' | mss publish --event notice.coffee --payload -""",
        "mss publish --event audit.login --payload event.json --confirm",
    )
)
@event_option(*Kind, example="notice.login.abnormal")
@payload_option()
@click.option("--confirm", is_flag=True, help="Wait until a stream has stored the event.")
@with_settings
def publish(name: str, payload: Any, confirm: bool, settings: Settings) -> None:
    """Publish an event and print its reqid."""
    kind, _, key = name.partition(".")

    async def main() -> str:
        async with client_of(settings) as client:
            if kind == Kind.LOG:
                return await client.log(payload, key, confirm=confirm)
            send = client.notice if kind == Kind.NOTICE else client.audit
            return await send(key, payload, confirm=confirm)

    click.echo(run(main))


@click.command(
    epilog=examples(
        "mss request --event action.preferences.get --payload user.json",
        "mss request --event action.iplocation --payload address.json --timeout 5",
    )
)
@event_option("action", example="action.iplocation")
@payload_option()
@timeout_option(60.0, "How long to wait for the reply.")
@with_settings
def request(name: str, payload: Any, timeout: float, settings: Settings) -> None:
    """Request an action and print the payload of the reply."""

    async def main() -> Any:
        async with client_of(settings) as client:
            return await client.request(name.removeprefix("action."), payload, timeout=timeout)

    print_json(run(main))


def client_of(settings: Settings) -> AbstractAsyncContextManager[msc.Client]:
    """Return a client with the rights of the server, to enter."""
    return msc.connect(list(settings.servers), prefix=settings.prefix, name="mss", **settings.access)
