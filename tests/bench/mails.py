"""Mails: a burst of audits to one address, a slow mail server, and a dead channel next to a healthy one.

    python tests/bench/mails.py [--burst 40000] [--json]

One `mss serve` process with the example policy's templates, one nats-server, and mail servers in another
process, which accept everything and keep nothing. `burst` publishes as fast as it can, as the original's
benchmark did; every mail must be at the server in the end. `slow` has a mail server whose every reply
takes 50 ms. `next_to_dead` compares the latency of a healthy channel, publish to acceptance, with and without
another channel whose server accepts connections and says nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from bisect import insort
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from support.locations import MSS, ROOT  # noqa: E402
from support.processes import write_config  # noqa: E402
from support.waiting import until  # noqa: E402
from support.wire_messages import envelope  # noqa: E402

from engine.broker.embedded import embedded_broker  # noqa: E402 -- found next to this folder

AUDIT = "kiam.console.audit.accountaddemail"
DELAY = 0.05  # seconds before each reply of the slow server
STAMP = re.compile(rb"stamp-([0-9]+)-")


class Sink(asyncio.Protocol):
    """A mail server that reads commands and bodies as they arrive, and counts."""

    def __init__(self, counts: Any, delay: float, latencies: list[float]) -> None:
        self.counts, self.delay, self.latencies = counts, delay, latencies
        self.buffer, self.in_body = b"", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.say(b"220 sink\r\n")

    def say(self, words: bytes) -> None:
        if self.delay:
            asyncio.get_running_loop().call_later(self.delay, self.transport.write, words)
        else:
            self.transport.write(words)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        replies = []
        while True:
            end = b"\r\n.\r\n" if self.in_body else b"\r\n"
            line, found, rest = self.buffer.partition(end)
            if not found:
                break
            self.buffer = rest
            if self.in_body:
                self.in_body = False
                if not self.counts[0]:
                    self.latencies.clear()  # the reader started again
                self.counts[0] += 1
                if stamp := STAMP.search(line):
                    insort(self.latencies, time.time() - int(stamp[1]) / 1e6)
                    self.counts[1] = self.latencies[int(len(self.latencies) * 0.99)]
                    self.counts[2] = self.latencies[len(self.latencies) // 2]
                replies.append(b"250 taken\r\n")
            elif line[:4].upper() == b"EHLO":
                replies.append(b"250-sink\r\n250 PIPELINING\r\n")
            elif line[:4].upper() == b"DATA":
                self.in_body = True
                replies.append(b"354 go\r\n")
            else:
                replies.append(b"250 ok\r\n")
        if replies:
            self.say(b"".join(replies))


async def serve(ports: Any, counts: Any, delay: float) -> None:
    latencies: list[float] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: Sink(counts, delay, latencies), "127.0.0.1", 0
    )
    silent = await asyncio.start_server(lambda _reader, _writer: asyncio.sleep(3600), "127.0.0.1", 0)
    ports.put((server.sockets[0].getsockname()[1], silent.sockets[0].getsockname()[1]))
    await asyncio.Event().wait()


def sink_process(ports: Any, counts: Any, delay: float) -> None:
    asyncio.run(serve(ports, counts, delay))


@asynccontextmanager
async def everything(folder: Path, *, delay: float, rules: Any) -> AsyncIterator[tuple[Any, Any, int]]:
    """Yield a client, the counts of the sink (mails, p99 and p50 in seconds) and the process id of the engine."""
    context = multiprocessing.get_context("spawn")
    ports, counts = context.Queue(), context.Array("d", 3)
    sink = context.Process(target=sink_process, args=(ports, counts, delay), daemon=True)
    sink.start()
    healthy, silent = ports.get()
    folder.mkdir()
    async with embedded_broker(folder / "nats") as address:
        place, environment = rules(folder, healthy, silent)
        config = write_config(folder, address, place, ack_wait="30s", log={"level": "error"})
        engine = subprocess.Popen([str(MSS), "serve", "-c", str(config)], env=environment)
        client = await nats.connect(address, pending_size=64 * 1024 * 1024)
        js = client.jetstream()

        async def serves() -> bool:
            try:
                return bool(await js.consumers_info("MSS_AUDIT")) and bool(
                    await js.consumers_info("MSS_DELIVERY")
                )
            except nats.js.errors.NotFoundError:
                return False

        await until(serves, what="the engine serves")
        await asyncio.sleep(1)
        try:
            yield client, counts, engine.pid
        finally:
            engine.terminate()
            engine.wait()
        await client.close()
    sink.terminate()


def example(_folder: Path, healthy: int, _silent: int) -> tuple[Path, dict[str, str]]:
    return ROOT / "rules", {
        **os.environ, "SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(healthy), "SMS_GATEWAY": "127.0.0.1:9",
    }  # fmt: skip


def made(with_dead: bool, concurrency: int) -> Any:
    """Write a policy with one text mail per audit, and optionally one over a dead channel."""

    def rules(folder: Path, healthy: int, silent: int) -> tuple[Path, None]:
        def email(port: int) -> dict[str, Any]:
            mta = {"host": "127.0.0.1", "port": port, "tls": "none"}
            return {
                "type": "email", "from": "a@example.com", "mtas": [mta], "concurrency": concurrency, "timeout": "2s",
            }  # fmt: skip

        policy = {
            "channels": {"healthy": email(healthy), **({"dead": email(silent)} if with_dead else {})},
            "rules": [
                {
                    "id": "r", "event": "audit.accountaddemail", "template": "t",
                    "notify": ["healthy", *(["dead"] if with_dead else [])],
                }
            ],
        }  # fmt: skip
        words = folder / "rules" / "templates" / "t"
        words.mkdir(parents=True)
        (folder / "rules" / "policy.yaml").write_text(json.dumps(policy))
        for name in policy["channels"]:
            (words / f"{name}.txt").write_text("---\nsubject: s\n---\n{{ payload.httpurl }}")
        return folder / "rules", None

    return rules


def audit(number: int) -> dict[str, Any]:
    return {
        "newemail": f"new{number}@example.com", "userid": f"u{number}", "locale": "en",
        "httpurl": f"https://iam.example.com/stamp-{time.time_ns() // 1000}-", "mailto": ["a@example.com"],
        "subject": "New address",
    }  # fmt: skip


async def counted(counts: Any, count: int, limit: float) -> None:
    end = time.monotonic() + limit
    while counts[0] < count and time.monotonic() < end:
        await asyncio.sleep(0.02)


def most_memory(pid: int) -> float:
    """Return the peak memory of a process in megabytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+([0-9]+) kB", status)
    return round(int(found[1]) / 1024, 1) if found else 0.0


