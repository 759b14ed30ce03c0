"""Dedupe, throttle, digest and budget over two replicas: every event is counted once, and none is lost."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from contract.channels.sides import World as Sides
from support.external_services import World
from support.in_process_server import serving
from support.waiting import until
from support.wire_messages import envelope

from engine.policy.loader import load_policy

NOTICE = "kiam.console.notice.account.password"
PEOPLE, EVENTS = 5, 60


@pytest.fixture
async def sides() -> AsyncIterator[Sides]:
    async with AsyncExitStack() as stack:
        yield Sides(stack)


def policy(folder: Path, rules: dict[str, tuple[int, dict[str, Any]]]) -> Path:
    """Write a policy with one rule for each webhook, with its limits."""
    made = {
        "channels": {
            name: {"type": "webhook", "url": f"http://127.0.0.1:{port}/"} for name, (port, _) in rules.items()
        },
        "rules": [
            {"id": name, "event": "notice.account.password", "notify": [name], **limits}
            for name, (_, limits) in rules.items()
        ],
    }
    folder.mkdir(exist_ok=True)
    (folder / "policy.yaml").write_text(json.dumps(made))
    return folder


def digested(requests: list[Any]) -> list[list[int]]:
    """Return the numbers of the events in each digest that arrived."""
    bodies = [json.loads(body)["data"]["payload"] for _, body in requests]
    return [[each["n"] for each in body["events"]] for body in bodies]


async def test_two_replicas_share_limits_and_digests(world: World, sides: Sides, tmp_path: Path) -> None:
    first, few, together = await sides.web(), await sides.web(), await sides.web()
    rules = policy(
        tmp_path / "rules",
        {
            "first": (first.port, {"dedupe": {"key": "userid", "window": "1h"}}),
            "few": (few.port, {"throttle": {"key": "userid", "limit": 2, "per": "1h"}}),
            "together": (together.port, {"digest": {"key": "userid", "wait": "2s"}}),
        },
    )
    async with (
        serving(world.address, {}, rules=rules) as server,
        serving(world.address, {}, rules=rules),
    ):
        for number in range(EVENTS):
            payload = {"userid": f"u{number % PEOPLE}", "n": number}
            await world.client.publish(NOTICE, envelope(payload))
        await until(
            lambda: sum(map(len, digested(together.requests))) >= EVENTS, what="every event in a digest"
        )
        await until(lambda: len(few.requests) >= 2 * PEOPLE, what="as many as the throttle lets pass")
        digests = digested(together.requests)
        assert sorted(n for digest in digests for n in digest) == list(range(EVENTS))
        assert all(len({n % PEOPLE for n in digest}) == 1 for digest in digests)
        assert len(digests) == PEOPLE
        assert len(first.requests) == PEOPLE
        assert len(few.requests) == 2 * PEOPLE
        history = [json.loads(msg.data) for msg in await world.messages("MSS_HISTORY")]
        plans = [entry for entry in history if entry["type"] == "planned"]
        reasons = Counter(each["reason"] for plan in plans for each in plan["suppressed"])
        assert reasons == {"dedupe": EVENTS - PEOPLE, "throttle": EVENTS - 2 * PEOPLE}
        held = [each for plan in plans for each in plan["held"]]
        named = {plan["event"]["reqid"] for plan in plans if "digest" in plan}
        assert len(held) == EVENTS
        assert {each["digest"] for each in held} == named
        # The events that wait for a removed rule are sent at once.
        for number in range(PEOPLE):
            await world.client.publish(NOTICE, envelope({"userid": f"u{number}", "n": 100 + number}))

        async def all_wait() -> bool:
            entries = [json.loads(msg.data) for msg in await world.messages("MSS_HISTORY")]
            return sum(len(entry.get("held", ())) for entry in entries) == EVENTS + PEOPLE

        await until(all_wait, what="the new events wait")
        await server.apply(load_policy(policy(tmp_path / "less", {"first": (first.port, {})}), {}).require(),
                           server.settings)  # fmt: skip
        await until(lambda: len(together.requests) == 2 * PEOPLE, what="the digests of the removed rule")
        assert sorted(n for digest in digested(together.requests)[PEOPLE:] for n in digest) == [
            *range(100, 100 + PEOPLE)
        ]


async def test_a_redelivered_event_follows_its_recorded_plan(
    world: World, sides: Sides, tmp_path: Path
) -> None:
    """An acknowledgement was lost, and every window is over now: each event ends as it did before."""
    hooks = {name: await sides.web() for name in ("first", "few", "together", "later", "plain")}
    limits: dict[str, dict[str, Any]] = {
        "first": {"dedupe": {"key": "userid", "window": "1s"}},
        "few": {"throttle": {"key": "userid", "limit": 1, "per": "1s"}},
        "together": {"digest": {"key": "userid", "wait": "1s"}},
        "later": {"throttle": {"key": "userid", "limit": 1, "per": "1s", "on_limit": "digest"}},
        "plain": {"budget": {"limit": 2, "per": "1h", "on_limit": "drop"}},
    }
    rules = policy(tmp_path / "rules", {name: (hooks[name].port, limits[name]) for name in limits})
    events = [envelope({"userid": "u", "n": number}, reqid=f"r{number}") for number in range(3)]

    async def plans() -> list[Any]:
        entries = [json.loads(msg.data) for msg in await world.messages("MSS_HISTORY")]
        return [entry for entry in entries if entry["type"] == "planned"]

    async def is_quiet() -> bool:
        return not any([await world.unfinished(name) for name in ("MSS_NOTICE", "MSS_TIMER", "MSS_DELIVERY")])

    async with serving(world.address, {}, rules=rules):
        for data in events:
            await world.client.publish(NOTICE, data)
        await until(lambda: len(hooks["later"].requests) == 2, what="a message, and a digest of the others")
        await until(is_quiet, what="empty streams")
        before, requests_before = await plans(), {name: len(hook.requests) for name, hook in hooks.items()}
        assert requests_before == {"first": 1, "few": 1, "together": 1, "later": 2, "plain": 2}
        await asyncio.sleep(1.1)  # every window is over
        for data in events:
            await world.client.publish(NOTICE, data, headers={"Mss-Possible-Duplicate": "1"})
        # A new event, after them in the stream.
        await world.client.publish(NOTICE, envelope({"userid": "other", "n": 3}, reqid="r3"))
        await until(lambda: len(hooks["together"].requests) == 2, what="the new one")
        await until(is_quiet, what="empty streams")
        assert [entry for entry in await plans() if entry["event"]["reqid"] in ("r0", "r1", "r2")] == [
            entry for entry in before if entry["event"]["reqid"] in ("r0", "r1", "r2")
        ]
        assert {name: len(hook.requests) for name, hook in hooks.items()} == {
            "first": 2, "few": 2, "together": 2, "later": 3, "plain": 2,
        }  # fmt: skip


async def test_events_that_wait_for_the_budget_of_a_removed_rule_are_sent_at_once(
    world: World, sides: Sides, tmp_path: Path
) -> None:
    """No timer flushes them at the end of the hour. The server still stops on request."""
    hook = await sides.web()
    rules = policy(tmp_path / "rules", {"few": (hook.port, {"budget": "1/7d"})})

    async def held() -> int:
        entries = [json.loads(msg.data) for msg in await world.messages("MSS_HISTORY")]
        return sum(len(entry.get("held", ())) for entry in entries)

    async def is_planned() -> bool:
        return not await world.unfinished("MSS_NOTICE")

    async with serving(world.address, {}, rules=rules) as server:
        await world.client.publish(NOTICE, envelope({"n": 0}, reqid="r0"))
        await until(lambda: len(hook.requests) == 1, what="the first")
        # The first event is published again, and does not wait as well. There is one timer, of the second event.
        for number in (0, 1, 2):
            # The event is in the stream before the stream is checked to be empty.
            await world.client.jetstream().publish(NOTICE, envelope({"n": number}, reqid=f"r{number}"))
            await until(is_planned, what=f"{number} is planned")
        assert await held() == 2
        assert await world.stored("MSS_TIMER") == 1
        less = load_policy(policy(tmp_path / "less", {"other": (hook.port, {})}), {}).require()
        await server.apply(less, server.settings)
        await until(lambda: len(hook.requests) >= 2, what="the digests of the removed rule")
    assert digested(hook.requests[1:]) == [[1, 2]]
