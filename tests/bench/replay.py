"""How fast ``mss replay`` is: events/s, for pairs of policies with different changes.

    python tests/bench/replay.py [--events 100000] [--json]

One nats-server has that many events of 5,000 users in MSS_NOTICE. Half of them match the rule of the
example policy, which makes a mail and an SMS of each. Then the same with limits in both policies. For comparison:
reading and decoding the archive alone, and both plans of 2,000 events with everything rendered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nats

sys.path[:0] = [str(Path(__file__).parents[1])]

from support.locations import ROOT  # noqa: E402
from support.wire_messages import envelope, login  # noqa: E402

from engine.broker import Broker, Topology, connect  # noqa: E402
from engine.broker.embedded import embedded_broker  # noqa: E402
from engine.history.archive import Archive  # noqa: E402
from engine.history.replay.diff import ReplaySide  # noqa: E402 -- found next to this folder
from engine.history.replay.replay import Replay  # noqa: E402
from engine.model.messages import Kind  # noqa: E402
from engine.planning.planner import plan  # noqa: E402
from engine.policy.loader import load_files, read_folder  # noqa: E402
from engine.templates.compiler import template_prints  # noqa: E402

ENVIRONMENT = {**os.environ, "SMTP_HOST": "127.0.0.1", "SMTP_PORT": "25", "SMS_GATEWAY": "127.0.0.1:1"}
CHANGES = {
    "nothing": lambda folder: None,
    "a narrower condition": lambda folder: edit(folder / "abnormal-login.yaml", "result: success\n", "result: success\n      city: {prefix: S}\n"),
    "the text of the SMS": lambda folder: edit(folder / "templates/abnormal-login/en/sms.txt", "", "!"),
}  # fmt: skip
LIMITS = (
    "dedupe: {key: userid, window: 1h}",
    "throttle: {key: userid, limit: 2, per: 1h}",
    "digest: {key: userid, wait: 1s}",
    "budget: 1000/s",
)
PEOPLE = 5000


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    file.write_text(text.replace(old, new, 1) if old else text + new)


def side(folder: Path) -> ReplaySide:
    files = read_folder(folder)
    return ReplaySide(
        rulebook=load_files(files, ENVIRONMENT).require(), prints=template_prints(files.contents)
    )


async def fill(address: str, count: int) -> None:
    client = await nats.connect(address, pending_size=8 * 1024 * 1024)
    await client.jetstream().add_stream(name="MSS_NOTICE", subjects=["kiam.console.notice.>"])
    for n in range(count):
        data = envelope(login(n % PEOPLE, result=("success", "failure")[n % 2]))
        await client.publish("kiam.console.notice.login.abnormal", data)
        if n % 1000 == 0:
            await client.flush()  # the stream drops messages that arrive faster than it stores them
    await client.flush()
    while (await client.jetstream().stream_info("MSS_NOTICE")).state.messages < count:
        await asyncio.sleep(0.05)
    await client.close()


async def seconds(address: str, replay: Replay | None) -> float:
    connection = await connect({"servers": [address]})
    archive = Archive(broker=Broker(connection, Topology()), tolerance=86400.0)
    began = time.perf_counter()
    async for events in archive.events([Kind.NOTICE], 1):
        for event in events if replay else ():
            replay.add(event)
        await asyncio.sleep(0)
    if replay:
        replay.finish(time.time_ns() // 1000)
    took = time.perf_counter() - began
    await connection.close()
    return took


async def in_full(address: str, live: ReplaySide, new: ReplaySide, count: int) -> float:
    connection = await connect({"servers": [address]})
    archive = Archive(broker=Broker(connection, Topology()), tolerance=86400.0)
    done, took = 0, 0.0
    async for events in archive.events([Kind.NOTICE], 1):
        began = time.perf_counter()
        for event in events:
            assert plan(live.rulebook, event) and plan(new.rulebook, event)
        took, done = took + time.perf_counter() - began, done + len(events)
        if done >= count:
            break
    await connection.close()
    return done / took


async def main(count: int, as_json: bool) -> None:
    result: dict[str, object] = {"events": count}
    with tempfile.TemporaryDirectory() as name:
        async with embedded_broker(Path(name) / "nats") as address:
            await fill(address, count)
            live = side(ROOT / "rules")
            result["read and decoded, events/s"] = round(count / await seconds(address, None))
            for title, change in CHANGES.items():
                folder = Path(name) / title.replace(" ", "-")
                shutil.copytree(ROOT / "rules", folder)
                change(folder)
                replay = Replay(live, side(folder))
                took = await seconds(address, replay)
                assert replay.events.total() == count and replay.live_deliveries == count
                result[f"{title} differs, events/s"] = round(count / took)
                result[f"{title} differs, s"] = round(took, 1)
            for limit in LIMITS:
                folder = Path(name) / limit.partition(":")[0]
                shutil.copytree(ROOT / "rules", folder)
                edit(folder / "abnormal-login.yaml", "severity: high\n", f"severity: high\n    {limit}\n")
                replay = Replay(side(folder), side(folder))
                result[f"both with {limit}, events/s"] = round(count / await seconds(address, replay))
                assert (
                    replay.events.total() == count
                    and 0 < replay.live_deliveries == replay.new_deliveries <= count
                )
            result["both planned in full, events/s"] = round(await in_full(address, live, side(folder), 2000))
    result["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(result) if as_json else "\n".join(f"{key:64} {value}" for key, value in result.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.events, arguments.json))
