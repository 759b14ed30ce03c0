"""From a burst of events to receipts: events/s through the whole path, beside a bare subscriber.

    python tests/bench/pipeline.py [--events 5000] [--json]

One `mss serve` process, one nats-server, two deliveries an event to console channels that print into
nothing; history, archive and ledger marks are on. The bare subscriber is nats-py with a callback
that only decodes the JSON, in this process, on the same broker and in the same run: the ratio of the
two is what to compare between machines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nats

sys.path[:0] = [str(Path(__file__).parents[1])]

from support import MSS, envelope, login, write_config  # noqa: E402 -- found beside this folder

from engine.embedded import embedded_broker  # noqa: E402

SUBJECT = "kiam.console.notice.login.abnormal"
POLICY = {
    "channels": {"one": {"type": "console", "concurrency": 64}, "two": {"type": "console", "concurrency": 64}},
    "rules": [
        {"id": "r", "event": "notice.login.abnormal", "template": "t", "when": {"result": "success"},
         "notify": ["one", "two"]},
    ],
}  # fmt: skip
WORDS = "New sign-in from {{ payload.city }} ({{ payload.ip }}), {{ payload.userid }}."


async def bare_subscriber(address: str, count: int) -> float:
    """Events/s that a nats-py subscriber takes which decodes the JSON and does nothing."""
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
    began = time.perf_counter()
    for n, event in enumerate(events):
        await giving.publish("bare", event)
        if n % 500 == 0:
            await asyncio.sleep(0)
    await all_seen.wait()
    took = time.perf_counter() - began
    await taking.close()
    await giving.close()
    return count / took


async def whole_path(address: str, folder: Path, count: int) -> float:
    """Events/s from a backlog in the stream to every receipt in the history."""
    rules = folder / "rules"
    (rules / "templates" / "t").mkdir(parents=True)
    (rules / "policy.yaml").write_text(json.dumps(POLICY))
    (rules / "templates" / "t" / "default.txt").write_text(WORDS)
    config = write_config(folder, address, rules, ack_wait="30s", log={"level": "warning"})
    command = [str(MSS), "serve", "-c", str(config)]
    client = await nats.connect(address)
    js = client.jetstream()

    async def receipts() -> int:
        try:
            return int((await js.stream_info("MSS_HISTORY")).state.messages)
        except nats.js.errors.NotFoundError:
            return -1

    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while await receipts() < 0 or not await consumers(js):
        await asyncio.sleep(0.05)
    first.terminate()
    first.wait()
    for n in range(count):
        await client.publish(SUBJECT, envelope(login(n)))
        if n % 500 == 0:
            await asyncio.sleep(0)
    await client.flush()
    engine = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while await receipts() == 0:
        await asyncio.sleep(0.001)
    began, already = time.perf_counter(), await receipts()
    while (now := await receipts()) < count * 3:
        await asyncio.sleep(0.01)
    took = time.perf_counter() - began
    engine.terminate()
    engine.wait()
    await client.close()
    return (now - already) / 3 / took


async def consumers(js: nats.js.JetStreamContext) -> bool:
    try:
        return len(await js.consumers_info("MSS_DELIVERY")) == 2
    except nats.js.errors.NotFoundError:
        return False


async def main(count: int, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with embedded_broker(folder / "nats") as address:
            bare = await bare_subscriber(address, count * 4)
            path = await whole_path(address, folder, count)
    result = {
        "events": count,
        "bare_subscriber_per_s": round(bare),
        "whole_path_per_s": round(path),
        "ratio": round(path / bare, 4),
    }
    print(json.dumps(result) if as_json else "\n".join(f"{key:24} {value}" for key, value in result.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=5000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.events, arguments.json))
