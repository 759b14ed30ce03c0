"""Engines that serve one policy of one rule, events for them, and what those cost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nats
from support.locations import MSS
from support.processes import unfinished, write_config
from support.waiting import until
from support.wire_messages import envelope, login

from engine.broker.embedded import embedded_broker

SUBJECT = "kiam.console.notice.login.abnormal"
CONSOLE = {"one": {"type": "console", "concurrency": 64}, "two": {"type": "console", "concurrency": 64}}
WORDS = "New sign-in from {{ payload.city }} ({{ payload.ip }}), {{ payload.userid }}."
STAMP = re.compile(rb"stamp-([0-9]+)-")


def write_policy(
    folder: Path, channels: dict[str, Any], more: Mapping[str, Any], sections: Mapping[str, Any]
) -> Path:
    """One rule, with what ``more`` says, in a policy of these channels and ``sections``."""
    rules = folder / "rules"
    (rules / "templates" / "t").mkdir(parents=True)
    rule = {
        "id": "r", "event": "notice.login.abnormal", "template": "t", "when": {"result": "success"},
        "notify": list(channels), **more,
    }  # fmt: skip
    (rules / "policy.yaml").write_text(json.dumps({"channels": channels, "rules": [rule], **sections}))
    (rules / "templates" / "t" / "default.txt").write_text(f"---\nsubject: s\n---\n{WORDS}")
    return rules


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def broker_pid() -> int:
    """The nats-server among our children."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return next(int(p) for p in children if Path(f"/proc/{p}/comm").read_text().strip() == "nats-server")


@dataclass
class Bench:
    """Engines that serve one policy, and a client."""

    client: nats.NATS
    channels: list[str]
    engines: list[subprocess.Popen[bytes]]
    broker: int  # its process
    late: list[float] = field(default_factory=list)  # seconds until a line was printed
    people: int = sys.maxsize  # that events are about, in turn

    async def stored(self, stream: str) -> int:
        return int((await self.client.jetstream().stream_info(stream)).state.messages)

    def used(self) -> tuple[float, float]:
        return sum(cpu(engine.pid) for engine in self.engines), cpu(self.broker)

    async def publish(self, count: int, rate: float = 0.0) -> None:
        """``count`` events, ``rate`` a second; 0: as fast as it goes."""
        began = time.perf_counter()
        for number in range(count):
            city = f"stamp-{time.time_ns() // 1000}-"
            await self.client.publish(SUBJECT, envelope(login(number % self.people, city=city)))
            if rate:
                await asyncio.sleep(max(0.0, began + (number + 1) / rate - time.perf_counter()))
            elif number % 200 == 0:
                await asyncio.sleep(0)
        await self.client.flush(timeout=60)

    async def measured(self, count: int, done: Any) -> dict[str, float]:
        """Events/s and microseconds of processor time an event until ``done`` counts ``count``."""
        before, began = self.used(), time.perf_counter()
        await self.publish(count)
        while await done() < count:
            await asyncio.sleep(0.02)
        took, after = time.perf_counter() - began, self.used()
        return {
            "per_s": round(count / took),
            "engine_us": round((after[0] - before[0]) / count * 1e6),
            "broker_us": round((after[1] - before[1]) / count * 1e6),
        }

    async def plan(self, count: int) -> dict[str, float]:
        js, until_ = self.client.jetstream(), datetime.now(UTC) + timedelta(hours=1)
        for name in self.channels:
            await js.pause_consumer("MSS_DELIVERY", f"mss-channel-{name}", until_.isoformat())
        already = await self.stored("MSS_HISTORY")

        async def planned() -> int:
            waiting = await unfinished(js, "MSS_NOTICE")
            return 0 if waiting else await self.stored("MSS_HISTORY") - already  # no channel writes receipts

        result = await self.measured(count, planned)
        for name in self.channels:
            await js.resume_consumer("MSS_DELIVERY", f"mss-channel-{name}")
        while await self.stored("MSS_DELIVERY"):
            await asyncio.sleep(0.05)
        return result

    async def whole(self, count: int) -> dict[str, float]:
        already = await self.stored("MSS_HISTORY")
        entries = 1 + len(self.channels)

        async def received() -> int:
            return (await self.stored("MSS_HISTORY") - already) // entries

        return await self.measured(count, received)


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    channels: dict[str, Any],
    processes: int,
    *,
    listen: bool,
    rule: Mapping[str, Any] = MappingProxyType({}),
    sections: Mapping[str, Any] = MappingProxyType({}),
) -> AsyncIterator[Bench]:
    """``listen``: read what the console channels print, and note how late it is."""
    folder.mkdir()
    async with embedded_broker(folder / "nats") as address:
        policy = write_policy(folder, channels, rule, sections)
        config = write_config(folder, address, policy, ack_wait="30s", log={"level": "warning"})
        client = await nats.connect(address, pending_size=64 * 1024 * 1024)
        output = subprocess.PIPE if listen else subprocess.DEVNULL
        engines = [
            subprocess.Popen([str(MSS), "serve", "-c", str(config)], stdout=output) for _ in range(processes)
        ]
        bench = Bench(client, list(channels), engines, broker_pid())

        async def serves() -> bool:
            try:
                consumers = await client.jetstream().consumers_info("MSS_DELIVERY")
            except nats.js.errors.NotFoundError:
                return False
            return len(consumers) == len(channels) and all(c.num_waiting == processes for c in consumers)

        await until(serves, what="every engine pulls")
        if listen:
            loop = asyncio.get_running_loop()
            for engine in engines:
                assert engine.stdout is not None
                os.set_blocking(engine.stdout.fileno(), False)
                loop.add_reader(engine.stdout.fileno(), note, engine.stdout.fileno(), bench.late)
        try:
            yield bench
        finally:
            for engine in engines:
                engine.terminate()
            for engine in engines:
                engine.communicate()
            await client.close()


def note(descriptor: int, late: list[float]) -> None:
    now = time.time()
    with contextlib.suppress(BlockingIOError):
        late += [now - int(stamp) / 1e6 for stamp in STAMP.findall(os.read(descriptor, 1 << 16))]
