"""A running server takes over a changed policy whole, or not at all."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats
import pytest
from aiohttp import ClientSession
from contract.channels.sides import World as Sides
from nats.aio.msg import Msg
from support.external_services import World
from support.in_process_server import end_subscription
from support.processes import Engine, free_port, write_config
from support.waiting import LIMIT, until
from support.wire_messages import envelope, login

from engine.actions.service import QUEUE_GROUP

NOTICE = "kiam.console.notice.login.abnormal"
ACTION = "kiam.console.action"


@pytest.fixture
async def sides() -> AsyncIterator[Sides]:
    async with AsyncExitStack() as stack:
        yield Sides(stack)


class Place:
    """A policy in a folder, the settings beside it, and the engine that serves them."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world
        (folder / "rules" / "templates" / "t").mkdir(parents=True)
        self.write(words="old words")
        self.settings()
        self.engine = Engine(config=folder / "mss.yaml", environment=world.environment)

    def settings(self, **more: Any) -> None:
        write_config(self.folder, self.world.address, self.folder / "rules", **more)

    def write(self, *, words: str | None = None, text: str = "", **sections: Any) -> None:
        policy = self.folder / "rules" / "policy.yaml"
        if text or sections:
            policy.write_text(text or json.dumps(sections))
        if words is not None:
            (self.folder / "rules" / "templates" / "t" / "default.txt").write_text(words)

    async def reload(self) -> str:
        """Send SIGHUP and return the last line that the engine says of it."""
        before = len(self.engine.log)
        assert self.engine.process is not None
        self.engine.process.send_signal(signal.SIGHUP)

        def ended() -> bool:
            return any("revision" in line and "reload:" in line for line in self.engine.log[before:])

        await until(ended, what="the reload has ended")
        return "".join(self.engine.log[before:])


def hook(port: int, **more: Any) -> dict[str, Any]:
    retry = {"attempts": 100, "first": "100ms", "max": "200ms"}
    return {"type": "apprise", "url": f"json://127.0.0.1:{port}/", "retry": retry, **more}


def rule(id_: str, channel: str) -> dict[str, Any]:
    return {"id": id_, "event": "notice.login.abnormal", "template": "t", "notify": [channel]}


def words(side: Any) -> list[str]:
    return [json.loads(body)["message"] for _, body in side.requests]


