"""People's preferences: how many are at hand, what that costs in memory and in time.

    python tests/bench/preferences.py [--people 1000000] [--lookups 200000] [--most 50000] [--json]

All of them have chosen something and lie on a nats-server. Events are for people by a skewed draw: the
probability of the one in place n is as 1/n, so that a few get most of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import sys
import tempfile
import time
import tracemalloc
from bisect import bisect
from itertools import accumulate
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from support.processes import NatsServer, client_options  # noqa: E402

from engine.broker import Broker, Connection, OutgoingMessage, Provisioner, Publisher, Topology, connect  # noqa: E402
from engine.metrics import Metrics  # noqa: E402
from engine.preferences.cache import PreferenceCache  # noqa: E402
from engine.preferences.document import encode  # noqa: E402
from engine.preferences.store import PreferenceStore, token_of  # noqa: E402 -- found beside this folder

_BATCH = 2000
_IN_FLIGHT = 64  # look-ups at the same time


def document(number: int) -> dict[str, Any]:
    """What somebody chose on a page with three categories."""
    return {
        "locale": ("en", "de", "zh-CN")[number % 3],
        "time_zone": ("Europe/Berlin", "Asia/Shanghai", "America/New_York", "UTC")[number % 4],
        "quiet_hours": "22:00-07:00",
        "addresses": {"phone": f"+49301{number:07}"},
        "security": ["email", "sms"],
        "news": {"email": number % 2 == 0},
        "tips": [],
    }


async def fill(connection: Connection, people: int) -> float:
    """Write everybody's record; seconds that it took."""
    publisher = Publisher(connection)
    await publisher.start()
    began = time.perf_counter()
    for first in range(0, people, _BATCH):
        await publisher.store(
            *(
                OutgoingMessage(
                    subject=f"$KV.MSS_PREFERENCES.user.{token_of(f'u{number}')}",
                    payload=encode(f"u{number}", document(number)),
                    id=f"p{number}",
                )
                for number in range(first, min(first + _BATCH, people))
            )
        )
    took = time.perf_counter() - began
    await publisher.close()
    return took


async def draw(cache: PreferenceCache, users: list[str]) -> float:
    """Plan for each of ``users``, as far as preferences go; seconds that it took."""
    waiting = iter(users)

    async def plan() -> None:
        for user in waiting:
            await cache.with_choices(lambda choices_of, user=user: choices_of(user))

    began = time.perf_counter()
    await asyncio.gather(*(plan() for _ in range(_IN_FLIGHT)))
    return time.perf_counter() - began


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    server = NatsServer(folder / "nats")
    await server.start()
    connection = await connect(client_options(server))
    await Provisioner(Topology(), connection).provision()
    metrics = Metrics()
    store = PreferenceStore(Broker(connection, Topology()).preferences)
    cache = PreferenceCache(store, metrics, most=arguments.most)
    written = await fill(connection, arguments.people)
    following = asyncio.create_task(cache.run())
    await cache.following.wait()

    weights = list(accumulate(1 / place for place in range(1, arguments.people + 1)))
    chance = random.Random(1)
    users = [
        f"u{bisect(weights, chance.random() * weights[-1])}"
        for _ in range(arguments.lookups + arguments.lookups)
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    warming = await draw(cache, users[: arguments.lookups])
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    hits, misses = (metrics.value("mss_preference_lookups_total", result=each) for each in ("hit", "miss"))
    took = await draw(cache, users[arguments.lookups :])
    hits = metrics.value("mss_preference_lookups_total", result="hit") - hits
    misses = metrics.value("mss_preference_lookups_total", result="miss") - misses

    known = [user for user in dict.fromkeys(reversed(users)) if token_of(user) in cache._known][:1000]
    began = time.perf_counter()
    for _ in range(20):
        for user in known:
            cache.choices_of(user)
    hit_us = (time.perf_counter() - began) / (20 * len(known)) * 1e6

    tracemalloc.start()
    fresh = PreferenceCache(store, metrics, most=arguments.most)
    refilling = asyncio.create_task(fresh.run())
    await fresh.following.wait()
    clear, _ = tracemalloc.get_traced_memory()
    await draw(fresh, [f"u{number}" for number in range(2000)])
    full, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for task in (following, refilling):
        task.cancel()
    await asyncio.wait((following, refilling))
    stored = (await connection.js.stream_info(store.bucket.stream)).state
    result = {
        "people": stored.messages,
        "bytes_on_disk": stored.bytes,
        "written_per_s": round(arguments.people / written),
        "at_hand": len(cache),
        "bytes_each": round((full - clear) / len(fresh)),
        "more_rss_mb": round((after - before) / 1024, 1),
        "hit_rate": round(hits / (hits + misses), 3),
        "lookups_per_s_cold": round(arguments.lookups / warming),
        "lookups_per_s": round(arguments.lookups / took),
        "hit_us": round(hit_us, 2),
    }
    await connection.close()
    await server.kill()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--people", type=int, default=1_000_000)
    parser.add_argument("--lookups", type=int, default=200_000)
    parser.add_argument("--most", type=int, default=50_000, help="people at hand")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(measure(arguments, Path(folder)))
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:>20} {value:>14,}")


if __name__ == "__main__":
    main()
