"""Servers in this process, and requests as the Go client makes them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from support.locations import ROOT
from support.waiting import LIMIT
from support.wire_messages import envelope

from engine.policy.loader import load_policy
from engine.server.reload import Reloader
from engine.server.server import Server
from engine.settings import Settings

PREFIX = "kiam.console.action"


@asynccontextmanager
async def serving(
    address: str, environment: dict[str, str], *, rules: Path = ROOT / "rules", **settings: Any
) -> AsyncIterator[Server]:
    """Run a server in this process, by default with the example policy."""
    server = Server(
        settings=Settings(servers=(address,), metrics="", ack_wait=2.0, **settings),
        rulebook=load_policy(rules, environment).require(),
    )
    reloader = Reloader(
        server=server, settings=lambda: server.settings, load=lambda _: load_policy(rules, environment)
    )
    assert reloader.server.commands  # it accepts commands to reload and to check
    stop = asyncio.Event()
    running = asyncio.create_task(server.run(stop))
    ready = asyncio.create_task(server.ready.wait())
    async with asyncio.timeout(LIMIT):
        await asyncio.wait((running, ready), return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if running.done():
        await running
    try:
        yield server
    finally:
        stop.set()
        async with asyncio.timeout(LIMIT):
            await running


async def ask(
    client: Client, key: str, payload: Any, *, reqid: str | None = None, limit: float = LIMIT
) -> dict[str, Any]:
    """Return the reply to one request, after the checks of the Go client."""
    reqid = uuid4().hex if reqid is None else reqid
    msg = await client.request(f"{PREFIX}.{key}", envelope(payload, reqid=reqid), timeout=limit)
    return checked(msg.data, reqid)


def checked(data: bytes, reqid: str) -> dict[str, Any]:
    """Return a reply after the checks of the Go client."""
    reply: dict[str, Any] = json.loads(data)
    assert list(reply) == ["version", "time", "reqid", "code", "message", "payload"]
    assert reply["version"] == "0.1.1" and reply["reqid"] == reqid
    assert type(reply["time"]) is int and reply["time"] <= time.time() * 1e6
    assert type(reply["code"]) is int and isinstance(reply["message"], str)
    assert reply["payload"] is None or isinstance(reply["payload"], dict)
    return reply


def verify(number: int = 1, **more: Any) -> dict[str, Any]:
    """Return the payload of a request to verify the address of user ``number``."""
    return {
        "subject": "Verify your email",
        "userid": f"u{number}",
        "to": f"u{number}@example.com",
        "href": f"https://iam.example.com/v?token=secret-{number}",
        "locale": "en",
        "expire": "24 hours",
        **more,
    }


async def end_subscription(client: Client, subscription: Subscription) -> None:
    """End the subscription of another program without the loss of a message.

    The broker can deliver one more message after its answer, which the drain of nats-py drops.
    """
    await client._send_unsubscribe(subscription._id)
    await client.flush()
    await asyncio.sleep(0.25)
    await subscription.drain()