async def test_a_stored_delivery_is_sent_unchanged_after_its_rule_and_channel_are_removed(
    world: World, sides: Sides, tmp_path: Path
) -> None:
    away, other = await sides.web(status=503), await sides.web()
    place = Place(tmp_path, world)
    place.write(channels={"one": hook(away.port)}, rules=[rule("first", "one")])
    await place.engine.start()
    await world.client.publish(NOTICE, envelope(login(1)))
    await until(lambda: away.requests, what="the first attempt")
    place.write(words="new words", channels={"two": hook(other.port)}, rules=[rule("second", "two")])
    assert "before" in await place.reload()
    await world.client.publish(NOTICE, envelope(login(2)))
    await until(lambda: other.requests, what="the new policy's message")
    away.status = 200
    before = len(away.requests)
    await until(lambda: len(away.requests) > before, what="the old policy's message")

    async def is_empty() -> bool:
        return not await world.stored("MSS_DELIVERY")

    await until(is_empty, what="nothing stored")
    assert set(words(away)) == {"old words"} and words(other) == ["new words"]
    await until(
        lambda: any("channel one was removed" in line for line in place.engine.log), what="it says so"
    )
    history = [json.loads(msg.data) for msg in await world.messages("MSS_HISTORY")]
    revisions = {entry["rule"]: entry["revision"] for entry in history if entry["type"] == "receipt"}
    assert len(set(revisions.values())) == 2
    assert await place.engine.end() == 0, "".join(place.engine.log)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": "rules:\n  - id: x\n    event: notice.x\n    notify: [nowhere]\n"}, "policy.yaml:4:14"),
        ({"text": "rules: [}"}, "policy.yaml:1:9"),
        ({"words": "{{ broken"}, "default.txt:1"),
        (
            {
                "channels": {"one": {"type": "console"}},
                "rules": [rule("first", "one")],
                "tests": [
                    {"name": "wrong", "given": {"event": "notice.login.abnormal"}, "expect": {"rules": []}}
                ],
            },
            "the test 'wrong' fails",
        ),
        ({"channels": {"one": {"type": "nats", "subject": "no subject"}}, "rules": []}, "policy.yaml:1"),
    ],
    ids=["unknown channel", "no YAML", "template", "failing test", "channel"],
)
async def test_a_policy_with_an_error_changes_nothing_and_the_log_has_its_place(
    world: World, sides: Sides, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    side = await sides.web()
    place = Place(tmp_path, world)
    good = {"channels": {"one": hook(side.port)}, "rules": [rule("first", "one")]}
    place.write(**good)
    await place.engine.start()
    place.write(**change)
    log = await place.reload()
    assert said in log and "stays active" in log
    await world.client.publish(NOTICE, envelope(login(1)))
    await until(lambda: side.requests, what="the old policy serves")
    place.write(words="mended", **good)
    assert "stays" not in await place.reload()
    await world.client.publish(NOTICE, envelope(login(2)))
    await until(lambda: "mended" in words(side), what="the mended policy serves")
    assert await place.engine.end() == 0, "".join(place.engine.log)


async def test_a_saved_file_is_reloaded_and_a_broken_one_is_reported(
    world: World, sides: Sides, tmp_path: Path
) -> None:
    side = await sides.web()
    place = Place(tmp_path, world)
    good = {"channels": {"one": hook(side.port)}, "rules": [rule("first", "one")]}
    place.write(**good)
    port = free_port()
    place.settings(reload={"watch": True}, metrics={"listen": f"127.0.0.1:{port}"})
    await place.engine.start()

    async def metrics() -> str:
        async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            return await answer.text()

    place.write(text="rules:\n  - id: x\n    event: notice.x\n    notify: [nowhere]\n")
    await until(lambda: "stays active" in "".join(place.engine.log), what="the broken file is refused")
    assert "policy.yaml:4:14" in "".join(place.engine.log)
    assert (
        'mss_policy_reload_problem_info{code="unknown-channel",column="14",file="policy.yaml",line="4"} 1.0'
        in await metrics()
    )
    place.write(words="saved", **good)
    await until(lambda: ", before " in "".join(place.engine.log), what="the mended file is taken over")
    assert "mss_policy_reload_problem_info{" not in await metrics()
    await world.client.publish(NOTICE, envelope(login(1)))
    await until(lambda: words(side) == ["saved"], what="the new words")
    (tmp_path / "mss.yaml").write_text("ack_wait: 7\n")
    await until(lambda: "mss.yaml:1:11" in "".join(place.engine.log), what="mss.yaml is watched too")
    assert await place.engine.end() == 0, "".join(place.engine.log)


async def test_settings_that_need_a_restart_are_logged(world: World, tmp_path: Path) -> None:
    place = Place(tmp_path, world)
    place.write(channels={"one": {"type": "console"}}, rules=[rule("first", "one")])
    await place.engine.start()
    place.settings(ack_wait="7s", namespace="other")
    log = await place.reload()
    assert "namespace, ack_wait" in log and "nothing has changed" in log
    (tmp_path / "mss.yaml").write_text("ack_wait: 7\n")
    assert "mss.yaml:1:11" in await place.reload()
    assert await place.engine.end() == 0, "".join(place.engine.log)


async def test_an_action_is_switched_off_and_on_again_without_a_failed_request(
    world: World, tmp_path: Path
) -> None:
    place = Place(tmp_path, world)
    place.write(actions={"iplocation": {"handler": "iplocation", "database": str(tmp_path / "none.mmdb")}})
    await place.engine.start()
    theirs = await nats.connect(world.address)

    async def program(msg: Msg) -> None:
        reply = {"version": "0.1.1", "time": 1, "reqid": json.loads(msg.data)["reqid"], "code": 0}
        await msg.respond(json.dumps({**reply, "message": "theirs", "payload": None}).encode())

    said: list[str] = []
    done = asyncio.Event()

    async def keep_asking() -> None:
        while not done.is_set():
            data = envelope({"ipaddr": "10.0.0.1"}, reqid=uuid4().hex)
            said.append(
                json.loads((await world.client.request(f"{ACTION}.iplocation", data, timeout=LIMIT)).data)[
                    "message"
                ]
            )

    asking = [asyncio.create_task(keep_asking()) for _ in range(8)]

    async def more(expected: Callable[[str], bool]) -> None:
        start = len(said) + len(asking)  # what is on its way may be anybody's
        await until(lambda: len(said) > start + 50 or any(task.done() for task in asking), what="replies")
        assert all(map(expected, said[start:]))

    for _ in range(3):
        await more(lambda message: message == "ip(10.0.0.1) is a private address")
        taking = await theirs.subscribe(f"{ACTION}.iplocation", queue=QUEUE_GROUP, cb=program)
        await theirs.flush()
        place.settings(services={"actions": {"iplocation": False}})
        await place.reload()
        await more(lambda message: message == "theirs")
        place.settings()
        await place.reload()
        await end_subscription(theirs, taking)
    await more(lambda message: message != "theirs")
    done.set()
    await asyncio.gather(*asking)
    await theirs.close()
    assert await place.engine.end() == 0, "".join(place.engine.log)
