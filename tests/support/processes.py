"""Servers as separate processes, ``mss serve`` and nats-server, and the options of their clients."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nats.js import JetStreamContext
from support import fork_server
from support.waiting import LIMIT, until

from engine.broker.embedded import find_program


@dataclass
class Engine:
    """``mss serve`` as a separate process."""

    config: Path
    environment: Mapping[str, str]
    process: fork_server.Process | None = None
    log: list[str] = field(default_factory=list)
    _reading: asyncio.Task[None] | None = None
    _serving: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        """Start it and return once it handles events."""
        self._serving.clear()
        self.process = await fork_server.start(
            "serve", "-c", str(self.config), environment={**os.environ, **self.environment}
        )
        self._reading = asyncio.create_task(self._read())
        async with asyncio.timeout(LIMIT):
            await self._serving.wait()
        assert any(" serving " in line for line in self.log), "".join(self.log)

    async def _read(self) -> None:
        assert self.process is not None
        async for line in self.process.stderr:
            self.log.append(line.decode())
            if b" serving " in line:
                self._serving.set()
        self._serving.set()  # it ended: start() then fails

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(LIMIT):
            code = await self.process.wait()
        if self._reading is not None:
            await self._reading
        return code


def write_config(folder: Path, address: str, rules: Path, **more: Any) -> Path:
    """Write an mss.yaml for tests, as JSON, which is YAML."""
    settings = {"servers": address, "rules": str(rules), "metrics": False, "ack_wait": "2s"}
    # A test that changes its files requests the reload itself.
    settings |= {"reload": {"watch": False}, **more}
    path = folder / "mss.yaml"
    path.write_text(json.dumps(settings))
    return path


class NatsServer:
    """A nats-server that can be killed and restarted with its store and port."""

    def __init__(self, folder: Path, config: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"nats://127.0.0.1:{self.port}"
        self.config = config
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and return once it accepts connections."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "nats.conf"
        config.write_text(self.config)
        with (self.folder / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                find_program(), "-c", str(config), "-js", "-sd", str(self.folder / "store"),
                "-a", "127.0.0.1", "-p", str(self.port), stdout=log, stderr=log,
            )  # fmt: skip
        await until(self._listens, what="nats-server listens")

    async def _listens(self) -> bool:
        assert self._process is not None and self._process.returncode is None, (
            self.folder / "log"
        ).read_text()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        ready = (await reader.readline()).startswith(b"INFO")
        writer.close()
        return ready

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()


async def unfinished(js: JetStreamContext, stream: str) -> int:
    """Return how many messages of a stream are not done.

    The event streams keep planned events, so there the planner's consumer counts.
    """
    if stream not in ("MSS_NOTICE", "MSS_AUDIT", "MSS_LOG"):
        return int((await js.stream_info(stream)).state.messages)
    info = await js.consumer_info(stream, "mss-planner")
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def client_options(server: NatsServer) -> dict[str, object]:
    """Return the options of nats-py for a client that reconnects quickly."""
    return {
        "servers": [server.address],
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.1,
        "pending_size": 8 * 1024 * 1024,
    }
