"""Nobody gets more than their limits, and every event is accounted for, while everything is being killed.

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
from support.processes import Engine, NatsServer, client_options, write_config
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
    """Each rule tells of the same events, over a webhook of its own."""
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
    """What became of the events under one rule, by the history and by its receiver."""

    sent: set[str] = field(default_factory=set)  # reqids of events with a message of their own
    suppressed: dict[str, str] = field(default_factory=dict)  # reqid -> reason
    held: dict[str, str] = field(default_factory=dict)  # reqid -> the digest that it waits for
    told: Counter[tuple[str, str]] = field(default_factory=Counter)  # (reqid, digest)
    # By person, the earliest and the latest moment at which each message passed, in microseconds.
    passed: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    deliveries: set[str] = field(default_factory=set)


@dataclass
class Fire:
    """Engines and a broker that are killed now and then, and receivers that are not."""

    broker: NatsServer
    engines: list[Engine]
    hooks: dict[str, FakeWeb]
    people: dict[str, str] = field(default_factory=dict)  # reqid -> who it is about
    kills: Counter[str] = field(default_factory=Counter)

    async def announce(self) -> None:
        """All events at their pace, each known to be stored."""
        chance = random.Random(SEED)
        async with msc.connect(self.broker.address, buffer=64_000_000) as client:
            began, confirming = time.monotonic(), []
            for number in range(EVENTS):
                reqid, person = f"{number:032x}", f"u{chance.randrange(PEOPLE)}"
                self.people[reqid] = person
                payload = {"userid": person, "topic": number % 2, "n": number}
                confirming.append(asyncio.create_task(self._announce_one(client, payload, reqid)))
                await asyncio.sleep(max(0.0, began + (number + 1) * SECONDS / EVENTS - time.monotonic()))
            await asyncio.gather(*confirming)

    async def _announce_one(self, client: msc.Client, payload: dict[str, Any], reqid: str) -> None:
        while True:
            try:
                await client.notice("account.password", payload, confirm=True, reqid=reqid, timeout=120.0)
            except msc.NotConfirmed:  # no stream yet
                await asyncio.sleep(0.2)
            else:
                return

    async def burn(self, announcing: asyncio.Task[None]) -> None:
        """Kill one engine, all of them, or the broker; again and again while events are announced."""
        chance = random.Random(SEED)
        while not announcing.done():
            await asyncio.wait((announcing,), timeout=chance.uniform(0.3, 3.0 if SOAK else 1.0))
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
        """Wait until every event is planned, every digest told, and every message has gone out."""
        client = await nats.connect(**client_options(self.broker))  # type: ignore[arg-type]
        js = client.jetstream()

        async def is_quiet() -> bool:
            return not any([(await js.stream_info(name)).state.messages for name in STREAMS])

        for _ in range(5 if SOAK else 1):
            try:
                await until(is_quiet, what="every stream empty")
                break
            except AssertionError:
                continue
        assert await is_quiet()
        await client.close()

    async def messages(self, stream: str, subject: str) -> list[Msg]:
        """All that a stream holds."""
        client = await nats.connect(**client_options(self.broker))  # type: ignore[arg-type]
        js = client.jetstream()
        total = (await js.stream_info(stream)).state.messages
        subscription = await js.subscribe(subject, ordered_consumer=True)
        found = [await subscription.next_msg(timeout=LIMIT) for _ in range(total)]
        await client.close()
        return found

    async def accounts(self) -> dict[str, Account]:
        """What the history says, by rule."""
        made = {name: Account() for name in LIMITS}
        entries = [json.loads(msg.data) for msg in await self.messages("MSS_HISTORY", "mss.history.>")]
        gone = {entry["delivery"]: entry["at"] for entry in entries if entry.get("outcome") == "sent"}
        for entry in entries:
            if entry["type"] != "planned":
                continue
            event = entry["event"]
            told = [each["reqid"] for each in entry["digest"]["events"]] if "digest" in entry else []
            for each in entry["deliveries"]:
                account = made[each["rule"]]
                if each["id"] not in account.deliveries:
                    person = self.people[told[0] if told else event["reqid"]]
                    # What dedupe let pass counts from when it came first.
                    came = told or each["rule"] == "once"
                    earliest = event["received"] if came else entry["at"]
                    account.passed[person].append((earliest, gone[each["id"]]))
                    account.told.update((reqid, event["reqid"]) for reqid in told)
                account.deliveries.add(each["id"])
                account.sent |= set() if told else {event["reqid"]}
            for each in entry["suppressed"]:
                made[each["rule"]].suppressed[event["reqid"]] = each["reason"]
            for each in entry["held"]:
                made[each["rule"]].held[event["reqid"]] = each["digest"]
        return made


@pytest.fixture
async def fire(tmp_path: Path) -> AsyncIterator[Fire]:
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
        yield Fire(broker=broker, engines=engines, hooks=hooks)


def most_in_a_stretch(times: list[tuple[int, int]], seconds: float) -> int:
    """How many of ``times`` lie for certain in one stretch of so many seconds, at most."""
    return max(
        sum(start <= earliest and latest < start + seconds * 1e6 for earliest, latest in times)
        for start, _ in times
    )


async def test_limits_hold_and_the_counts_add_up(fire: Fire) -> None:
    announcing = asyncio.create_task(fire.announce())
    await fire.burn(announcing)
    await announcing
    await fire.quiet()

    dead = [msg.headers for msg in await fire.messages("MSS_DEAD", "mss.dead.>")]
    assert not dead
    accounts = await fire.accounts()
    said = [f"seed {SEED}: {EVENTS} events, {PEOPLE} people, killed {dict(fire.kills)}"]
    for name, account in accounts.items():
        reasons = Counter(account.suppressed.values())
        digests = len({digest for _, digest in account.told})
        said.append(
            f"{name}: sent {len(account.sent)} + suppressed {dict(reasons)} + held {len(account.held)} "
            f"in {digests} digests"
        )
    print("\n" + "\n".join(said))

    for name, account in accounts.items():
        # Each event has one end, and no other.
        ends = [*account.sent, *account.suppressed, *account.held]
        assert Counter(ends) == dict.fromkeys(fire.people, 1), name
        # Each one that waited is in the digest that it waited for, once, and in no other.
        assert account.told == dict.fromkeys(account.held.items(), 1), name
        # What was decided is what arrived.
        arrived = Counter(headers["webhook-id"] for headers, _ in fire.hooks[name].requests)
        assert set(arrived) == account.deliveries, name
        bodies = {headers["webhook-id"]: body for headers, body in fire.hooks[name].requests}
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
            assert most_in_a_stretch(times, seconds) <= limit, (name, person, sorted(times))
    assert all(len(times) == 2 for times in accounts["few"].passed.values())


def numbers_in(body: bytes) -> list[int]:
    """The events that a message tells of."""
    payload = json.loads(body)["data"]["payload"]
    return [each["n"] for each in payload["events"]] if "events" in payload else [payload["n"]]
