"""A real nats-server that can be killed, restarted on its port, and reloaded."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

PROGRAM = Path(sys.executable).parent / "nats-server"
LIMIT = 30.0  # seconds that anything may take; reached only when it is broken


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Broker:
    """A nats-server. ``settings`` is added to its configuration file."""

    folder: Path
    settings: str = ""
    port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def write(self, settings: str) -> None:
        self.settings = settings
        self.folder.mkdir(parents=True, exist_ok=True)
        store = json.dumps(str(self.folder / "data"))
        head = f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: {store} }}\n'
        (self.folder / "nats.conf").write_text(head + settings)

    async def start(self) -> None:
        self.write(self.settings)
        with (self.folder / "log").open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                str(PROGRAM), "-c", str(self.folder / "nats.conf"), stdout=output, stderr=output
            )
        async with asyncio.timeout(LIMIT):
            while not await self._greets():
                assert self.process.returncode is None, (self.folder / "log").read_text()
                await asyncio.sleep(0.02)

    async def _greets(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            if "handshake_first" in self.settings:  # it says nothing before
                return True
            return (await reader.readline()).startswith(b"INFO")
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGSTOP:  # it goes on for a moment, and may still answer
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@dataclass
class Heard:
    """The messages that a plain NATS subscriber has received."""

    messages: list[Msg] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, message: Msg) -> None:
        self.messages.append(message)
        self._changed.set()

    async def wait_for(self, count: int) -> list[Msg]:
        async with asyncio.timeout(LIMIT):
            while len(self.messages) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.messages

    @property
    def payloads(self) -> list[Any]:
        return [json.loads(message.data)["payload"] for message in self.messages]


async def quiet(_error: Exception) -> None:
    """Ignore errors of nats-py: the tests cause outages."""


@asynccontextmanager
async def plain(broker: Broker, **options: Any) -> AsyncIterator[Client]:
    """Return a plain NATS connection."""
    client = await nats.connect(
        broker.url, error_cb=quiet, max_reconnect_attempts=-1, reconnect_time_wait=0.05, **options
    )
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def listening(broker: Broker, subject: str, **options: Any) -> AsyncIterator[Heard]:
    """Collect what is published on ``subject``."""
    heard = Heard()
    async with plain(broker, **options) as client:
        await client.subscribe(subject, cb=heard.take)
        await client.flush()
        yield heard


async def until(condition: Callable[[], bool], what: str) -> None:
    """Poll a condition, with a time limit."""
    try:
        async with asyncio.timeout(LIMIT):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"never: {what}") from None
