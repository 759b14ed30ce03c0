"""What several tests need: an engine as a process, and wire messages as a Go client makes them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import warm

from engine.embedded import find_program

ROOT = Path(__file__).parents[1]
MSS = Path(sys.executable).parent / "mss"
LIMIT = 60.0  # seconds that anything may take; reached only when it is broken


def envelope(payload: Any, *, reqid: str | None = None, sent: int | None = None) -> bytes:
    """A message as the original client publishes it."""
    message = {
        "version": "0.1.1",
        "time": time.time_ns() // 1000 if sent is None else sent,
        "reqid": uuid4().hex if reqid is None else reqid,
        "payload": payload,
    }
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()


def login(number: int = 1, **more: Any) -> dict[str, Any]:
    """The payload of an abnormal login of person ``number``."""
    return {
        "userid": f"u{number}",
        "mailto": f"u{number}@example.com",
        "phone": f"+86138{number:08d}",
        "locale": "en",
        "ip": "203.0.113.9",
        "city": "Singapore",
        "result": "success",
        **more,
    }


@dataclass
class Engine:
    """``mss serve`` as a process of its own."""

    config: Path
    environment: Mapping[str, str]
    process: warm.Process | None = None
    log: list[str] = field(default_factory=list)
    _reading: asyncio.Task[None] | None = None
    _serving: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        """Start it and return once it takes events."""
        self._serving.clear()
        self.process = await warm.start(
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
        self._serving.set()  # ended: whoever waits for it finds out

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
    """An mss.yaml for tests; JSON is YAML."""
    settings = {"servers": address, "rules": str(rules), "metrics": False, "ack_wait": "2s"}
    # A test says itself when it wants its files to be read anew.
    settings |= {"reload": {"watch": False}, **more}
    path = folder / "mss.yaml"
    path.write_text(json.dumps(settings))
    return path


async def until(condition: Any, *, what: str) -> None:
    """Wait until ``condition()`` holds, looking every few milliseconds, with a limit."""
    try:
        async with asyncio.timeout(LIMIT):
            while not (await condition() if asyncio.iscoroutinefunction(condition) else condition()):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"never: {what}") from None


class NatsServer:
    """A nats-server that can be killed and started again on its store and port."""

    def __init__(self, folder: Path, config: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"nats://127.0.0.1:{self.port}"
        self.config = config
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and return once it takes connections."""
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

    def reconfigure(self, config: str) -> None:
        """Have it read another configuration."""
        assert self._process is not None
        (self.folder / "nats.conf").write_text(config)
        self._process.send_signal(signal.SIGHUP)

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def client_options(server: NatsServer) -> dict[str, object]:
    """nats-py's options for a client that comes back quickly."""
    return {
        "servers": [server.address],
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.1,
        "pending_size": 8 * 1024 * 1024,
    }
