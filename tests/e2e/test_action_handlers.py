"""Handlers that call other services, and changes while actions are served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats
import nats.errors
import pytest
from contract.channels.sides import DROP, SILENT, FakeWeb, free_port
from contract.channels.sides import World as Sides
from nats.aio.msg import Msg
from support.external_services import World
from support.in_process_server import PREFIX, ask, end_subscription, serving, verify
from support.processes import NatsServer
from support.waiting import LIMIT, until
from support.wire_messages import envelope

from engine.actions.service import QUEUE_GROUP
from engine.model.errors import PolicyError
from engine.planning.requests import NOT_BEGUN, OUTCOME_UNKNOWN


@pytest.fixture
async def sides() -> AsyncIterator[Sides]:
    async with AsyncExitStack() as stack:
        yield Sides(stack)


def policy(folder: Path, **actions: Any) -> Path:
    (folder / "rules").mkdir()
    (folder / "rules" / "actions.yaml").write_text(json.dumps({"actions": actions}))
    return folder / "rules"


def http(web: FakeWeb, **more: Any) -> dict[str, Any]:
    return {"handler": "http", "url": f"http://127.0.0.1:{web.port}/check", "timeout": "500ms", **more}


async def test_http_returns_the_answer_of_the_service(world: World, sides: Sides, tmp_path: Path) -> None:
    web = await sides.web(body=b'{"ok": true, "n": 18446744073709551617}')
    rules = policy(tmp_path, checkcaptcha=http(web, headers={"Authorization": "Bearer ${TOKEN}"}))
    async with serving(world.address, {"TOKEN": "t"}, rules=rules):
        reqid = uuid4().hex
        for _ in range(2):
            reply = await ask(world.client, "checkcaptcha", {"token": "x", "big": 2**64}, reqid=reqid)
            assert (reply["code"], reply["payload"]) == (0, {"ok": True, "n": 2**64 + 1})
    ((headers, body),) = web.requests
    assert json.loads(body) == {"token": "x", "big": 2**64}
    assert headers["Authorization"] == "Bearer t" and reqid in headers["Idempotency-Key"]


@pytest.mark.parametrize(
    ("web", "code", "message"),
    [
        ({"status": 204}, 0, "ok"),
        ({"body": b"null"}, 0, "ok"),
        ({"status": 503, "body": b"at /srv/app"}, 1, "the service answers HTTP 503"),
        ({"status": 302, "headers": {"Location": "http://127.0.0.1/"}}, 1, "the service answers HTTP 302"),
        ({"body": b"[1]"}, 1, "the service's answer is not a JSON object"),
        ({"body": b"<html>"}, 1, "the service's answer is not a JSON object"),
        ({"body": b'{"a": NaN}'}, 1, "the service's answer is not a JSON object"),
        ({"body": b'{"a":1},"reqid":"x"'}, 1, "the service's answer is not a JSON object"),
        ({"behaviour": "endless"}, 1, "the service's answer is too large"),
        ({"behaviour": SILENT}, 1, OUTCOME_UNKNOWN),
        ({"behaviour": DROP}, 1, OUTCOME_UNKNOWN),
    ],
    ids=str,
)
async def test_the_answer_of_the_service_decides_the_reply(
    world: World, sides: Sides, tmp_path: Path, web: dict[str, Any], code: int, message: str
) -> None:
    rules = policy(tmp_path, check=http(await sides.web(**web)))
    async with serving(world.address, {}, rules=rules):
        reply = await ask(world.client, "check", {})
    assert (reply["code"], reply["message"], reply["payload"]) == (code, message, None)


async def test_http_reports_a_service_that_does_not_listen(world: World, tmp_path: Path) -> None:
    rules = policy(tmp_path, check=http(FakeWeb(port=free_port())))
    async with serving(world.address, {}, rules=rules):
        reply = await ask(world.client, "check", {})
    assert reply["message"] == "not carried out: the service cannot be reached"


async def test_forward_returns_the_reply_unchanged(world: World, tmp_path: Path) -> None:
    rules = policy(
        tmp_path,
        legacything={"handler": "forward", "subject": "legacy.thing", "timeout": "500ms"},
        gone={"handler": "forward", "subject": "legacy.gone"},
    )
    answers = {"code": 7, "message": "from afar", "payload": {"a": [1, 2**63]}}
    broken: dict[str, bytes] = {}

    async def program(msg: Msg) -> None:
        asked = json.loads(msg.data)
        reply = {"version": "0.1.1", "time": 1, "reqid": asked["reqid"], **answers, "extra": 1}
        await msg.respond(broken.get(asked["payload"].get("how"), json.dumps(reply).encode()))

    async def silence(_: Msg) -> None:
        return

    await world.client.subscribe("legacy.thing", cb=program)
    async with serving(world.address, {}, rules=rules):
        reply = await ask(world.client, "legacything", {"x": 1})
        assert {key: reply[key] for key in answers} == answers
        assert (await ask(world.client, "gone", {}))["message"] == "not carried out: nobody serves it"
        broken.update(
            nonsense=b"hello", other=b'{"version":"0.1.1","time":1,"reqid":"x","code":0,"message":"ok"}'
        )
        for how in broken:
            reply = await ask(world.client, "legacything", {"how": how})
            assert (reply["code"], reply["message"]) == (1, "the program's answer is not a reply")
        await world.client.subscribe("legacy.gone", cb=silence)


async def test_forward_to_itself_is_refused(world: World, tmp_path: Path) -> None:
    rules = policy(tmp_path, loop={"handler": "forward", "subject": f"{PREFIX}.loop"})
    with pytest.raises((PolicyError, ExceptionGroup)):
        async with serving(world.address, {}, rules=rules):
            pass


async def test_no_action_begins_after_the_caller_stops_waiting(
    world: World, sides: Sides, tmp_path: Path
) -> None:
    web = await sides.web()
    async with serving(world.address, {}, rules=policy(tmp_path, check=http(web)), action_deadline=1.05):
        data = envelope({}, reqid="a" * 32, sent=None)
        first = await world.client.request(f"{PREFIX}.check", data, timeout=5)
        assert json.loads(first.data)["code"] == 0
        late = json.loads(envelope({}, reqid="b" * 32))
        late["time"] -= 2_000_000
        reply = json.loads((await world.client.request(f"{PREFIX}.check", json.dumps(late).encode())).data)
        assert (reply["code"], reply["message"]) == (1, NOT_BEGUN)
    assert len(web.requests) == 1


async def test_an_action_moves_between_servers_without_a_failure(world: World) -> None:
    theirs = await nats.connect(world.address)
    served = 0

    async def program(msg: Msg) -> None:
        nonlocal served
        served += 1
        asked = json.loads(msg.data)
        reply = {"version": "0.1.1", "time": 1, "reqid": asked["reqid"], "code": 0, "message": "theirs"}
        await msg.respond(json.dumps({**reply, "payload": None}).encode())

    said: list[str] = []
    stop = asyncio.Event()

    async def keep_asking() -> None:
        while not stop.is_set():
            reqid = uuid4().hex
            data = envelope({"ipaddr": "10.0.0.1"}, reqid=reqid)
            reply = json.loads((await world.client.request(f"{PREFIX}.iplocation", data, timeout=5)).data)
            assert reply["reqid"] == reqid
            said.append(reply["message"])

    async def more(count: int) -> None:
        target = len(said) + count
        await until(lambda: len(said) >= target or any(task.done() for task in asking), what="more replies")

    async with serving(world.address, world.environment) as server:
        asking = [asyncio.create_task(keep_asking()) for _ in range(16)]
        await more(200)
        for _ in range(3):
            taking = await theirs.subscribe(f"{PREFIX}.iplocation", queue=QUEUE_GROUP, cb=program)
            await theirs.flush()
            await server.apply(
                server.rulebook, replace(server.settings, actions_off=frozenset({"iplocation"}))
            )
            assert server.actions is not None and "iplocation" not in server.actions.keys
            mark = len(said) + 32  # either may have answered earlier requests
            await more(200)
            assert set(said[mark:]) == {"theirs"}
            await server.apply(server.rulebook, replace(server.settings, actions_off=frozenset()))
            await end_subscription(theirs, taking)
            mark = len(said) + 32
            await more(200)
            assert set(said[mark:]) == {"ip(10.0.0.1) is a private address"}
        # A change of settings does not interrupt the service.
        assert server.actions is not None
        for number in range(20):
            specs = {k: replace(s, queue=1000 + number) for k, s in server.rulebook.actions.items()}
            await server.actions.apply(specs)
            await more(5)
        stop.set()
        await asyncio.gather(*asking)
    assert served > 0
    await theirs.close()


async def test_handlers_that_do_not_open_change_nothing(world: World) -> None:
    async with serving(world.address, world.environment) as server:
        assert server.actions is not None
        specs = dict(server.rulebook.actions)
        specs["bad"] = replace(specs["iplocation"], key="bad", handler="http", options={"url": "ftp://x"})
        with pytest.raises(PolicyError, match="not an http or https"):
            await server.actions.apply(specs)
        assert set(server.actions.keys) == set(server.rulebook.actions)
        assert (await ask(world.client, "sendverifyemail", verify()))["code"] == 0


async def test_standard_tooling_sees_the_service(world: World) -> None:
    async def tooling(subject: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads((await world.client.request(subject, timeout=LIMIT)).data)
        return answer

    async with serving(world.address, world.environment) as server:
        for n in range(3):
            await ask(world.client, "iplocation", {"ipaddr": f"10.0.0.{n}"})
        await ask(world.client, "sendverifyemail", verify())
        for verb in ("PING", "INFO", "STATS"):
            whole = await tooling(f"$SRV.{verb}.mss")
            assert whole["type"] == f"io.nats.micro.v1.{verb.lower()}_response"
            assert whole["name"] == "mss" and whole["id"] and whole["version"].count(".") == 2
            assert (await tooling(f"$SRV.{verb}"))["id"] == whole["id"]
            assert (await tooling(f"$SRV.{verb}.mss.{whole['id']}"))["id"] == whole["id"]
        info = await tooling("$SRV.INFO.mss")
        keys = set(server.rulebook.actions)
        assert {e["subject"] for e in info["endpoints"]} == {
            f"{PREFIX}.{key}" for key in (*keys, *(f"{key}.*" for key in keys if "preferences." in key))
        }
        assert len({e["name"] for e in info["endpoints"]}) == len(keys) + 3
        assert {e["queue_group"] for e in info["endpoints"]} == {QUEUE_GROUP}
        stats = {e["name"]: e for e in (await tooling("$SRV.STATS.mss"))["endpoints"]}
        assert (stats["iplocation"]["num_requests"], stats["iplocation"]["num_errors"]) == (3, 3)
        assert stats["iplocation"]["last_error"] == "1:ip(10.0.0.2) is a private address"
        assert (stats["sendverifyemail"]["num_requests"], stats["sendverifyemail"]["num_errors"]) == (1, 0)
        assert stats["sendverifyemail"]["average_processing_time"] > 0


async def test_narrow_permissions_suffice_and_do_not_need_the_service_subjects(
    world: World, tmp_path: Path
) -> None:
    broker = NatsServer(
        tmp_path / "narrow",
        """
        authorization { users: [
          {user: mss, password: p, permissions: {
            publish: {allow: ["$JS.API.>", "$JS.ACK.>", "$KV.>", "mss.>", "kiam._inbox.>"]}
            subscribe: {allow: ["kiam.console.action.> mss-actions", "_INBOX_mss.>"]}
          }}
          {user: kiam, password: p, permissions: {
            publish: {allow: ["kiam.console.action.>"]}, subscribe: {allow: ["kiam._inbox.>"]}
          }}
        ]}
        """,
    )
    await broker.start()
    access = {"user": "mss", "password": "p"}
    async with serving(broker.address, world.environment, access=access):
        client = await nats.connect(broker.address, user="kiam", password="p", inbox_prefix="kiam._inbox")
        assert (await ask(client, "sendverifyemail", verify(), limit=5))["code"] == 0
        assert (await ask(client, "iplocation", {"ipaddr": "8.8.8.8"}, limit=5))["code"] == 1
        await client.close()
    await broker.kill()
