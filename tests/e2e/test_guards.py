"""What would go round for ever comes to rest, and the operators hear of it once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from contract.channels.sides import World as Sides
from support.external_services import World
from support.in_process_server import serving
from support.waiting import until
from support.wire_messages import envelope, login

NOTICE = "kiam.console.notice.login.abnormal"


@pytest.fixture
async def sides() -> AsyncIterator[Sides]:
    async with AsyncExitStack() as stack:
        yield Sides(stack)


def policy(folder: Path, hook: int, smtp: int, **rule: Any) -> Path:
    """A failing webhook for everything, MSS's own notices included, and a mail to the operators."""
    mta = {"host": "127.0.0.1", "port": smtp, "tls": "none"}
    quick = {"retry": {"attempts": 2, "first": "10ms", "max": "10ms"}}
    rules = {
        "channels": {
            "hook": {"type": "webhook", "url": f"http://127.0.0.1:{hook}/", **quick},
            "email": {"type": "email", "from": "a@example.com", "mtas": [mta]},
        },
        "people": {"ops": {"email": "ops@example.com"}},
        "rules": [
            {"id": "all", "event": "notice.>", "notify": ["hook"], **rule},
            {"id": "trouble", "event": "notice.mss.*", "notify": ["email"], "to": "ops"},
        ],
    }
    words = folder / "rules" / "templates" / "trouble"
    words.mkdir(parents=True)
    (folder / "rules" / "policy.yaml").write_text(json.dumps(rules))
    (words / "email.txt").write_text("---\nsubject: '{{ event.key }}'\n---\n{{ payload }}")
    return folder / "rules"


async def at_rest(world: World, *streams: str) -> None:
    async def is_quiet() -> bool:
        waiting = [await world.unfinished(name) for name in ("MSS_NOTICE", "MSS_DELIVERY", *streams)]
        return not any(waiting)

    await until(is_quiet, what="nothing on its way")
    before = await world.stored("MSS_HISTORY")
    await asyncio.sleep(0.3)  # an end is the absence of more: there is nothing else to wait for
    assert await is_quiet() and await world.stored("MSS_HISTORY") == before


async def test_a_rule_on_its_own_dead_letters_does_not_loop(
    world: World, sides: Sides, tmp_path: Path
) -> None:
    hook, smtp = await sides.web(status=400), await sides.smtp()
    async with serving(world.address, {}, rules=policy(tmp_path, hook.port, smtp.port)):
        for number in range(30):
            await world.client.publish(NOTICE, envelope(login(number)))
        await until(lambda: smtp.bodies, what="the operators hear of it")
        await until(lambda: len(hook.requests) >= 31, what="every event and the announcement")
        await at_rest(world, "MSS_TIMER")
    assert len(hook.requests) == 31
    assert [str(mail["Subject"]) for mail in smtp.mails] == ["mss.dead"]


async def test_the_budget_stops_a_program_that_publishes_an_event_for_each_message(
    world: World, sides: Sides, tmp_path: Path
) -> None:
    hook, smtp = await sides.web(), await sides.smtp()
    stop = asyncio.Event()

    async def echo() -> None:
        """A program that knows nothing of hops."""
        answered = 0
        while not stop.is_set():
            for _ in hook.requests[answered:]:
                answered += 1
                await world.client.publish(NOTICE, envelope(login(1000 + answered)))
            await asyncio.sleep(0.005)

    echoing = asyncio.create_task(echo())
    async with serving(world.address, {}, rules=policy(tmp_path, hook.port, smtp.port, budget="20/365d")):
        await world.client.publish(NOTICE, envelope(login(1)))
        await until(lambda: smtp.bodies, what="the operators hear of it")
        await at_rest(world)
        stop.set()
        await echoing
        await at_rest(world)
    assert len(hook.requests) == 20
    assert [str(mail["Subject"]) for mail in smtp.mails] == ["mss.budget"]
    history = [json.loads(msg.data) for msg in await world.messages("MSS_HISTORY")]
    held = [each for entry in history for each in entry.get("held", ())]
    assert {each["reason"] for each in held} == {"budget"}
    assert all(each["digest"] for each in held)


async def test_messages_of_two_replicas_over_the_budget_are_sent_as_one_digest(
    world: World, sides: Sides, tmp_path: Path
) -> None:
    hook, smtp = await sides.web(), await sides.smtp()
    rules = policy(tmp_path, hook.port, smtp.port, budget="3/3s")

    def told() -> list[list[str]]:
        """Who each message is about."""
        payloads = [json.loads(body)["data"]["payload"] for _, body in hook.requests]
        return [[each.get("userid", "") for each in said.get("events", [said])] for said in payloads]

    async with serving(world.address, {}, rules=rules), serving(world.address, {}, rules=rules):
        for number in range(40):
            await world.client.publish(NOTICE, envelope({"userid": f"u{number}", "phone": "+8613800000000"}))
        await until(lambda: sum(map(len, told())) >= 41, what="every event and the notice of the budget")
        await at_rest(world, "MSS_TIMER")
    everybody = [user for message in told() for user in message if user]
    assert sorted(everybody) == sorted(f"u{number}" for number in range(40))
    assert (
        len(hook.requests) <= 12
    )  # four windows at most: the events take one or two, the digests one or two
    assert [str(mail["Subject"]) for mail in smtp.mails] == ["mss.budget"]