async def burst(folder: Path, count: int) -> dict[str, Any]:
    async with everything(folder, delay=0.0, rules=example) as (client, counts, pid):
        began = time.perf_counter()
        for number in range(count):
            await client.publish(AUDIT, envelope(audit(number)))
            if number % 200 == 0:
                await asyncio.sleep(0)
        await client.flush(timeout=60)
        published = time.perf_counter() - began
        await counted(counts, count, 600)
        took = time.perf_counter() - began
        return {
            "published": count, "published_in_s": round(published, 1), "delivered": int(counts[0]),
            "mails_per_s": round(counts[0] / took), "memory_mb": most_memory(pid),
        }  # fmt: skip


async def slow(folder: Path, count: int) -> dict[str, Any]:
    async with everything(folder, delay=DELAY, rules=made(False, 64)) as (client, counts, _):
        began = time.perf_counter()
        for number in range(count):
            await client.publish(AUDIT, envelope(audit(number)))
        await counted(counts, count, 300)
        took = time.perf_counter() - began
        # Two waits per mail with pipelining: for the reply to DATA, and to the mail.
        alone = count * 2 * DELAY
        return {
            "mails": int(counts[0]),
            "took_s": round(took, 2),
            "one_at_a_time_s": alone,
            "times": round(alone / took, 1),
        }


async def paced(folder: Path, *, with_dead: bool, rate: float, seconds: float) -> float:
    async with everything(folder, delay=0.0, rules=made(with_dead, 16)) as (client, counts, _):
        count = int(rate * seconds)
        began = time.perf_counter()
        for number in range(count):
            await client.publish(AUDIT, envelope(audit(number)))
            await asyncio.sleep(max(0.0, began + (number + 1) / rate - time.perf_counter()))
        await counted(counts, count, 60)
        return float(counts[1]) * 1000


async def main(count: int, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results: dict[str, Any] = {
            "burst": await burst(folder / "burst", count),
            "slow": await slow(folder / "slow", 1000),
        }
        alone = await paced(folder / "alone", with_dead=False, rate=100, seconds=10)
        next_to_dead = await paced(folder / "dead", with_dead=True, rate=100, seconds=10)
        results["next_to_dead"] = {
            "p99_ms_alone": round(alone, 1), "p99_ms": round(next_to_dead, 1), "times": round(next_to_dead / alone, 2),
        }  # fmt: skip
    if as_json:
        print(json.dumps(results))
    else:
        for name, result in results.items():
            print(name, "  ".join(f"{key} {value}" for key, value in result.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--burst", type=int, default=40_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.burst, arguments.json))
