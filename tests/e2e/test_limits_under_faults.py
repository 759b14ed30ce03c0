"""No user gets more than the limits allow, and no event is lost, while replicas and broker are killed.

With MSS_SOAK=1 at full size: 10,000 events for 500 people in a minute.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
import pytest
from contract.channels.sides import FakeWeb, World
from nats.aio.msg import Msg
from support.load_generator import RETRY, SEED, SOAK
from support.processes import Engine, NatsServer, client_options, unfinished, write_config
from support.waiting import LIMIT, until

import msc

PEOPLE, EVENTS, SECONDS = (500, 10_000, 60.0) if SOAK else (12, 240, 4.0)
ENGINES = 3
WINDOW = 5 if SOAK else 1  # seconds: windows end while an event is on its way back
LIMITS: dict[str, dict[str, Any]] = {
    "once": {"dedupe": {"key": "userid", "window": f"{WINDOW}s"}},
    "few": {"throttle": {"key": "userid", "limit": 2, "per": "1h"}},
    "paced": {"throttle": {"key": "userid", "limit": 2, "per": f"{WINDOW}s"}},
    "overflow": {"throttle": {"key": "userid", "limit": 1, "per": f"{WINDOW}s", "on_limit": "digest"}},
    "together": {"digest": {"key": "userid", "wait": "1s", "interval": f"{WINDOW}s"}},
    "sifted": {
        "dedupe": {"key": ["userid", "topic"], "window": f"{WINDOW}s"},
        "digest": {"key": "userid", "wait": "1s"},
    },
}
STREAMS = ("MSS_NOTICE", "MSS_TIMER", "MSS_DELIVERY")  # in the order of the flow

pytestmark = pytest.mark.timeout(900 if SOAK else 120)


def policy(folder: Path, hooks: dict[str, FakeWeb]) -> Path:
    """Write a policy whose rules match the same events, each with a webhook of its own."""
    made = {
        "channels": {
            name: {
                "type": "webhook",
                "url": f"http://127.0.0.1:{hook.port}/",
                "timeout": "2s",
                "retry": RETRY,
            }
            for name, hook in hooks.items()
        },
        "rules": [
            {"id": name, "event": "notice.account.password", "notify": [name], **limits}
            for name, limits in LIMITS.items()
        ],
    }
    folder.mkdir()
    (folder / "policy.yaml").write_text(json.dumps(made))
    return folder


@dataclass
class Account:
    """The results of the events under one rule, by the history and by its receiver."""

    sent: set[str] = field(default_factory=set)  # reqids of events with a message of their own
    suppressed: dict[str, str] = field(default_factory=dict)  # reqid -> reason
    held: dict[str, str] = field(default_factory=dict)  # reqid -> the digest that it waits for
    digested: Counter[tuple[str, str]] = field(default_factory=Counter)  # (reqid, digest)
    # By user, the earliest and the latest time at which each message passed, in microseconds.
    passed: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    deliveries: set[str] = field(default_factory=set)


@dataclass
class Faults:
    """Engines and a broker that are killed at random, and receivers that are not."""

    broker: NatsServer
    engines: list[Engine]
    hooks: dict[str, FakeWeb]
    people: dict[str, str] = field(default_factory=dict)  # reqid -> user
    kills: Counter[str] = field(default_factory=Counter)

    async def publish_all(self) -> None:
        """Publish all events at a fixed rate, and wait until each is stored."""
        chance = random.Random(SEED)
        async with msc.connect(self.broker.address, buffer=64_000_000) as client:
            began, confirming = time.monotonic(), []
            for number in range(EVENTS):
                reqid, person = f"{number:032x}", f"u{chance.randrange(PEOPLE)}"
                self.people[reqid] = person
                payload = {"userid": person, "topic": number % 2, "n": number}
                confirming.append(asyncio.create_task(self._publish_one(client, payload, reqid)))
                await asyncio.sleep(max(0.0, began + (number + 1) * SECONDS / EVENTS - time.monotonic()))
            await asyncio.gather(*confirming)

    async def _publish_one(self, client: msc.Client, payload: dict[str, Any], reqid: str) -> None:
        while True:
            try:
                await client.notice("account.password", payload, confirm=True, reqid=reqid, timeout=120.0)
            except msc.NotConfirmed:  # no stream yet
                await asyncio.sleep(0.2)
            else:
                return

    async def kill_at_random(self, publishing: asyncio.Task[None]) -> None:
        """Kill one engine, all of them, or the broker, repeatedly while events are published."""
        chance = random.Random(SEED)
        while not publishing.done():
            await asyncio.wait((publishing,), timeout=chance.uniform(0.3, 3.0 if SOAK else 1.0))
            what = chance.choice(("engine", "engine", "engines", "broker", "everything"))
            self.kills[what] += 1
            victims = self.engines if what in ("engines", "everything") else []
            victims = [chance.choice(self.engines)] if what == "engine" else victims
            hits = [engine.end(signal.SIGKILL) for engine in victims]
            if what in ("broker", "everything"):
                hits.append(self.broker.kill())
            await asyncio.gather(*hits)
            if what in ("broker", "everything"):
                await self.broker.start()
            await asyncio.gather(*(engine.start() for engine in victims))

    async def quiet(self) -> None:
        """Wait until every event is planned, every digest flushed, and every message sent."""
        client = await nats.connect(**client_options(self.broker))  # type: ignore[arg-type]
        js = client.jetstream()

        async def is_quiet() -> bool:
            return not any([await unfinished(js, name) for name in STREAMS])

        for _ in range(5 if SOAK else 1):
            try:
                await until(is_quiet, what="every stream empty")
                break
            except AssertionError:
                continue
        assert await is_quiet()
        await client.close()

    async def messages(self, stream: str, subject: str) -> list[Msg]:
        """Return all messages of a stream."""
        client = await nats.connect(**client_options(self.broker))  # type: ignore[arg-type]
        js = client.jetstream()
        total = (await js.stream_info(stream)).state.messages
        subscription = await js.subscribe(subject, ordered_consumer=True)
        found = [await subscription.next_msg(timeout=LIMIT) for _ in range(total)]
        await client.close()
        return found

    async def accounts(self) -> dict[str, Account]:
        """Return the results in the history, by rule."""
        made = {name: Account() for name in LIMITS}
        entries = [json.loads(msg.data) for msg in await self.messages("MSS_HISTORY", "mss.history.>")]
        gone = {entry["delivery"]: entry["at"] for entry in entries if entry.get("outcome") == "sent"}
        for entry in entries:
            if entry["type"] != "planned":
                continue
            event = entry["event"]
            digested = [each["reqid"] for each in entry["digest"]["events"]] if "digest" in entry else []
            for each in entry["deliveries"]:
                account = made[each["rule"]]
                if each["id"] not in account.deliveries:
                    person = self.people[digested[0] if digested else event["reqid"]]
                    # An event that dedupe passed counts from its first arrival.
                    came = digested or each["rule"] == "once"
                    earliest = event["received"] if came else entry["at"]
                    account.passed[person].append((earliest, gone[each["id"]]))
                    account.digested.update((reqid, event["reqid"]) for reqid in digested)
                account.deliveries.add(each["id"])
                account.sent |= set() if digested else {event["reqid"]}
            for each in entry["suppressed"]:
                made[each["rule"]].suppressed[event["reqid"]] = each["reason"]
            for each in entry["held"]:
                made[each["rule"]].held[event["reqid"]] = each["digest"]
        return made


@pytest.fixture
async def faults(tmp_path: Path) -> AsyncIterator[Faults]:
    async with AsyncExitStack() as stack:
        sides = World(stack)
        hooks = {name: await sides.web() for name in LIMITS}
        broker = NatsServer(tmp_path / "nats")
        await broker.start()
        stack.push_async_callback(broker.kill)
        config = write_config(tmp_path, broker.address, policy(tmp_path / "rules", hooks))
        engines = [Engine(config=config, environment={}) for _ in range(ENGINES)]
        for engine in engines:
            stack.push_async_callback(engine.end, signal.SIGKILL)
            await engine.start()
        yield Faults(broker=broker, engines=engines, hooks=hooks)


def most_in_a_period(times: list[tuple[int, int]], seconds: float) -> int:
    """Return the largest number of ``times`` that certainly lie in one period of that many seconds."""
    return max(
        sum(start <= earliest and latest < start + seconds * 1e6 for earliest, latest in times)
        for start, _ in times
    )


async def test_limits_hold_and_the_counts_add_up(faults: Faults) -> None:
    publishing = asyncio.create_task(faults.publish_all())
    await faults.kill_at_random(publishing)
    await publishing
    await faults.quiet()

    dead = [msg.headers for msg in await faults.messages("MSS_DEAD", "mss.dead.>")]
    assert not dead
    accounts = await faults.accounts()
    report = [f"seed {SEED}: {EVENTS} events, {PEOPLE} people, killed {dict(faults.kills)}"]
    for name, account in accounts.items():
        reasons = Counter(account.suppressed.values())
        digests = len({digest for _, digest in account.digested})
        report.append(
            f"{name}: sent {len(account.sent)} + suppressed {dict(reasons)} + held {len(account.held)} "
            f"in {digests} digests"
        )
    print("\n" + "\n".join(report))

    for name, account in accounts.items():
        # Each event has exactly one result.
        ends = [*account.sent, *account.suppressed, *account.held]
        assert Counter(ends) == dict.fromkeys(faults.people, 1), name
        # Each event that waited is once in the digest that it waited for, and in no other.
        assert account.digested == dict.fromkeys(account.held.items(), 1), name
        # The planned messages are the ones that arrived.
        arrived = Counter(headers["webhook-id"] for headers, _ in faults.hooks[name].requests)
        assert set(arrived) == account.deliveries, name
        bodies = {headers["webhook-id"]: body for headers, body in faults.hooks[name].requests}
        numbers = Counter(number for body in bodies.values() for number in numbers_in(body))
        assert numbers == dict.fromkeys((int(each, 16) for each in {*account.sent, *account.held}), 1), name

    for name, limit, seconds in (
        ("once", 1, WINDOW),
        ("few", 2, 3600),
        ("paced", 2, WINDOW),
        ("overflow", 1, WINDOW),
        ("together", 1, WINDOW),
    ):
        for person, times in accounts[name].passed.items():
            assert most_in_a_period(times, seconds) <= limit, (name, person, sorted(times))
    assert all(len(times) == 2 for times in accounts["few"].passed.values())


def numbers_in(body: bytes) -> list[int]:
    """Return the numbers of the events in a message."""
    payload = json.loads(body)["data"]["payload"]
    return [each["n"] for each in payload["events"]] if "events" in payload else [payload["n"]]
