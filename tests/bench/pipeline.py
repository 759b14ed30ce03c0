"""From events in a stream to receipts: how many a second, how late, at what cost.

    python tests/bench/pipeline.py [--events 6000] [--seconds 5] [--processes 1 2] [--json]

`mss serve` processes, one nats-server; history, archive and the marks are on. `plan` is from a burst in
the stream to stored deliveries, the channels at rest; `whole` to the receipts of two deliveries an
event, over console channels that print into nothing. `mail` is one mail an event, to a mail server in a
process of its own that keeps nothing: as fast as it goes, then at parts of that rate, from publish to
acceptance. `channel` is from publish to a console channel's line, two an event, at 500 events/s.

The bare subscriber is nats-py with a callback that only decodes the JSON, in this process, on the same
broker and in the same run: the ratio of the two is what to compare between machines, that of their processor time also where others use them. CPU is
user and system time; that of the broker includes what this benchmark asks it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nats

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from mails import most_memory, sink_process  # noqa: E402 -- found beside this file
from support import MSS, envelope, login, until, write_config  # noqa: E402 -- found beside this folder

from engine.embedded import embedded_broker  # noqa: E402

SUBJECT = "kiam.console.notice.login.abnormal"
CONSOLE = {"one": {"type": "console", "concurrency": 64}, "two": {"type": "console", "concurrency": 64}}
WORDS = "New sign-in from {{ payload.city }} ({{ payload.ip }}), {{ payload.userid }}."
STAMP = re.compile(rb"stamp-([0-9]+)-")
PARTS = (0.1, 0.5, 0.9)  # of the rate that is sustained
PACE = 500.0  # events/s


def write_policy(folder: Path, channels: dict[str, Any]) -> Path:
    rules = folder / "rules"
    (rules / "templates" / "t").mkdir(parents=True)
    rule = {
        "id": "r", "event": "notice.login.abnormal", "template": "t", "when": {"result": "success"},
        "notify": list(channels),
    }  # fmt: skip
    (rules / "policy.yaml").write_text(json.dumps({"channels": channels, "rules": [rule]}))
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

    async def stored(self, stream: str) -> int:
        return int((await self.client.jetstream().stream_info(stream)).state.messages)

    def used(self) -> tuple[float, float]:
        return sum(cpu(engine.pid) for engine in self.engines), cpu(self.broker)

    async def publish(self, count: int, rate: float = 0.0) -> None:
        """``count`` events, ``rate`` a second; 0: as fast as it goes."""
        began = time.perf_counter()
        for number in range(count):
            city = f"stamp-{time.time_ns() // 1000}-"
            await self.client.publish(SUBJECT, envelope(login(number, city=city)))
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
        already = await self.stored("MSS_ARCHIVE_NOTICE")

        async def planned() -> int:
            waiting = await self.stored("MSS_NOTICE")
            return 0 if waiting else await self.stored("MSS_ARCHIVE_NOTICE") - already

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
    folder: Path, channels: dict[str, Any], processes: int, *, listen: bool
) -> AsyncIterator[Bench]:
    """``listen``: read what the console channels print, and note how late it is."""
    folder.mkdir()
    async with embedded_broker(folder / "nats") as address:
        config = write_config(
            folder, address, write_policy(folder, channels), ack_wait="30s", log={"level": "warning"}
        )
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


async def bare_subscriber(address: str, count: int) -> tuple[float, float]:
    """Events/s of a nats-py subscriber that decodes the JSON and does nothing, and microseconds of each."""
    taking, giving = await nats.connect(address), await nats.connect(address)
    seen, all_seen = 0, asyncio.Event()

    async def take(msg: nats.aio.msg.Msg) -> None:
        nonlocal seen
        json.loads(msg.data)
        seen += 1
        if seen == count:
            all_seen.set()

    await taking.subscribe("bare", cb=take, pending_msgs_limit=-1, pending_bytes_limit=-1)
    await taking.flush()
    events = [envelope(login(n)) for n in range(count)]
    began, before = time.perf_counter(), time.process_time()
    for n, event in enumerate(events):
        await giving.publish("bare", event)
        if n % 500 == 0:
            await asyncio.sleep(0)
    await all_seen.wait()
    took, used = time.perf_counter() - began, time.process_time() - before
    await taking.close()
    await giving.close()
    return count / took, used / count * 1e6


async def console(folder: Path, processes: int, count: int) -> dict[str, Any]:
    async with serving(folder, CONSOLE, processes, listen=False) as bench:
        address = bench.client.connected_url.netloc
        await bench.whole(count // 10)  # so that nothing is done for the first time
        bare = [await bare_subscriber(address, count * 3)]
        result: dict[str, Any] = {"plan": await bench.plan(count), "whole": await bench.whole(count)}
        bare.append(await bare_subscriber(address, count * 3))
        rate, cost = (sum(each) / 2 for each in zip(*bare, strict=True))
        result["bare"] = {"per_s": round(rate), "us": round(cost, 1)}
        result["ratio"] = {
            "per_s": round(result["whole"]["per_s"] / rate, 4), "us": round(cost / result["whole"]["engine_us"], 4),
        }  # fmt: skip
        result["memory_mb"] = max(most_memory(engine.pid) for engine in bench.engines)
    return result


async def mail(folder: Path, processes: int, count: int, seconds: float) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    ports, counts = context.Queue(), context.Array("d", 3)
    sink = context.Process(target=sink_process, args=(ports, counts, 0.0), daemon=True)
    sink.start()
    mta = {"host": "127.0.0.1", "port": ports.get()[0], "tls": "none"}
    channels = {"mail": {"type": "email", "from": "a@example.com", "mtas": [mta], "concurrency": 32}}

    async def accepted() -> int:
        return int(counts[0])

    async with serving(folder, channels, processes, listen=False) as bench:
        result: dict[str, Any] = {"sustained": await bench.measured(count, accepted)}
        for part in PARTS:
            rate = part * result["sustained"]["per_s"]
            counts[0] = 0.0
            await bench.publish(int(rate * seconds), rate)
            await until(lambda: counts[0] >= int(rate * seconds), what="every mail")  # noqa: B023 -- awaited
            result[f"{part:.0%}"] = {
                "per_s": round(rate), "p50_ms": round(counts[2] * 1e3, 1), "p99_ms": round(counts[1] * 1e3, 1),
            }  # fmt: skip
        result["memory_mb"] = max(most_memory(engine.pid) for engine in bench.engines)
    sink.terminate()
    return result


async def channel(folder: Path, seconds: float) -> dict[str, float]:
    async with serving(folder, CONSOLE, 1, listen=True) as bench:
        await bench.publish(500, PACE)
        await until(lambda: len(bench.late) == 1000, what="the first lines")
        bench.late.clear()
        count = int(PACE * seconds)
        await bench.publish(count, PACE)
        await until(lambda: len(bench.late) == 2 * count, what="every line")
        late = sorted(bench.late)
    return {"p50_ms": round(late[count] * 1e3, 1), "p99_ms": round(late[int(count * 1.98)] * 1e3, 1)}


async def main(count: int, seconds: float, processes: list[int], as_json: bool) -> None:
    results: dict[str, Any] = {"events": count}
    with tempfile.TemporaryDirectory() as name:
        for number in processes:
            results[f"console, {number}"] = await console(Path(name) / f"console-{number}", number, count)
            results[f"mail, {number}"] = await mail(Path(name) / f"mail-{number}", number, count, seconds)
        results["channel"] = await channel(Path(name) / "channel", seconds)
    if as_json:
        print(json.dumps(results))
        return
    for heading, result in results.items():
        print(heading, "" if isinstance(result, dict) else result)
        for key, value in result.items() if isinstance(result, dict) else ():
            words = "  ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            print(f"    {key:12} {words}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=6000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.events, arguments.seconds, arguments.processes, arguments.json))
