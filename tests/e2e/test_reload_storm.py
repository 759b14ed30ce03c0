"""Events go on while the policy changes in every way that files change: none is lost, none comes twice.

With MSS_SOAK=1 at full size, a minute at 500 events/s and 200 reloads, with figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from support.external_services import World
from support.file_saving import config_map, save_as_editors_do
from support.processes import Engine, write_config
from support.waiting import LIMIT, until
from support.wire_messages import envelope, login

SOAK = os.environ.get("MSS_SOAK") == "1"
RATE = 500 if SOAK else 150  # events per second
RELOADS = 200 if SOAK else 8  # that are waited for
SECONDS = 60.0 if SOAK else 0.0  # at least
NOTICE = "kiam.console.notice.login.abnormal"
BROKEN = "rules:\n  - {id: x, event: notice.x, notify: [nowhere]}\n"


def policy(number: int) -> str:
    """Revision ``number``: its rule, and two channels of which one is another each time."""
    channels = {
        "all": {"type": "nats", "subject": "out.all", "concurrency": 64},
        f"c{number % 3}": {"type": "nats", "subject": "out.some", "concurrency": 64 + number % 5},
    }
    rule = {
        "id": f"rule-{number}",
        "event": "notice.login.abnormal",
        "template": "t",
        "notify": list(channels),
    }
    return json.dumps({"channels": channels, "rules": [rule]})


class Editor:
    """Changes the policy in one way after the other."""

    def __init__(self, rules: Path) -> None:
        self.rules, self.number = rules, 0
        self.words = rules / "templates" / "t" / "default.txt"
        self.ways = cycle(
            (self.save, self.break_it, self.rename, self.go_and_come_back, self.swap, self.write)
        )
        rules.mkdir()
        self.write()

    def next(self) -> None:
        next(self.ways)()

    def new(self) -> str:
        self.number += 1
        self.words.parent.mkdir(parents=True, exist_ok=True)
        self.words.write_text("words")
        return policy(self.number)

    def clear(self) -> None:
        """No file with a rule but the one that is written next."""
        for path in (*self.rules.glob("*.yaml"), *self.rules.glob("*~")):
            path.unlink()

    def write(self) -> None:
        text = self.new()
        self.clear()
        (self.rules / "policy.yaml").write_text(text)

    def save(self) -> None:
        save_as_editors_do(self.rules / "policy.yaml", self.new())

    def break_it(self) -> None:
        (self.rules / "policy.yaml").write_text(BROKEN)

    def rename(self) -> None:
        (self.rules / "policy.yaml").write_text(self.new())
        (self.rules / "policy.yaml").rename(self.rules / f"policy-{self.number}.yaml")

    def go_and_come_back(self) -> None:
        away = self.rules.with_name("away")
        self.rules.rename(away)
        shutil.copytree(away, self.rules, symlinks=True)
        shutil.rmtree(away)
        self.clear()
        (self.rules / "policy.yaml").write_text(self.new())

    def swap(self) -> None:
        text = self.new()
        self.clear()
        config_map(self.rules, str(self.number), {"policy.yaml": text})


async def entries(world: World) -> list[dict[str, Any]]:
    """All of the history."""
    js = world.client.jetstream()
    total = (await js.stream_info("MSS_HISTORY")).state.messages
    found: list[dict[str, Any]] = []
    subscription = await js.subscribe("mss.history.>", ordered_consumer=True)
    while len(found) < total:
        found.append(json.loads((await subscription.next_msg(timeout=LIMIT)).data))
    await subscription.unsubscribe()
    return found


async def drained(world: World) -> None:
    """Return once every event is planned and every delivery has gone out."""

    async def is_empty() -> bool:
        return not await world.stored("MSS_DELIVERY") and not await world.unfinished("MSS_NOTICE")

    for _ in range(4 if SOAK else 0):
        with contextlib.suppress(AssertionError):
            await until(is_empty, what="nothing stored")
    await until(is_empty, what="nothing stored")


def figures(engine: Engine) -> tuple[int, int]:
    """Open file descriptors, and MB of resident memory."""
    assert engine.process is not None
    proc = Path(f"/proc/{engine.process.pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    return len(list((proc / "fd").iterdir())), int(status["VmRSS"].split()[0]) // 1024


def p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def checked(history: list[dict[str, Any]], published: int) -> list[dict[str, Any]]:
    """What was planned, in the order of events: each once, of one revision, which never goes back."""
    planned = sorted(
        (entry for entry in history if entry["type"] == "planned"),
        key=lambda entry: entry["event"]["received"],
    )
    # Each event once, by one rule, in the order of revisions.
    assert Counter(entry["event"]["reqid"] for entry in planned) == {f"{n:032x}": 1 for n in range(published)}
    assert all(len(entry["rules"]) == 1 for entry in planned)
    numbers = [int(entry["rules"][0].removeprefix("rule-")) for entry in planned]
    assert numbers == sorted(numbers)
    # Each delivery once, of the revision that planned its event.
    wanted = {
        delivery["id"]: (entry["revision"], entry["rules"][0])
        for entry in planned
        for delivery in entry["deliveries"]
    }
    sent = [entry for entry in history if entry["type"] == "receipt" and entry["outcome"] == "sent"]
    assert len(wanted) == len(sent) == 2 * published
    assert {entry["delivery"]: (entry["revision"], entry["rule"]) for entry in sent} == wanted
    return planned


@pytest.fixture
async def engine(world: World, tmp_path: Path) -> AsyncIterator[Engine]:
    config = write_config(tmp_path, world.address, tmp_path / "rules", reload={"watch": True})
    made = Engine(config=config, environment=world.environment)
    yield made
    await made.end(signal.SIGKILL)


@pytest.mark.timeout(600 if SOAK else 120)
async def test_events_do_not_notice_that_the_policy_changes(
    world: World, engine: Engine, tmp_path: Path
) -> None:
    editor = Editor(tmp_path / "rules")
    await engine.start()
    assert engine.process is not None
    done = asyncio.Event()
    published = 0

    async def publish() -> None:
        nonlocal published
        began = time.monotonic()
        while not done.is_set():
            while published < (time.monotonic() - began) * RATE:
                await world.client.publish(NOTICE, envelope(login(published), reqid=f"{published:032x}"))
                published += 1
            await asyncio.sleep(0.005)

    def reloads() -> int:
        return sum("reload: " in line and "revision" in line for line in engine.log)

    async def change(by_signal: bool) -> None:
        before = reloads()
        await asyncio.to_thread(editor.next)
        if by_signal:
            engine.process.send_signal(signal.SIGHUP)
        await until(lambda: reloads() > before, what="a reload")

    await change(by_signal=False)
    publishing = asyncio.create_task(publish())
    await asyncio.sleep(SECONDS / 6 or 0.5)
    quiet, calm = published, figures(engine)
    began = time.monotonic()
    chance = random.Random(1)
    while reloads() < RELOADS or time.monotonic() - began < SECONDS:
        await change(by_signal=chance.random() < 0.5)
    took = time.monotonic() - began
    done.set()
    await publishing

    await drained(world)
    history = await entries(world)
    planned = checked(history, published)
    assert len({entry["revision"] for entry in planned}) > RELOADS / 4
    await until(
        lambda: figures(engine)[0] <= calm[0] + 3, what="what is open at the end was at the beginning"
    )
    if SOAK:
        spent = [(entry["at"] - entry["event"]["received"]) / 1000 for entry in planned]
        before, during = p99(spent[:quiet]), p99(spent[quiet:])
        print(
            f"\n{published} events, {reloads()} reloads in {took:.0f} s, {len({e['revision'] for e in planned})} revisions, p99 until "
            f"planned {before:.1f} ms before, {during:.1f} ms during; descriptors and MB {calm} -> {figures(engine)}"
        )
        assert figures(engine)[1] < calm[1] * 1.3 + 20
    assert await engine.end() == 0, "".join(engine.log)
