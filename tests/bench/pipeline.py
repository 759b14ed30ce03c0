"""From events in a stream to receipts: how many a second, how late, at what cost.

    python tests/bench/pipeline.py [--events 6000] [--seconds 5] [--processes 1 2] [--json]
    python tests/bench/pipeline.py --limits [--events 6000] [--json]

`mss serve` processes, one nats-server; history, archive and the marks are on. `plan` is from a burst in
the stream to stored deliveries, the channels at rest; `whole` to the receipts of two deliveries an
event, over console channels that print into nothing. `mail` is one mail an event, to a mail server in a
process of its own that keeps nothing: as fast as it goes, then at parts of that rate, from publish to
acceptance. `channel` is from publish to a console channel's line, two an event, at 500 events/s.

The bare subscriber is nats-py with a callback that only decodes the JSON, in this process, on the same
broker and in the same run: the ratio of the two is what to compare between machines, that of their
processor time also where others use them. CPU is user and system time; that of the broker includes what
this benchmark asks it.

`--limits` measures the cost of each stage of a rule instead: see limits.py in this folder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nats

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from engines import CONSOLE, serving  # noqa: E402 -- found beside this file
from limits import measure  # noqa: E402
from mails import most_memory, sink_process  # noqa: E402
from support.waiting import until  # noqa: E402
from support.wire_messages import envelope, login  # noqa: E402 -- found beside this folder

PARTS = (0.1, 0.5, 0.9)  # of the rate that is sustained
PACE = 500.0  # events/s


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


async def limits(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        return {"events": count, "limits": await measure(Path(name), count)}


async def paths(count: int, seconds: float, processes: list[int]) -> dict[str, Any]:
    results: dict[str, Any] = {"events": count}
    with tempfile.TemporaryDirectory() as name:
        for number in processes:
            results[f"console, {number}"] = await console(Path(name) / f"console-{number}", number, count)
            results[f"mail, {number}"] = await mail(Path(name) / f"mail-{number}", number, count, seconds)
        results["channel"] = await channel(Path(name) / "channel", seconds)
    return results


def show(results: dict[str, Any], *, as_json: bool) -> None:
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
    parser.add_argument("--limits", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    asked = (
        limits(arguments.events)
        if arguments.limits
        else paths(arguments.events, arguments.seconds, arguments.processes)
    )
    show(asyncio.run(asked), as_json=arguments.json)
