"""Dedupe, throttle and digest over two replicas: everybody gets what is due to them, and nothing is lost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from contract.channels.sides import World as Sides
from replicas import serving
from support import envelope, until
from world import World

from engine.loader import load_policy

NOTICE = "kiam.console.notice.account.password"
PEOPLE, EVENTS = 5, 60


@pytest.fixture
async def sides() -> AsyncIterator[Sides]:
    async with AsyncExitStack() as stack:
        yield Sides(stack)


def policy(folder: Path, rules: dict[str, tuple[int, dict[str, Any]]]) -> Path:
    """One rule for each webhook, with its limits."""
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


def told(requests: list[Any]) -> list[list[int]]:
    """The numbers of the events in each digest that arrived."""
    bodies = [json.loads(body)["data"]["payload"] for _, body in requests]
    return [[each["n"] for each in body["events"]] for body in bodies]


async def test_two_replicas_keep_to_one_limit_and_gather_one_digest(
    world: World, sides: Sides, tmp_path: Path
) -> None:
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
        await until(lambda: sum(map(len, told(together.requests))) >= EVENTS, what="every event in a digest")
        await until(lambda: len(few.requests) >= 2 * PEOPLE, what="as many as the throttle lets pass")
        digests = told(together.requests)
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
        # What was gathered for a rule that goes is sent at once.
        for number in range(PEOPLE):
            await world.client.publish(NOTICE, envelope({"userid": f"u{number}", "n": 100 + number}))

        async def all_wait() -> bool:
            entries = [json.loads(msg.data) for msg in await world.messages("MSS_HISTORY")]
            return sum(len(entry.get("held", ())) for entry in entries) == EVENTS + PEOPLE

        await until(all_wait, what="the new events wait")
        await server.adopt(load_policy(policy(tmp_path / "less", {"first": (first.port, {})}), {}).require(),
                           server.settings)  # fmt: skip
        await until(lambda: len(together.requests) == 2 * PEOPLE, what="what was gathered")
        assert sorted(n for digest in told(together.requests)[PEOPLE:] for n in digest) == [
            *range(100, 100 + PEOPLE)
        ]
