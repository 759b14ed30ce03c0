"""Actions while replicas are killed and mail servers fail: no mail twice, and an unknown outcome is reported."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats.errors
import pytest
import trustme
from contract.channels.sides import DROP, SILENT, FakeSmtp
from contract.channels.sides import World as Sides
from support.external_services import World
from support.in_process_server import PREFIX, ask, checked, serving, verify
from support.locations import ROOT
from support.processes import Engine, write_config
from support.waiting import LIMIT, until
from support.wire_messages import envelope

from engine.actions.ledger import action_key
from engine.planning.requests import NOT_BEGUN, OUTCOME_UNKNOWN

SOAK = bool(os.environ.get("MSS_SOAK"))  # at full size: minutes
DEFERRED = "not delivered: try again later"
# Not recorded as results: on a slow machine, a caller repeats its request.
REFUSALS = (
    NOT_BEGUN,
    "busy: too many requests in flight",
    "not carried out: the ledger cannot be reached",
    "still being carried out: outcome not known yet",
)
SLOW = 0.5  # seconds to wait for a silent mail server


async def callers(world: World, reqid: str, number: int, patience: float) -> tuple[str, bytes]:
    """Send a request, and repeat it with the same reqid if its replica is gone."""
    while True:
        try:
            data = envelope(verify(number), reqid=reqid)
            msg = await world.client.request(f"{PREFIX}.sendverifyemail", data, timeout=patience)
        except (nats.errors.TimeoutError, nats.errors.NoRespondersError):
            continue
        if checked(msg.data, reqid)["message"] in REFUSALS:
            await asyncio.sleep(1)
            continue
        return reqid, msg.data


@pytest.mark.timeout(900 if SOAK else 120)
async def test_killed_replicas_send_no_mail_twice(world: World, tmp_path: Path) -> None:
    count, patience = (3000, 10.0) if SOAK else (90, 2.0)
    engines = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        config = write_config(tmp_path / str(number), world.address, ROOT / "rules")
        engines.append(Engine(config=config, environment=world.environment))
    await asyncio.gather(*(engine.start() for engine in engines))
    kills = 0

    async def keep_killing() -> None:
        nonlocal kills
        for engine in itertools.cycle(engines):
            if not SOAK and kills == 2:
                return
            # One per second; if a start takes longer, once all three serve again.
            pause = asyncio.create_task(asyncio.sleep(1.0 if SOAK else 0.3))
            await engine.end(signal.SIGKILL)
            kills += 1
            await engine.start()
            await pause

    reqids = {n: uuid4().hex for n in range(count)}
    numbers = [n for n in range(count) for _ in range(3 if n % 10 == 0 else 1)]
    began = time.monotonic()
    killing = asyncio.create_task(keep_killing())
    answers = await asyncio.gather(*(callers(world, reqids[n], n, patience) for n in numbers))
    took = time.monotonic() - began
    killing.cancel()
    await asyncio.gather(killing, return_exceptions=True)
    await asyncio.gather(*(engine.end(signal.SIGKILL) for engine in engines))
    said = {reqid: json.loads(data) for reqid, data in answers}
    results = Counter((reply["code"], reply["message"]) for reply in said.values())
    mails = Counter(mail["To"] for _, mail in world.caught.mails)
    print(
        f"{kills} kills in {took:.1f} s, {dict(results)}, {len(mails)} people mailed, at most {max(mails.values())} times"
    )
    assert kills >= 1
    assert len(set(answers)) == count  # all replies of one reqid are equal
    assert set(results) <= {(0, "ok"), (1, OUTCOME_UNKNOWN)}
    assert max(mails.values()) == 1
    sent = {f"u{n}@example.com" for n, reqid in reqids.items() if said[reqid]["code"] == 0}
    assert sent <= set(mails)


@pytest.mark.skipif(not SOAK, reason="MSS_SOAK=1 runs it")
async def test_three_processes_answer_three_thousand_requests_once_each(world: World, tmp_path: Path) -> None:
    engines = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        config = write_config(tmp_path / str(number), world.address, ROOT / "rules")
        engines.append(Engine(config=config, environment=world.environment))
    await asyncio.gather(*(engine.start() for engine in engines))
    reqids = {n: uuid4().hex for n in range(3000)}
    numbers = [n for n in range(3000) for _ in range(3 if n % 10 == 0 else 1)]
    began = time.monotonic()
    answers = await asyncio.gather(*(callers(world, reqids[n], n, LIMIT) for n in numbers))
    results = Counter(json.loads(data)["message"] for _, data in answers)
    print(f"{len(numbers)} requests in {time.monotonic() - began:.1f} s: {dict(results)}")
    await asyncio.gather(*(engine.end() for engine in engines))
    assert {json.loads(data)["code"] for _, data in answers} == {0}
    assert len(set(answers)) == 3000
    assert Counter(m["To"] for _, m in world.caught.mails) == {f"u{n}@example.com": 1 for n in range(3000)}


@pytest.fixture
async def sides() -> AsyncIterator[Sides]:
    async with AsyncExitStack() as stack:
        yield Sides(stack)


def policy(folder: Path, *mtas: dict[str, Any]) -> Path:
    """Write a policy that sends its mail over ``mtas``, with the templates of the example."""
    described = [{"host": "127.0.0.1", "tls": "none", **mta} for mta in mtas]
    email = {"type": "email", "from": "a@example.com", "mtas": described, "timeout": f"{SLOW}s"}
    notify = {"handler": "notify", "channel": "email", "template": "t"}
    rules = {
        "channels": {"email": email},
        "actions": {
            "sendverifyemail": {**notify, "to": {"email": "to", "locale": "locale"}, "sensitive": ["href"]},
            "tellall": {**notify, "to": {"email": "everybody"}},
        },
    }
    (folder / "rules" / "templates" / "t").mkdir(parents=True)
    (folder / "rules" / "policy.yaml").write_text(json.dumps(rules))
    (folder / "rules" / "templates" / "t" / "email.txt").write_text("---\nsubject: s\n---\nHello")
    return folder / "rules"


@pytest.mark.parametrize(
    ("answers", "message", "at_the_healthy"),
    [
        ({"greeting": SILENT}, "ok", 1),
        ({"MAIL": SILENT}, "ok", 1),
        ({"DATA": SILENT}, "ok", 1),
        ({"RCPT": "450 later"}, "ok", 1),
        ({"body": "451 later"}, "ok", 1),
        ({"body": SILENT}, OUTCOME_UNKNOWN, 0),
        ({"body": DROP}, OUTCOME_UNKNOWN, 0),
        ({"QUIT": DROP}, "ok", 0),
        ({"QUIT": SILENT}, "ok", 0),
    ],
    ids=str,
)
async def test_the_spare_server_is_used_only_after_a_definite_failure(
    world: World, sides: Sides, tmp_path: Path, answers: dict[str, Any], message: str, at_the_healthy: int
) -> None:
    bad, good = await sides.smtp(**answers), await sides.smtp()
    rules = policy(tmp_path, {"name": "bad", "port": bad.port}, {"name": "good", "port": good.port})
    async with serving(world.address, {}, rules=rules):
        reqid, began = uuid4().hex, time.monotonic()
        reply = await ask(world.client, "sendverifyemail", verify(), reqid=reqid)
        assert time.monotonic() - began < SLOW + 1
        assert (reply["code"], reply["message"]) == (0 if message == "ok" else 1, message)
        assert await ask(world.client, "sendverifyemail", verify(), reqid=reqid) == reply
    assert len(good.bodies) == at_the_healthy
    assert len(bad.bodies) <= 1


async def test_a_mail_with_one_refused_recipient_of_two_is_delivered(
    world: World, sides: Sides, tmp_path: Path
) -> None:
    server = await sides.smtp(RCPT=lambda command: "550 no such user" if "gone@" in command else "")
    good = await sides.smtp()
    async with serving(world.address, {}, rules=policy(tmp_path, {"port": server.port}, {"port": good.port})):
        payload = {"everybody": ["here@example.com", "gone@example.com"]}
        assert (await ask(world.client, "tellall", payload))["code"] == 0
    assert len(server.bodies) == 1 and good.bodies == []


async def test_a_server_with_a_certificate_for_another_name_is_not_used(
    world: World, sides: Sides, tmp_path: Path
) -> None:
    authority = trustme.CA()
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("another.example.com").configure_cert(context)
    wrong, good = await sides.smtp(tls=context), await sides.smtp()
    secure = {"port": wrong.port, "tls": "implicit", "ca": str(ca), "user": "u", "password": "hunter2"}
    async with serving(world.address, {}, rules=policy(tmp_path, secure, {"port": good.port})):
        assert (await ask(world.client, "sendverifyemail", verify()))["code"] == 0
    assert len(good.bodies) == 1 and wrong.commands == []


async def test_an_error_reply_reveals_nothing_about_the_server(
    world: World, sides: Sides, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = "451 4.3.0 disk full on /var/spool/postfix at mx1.internal for secret-1"
    server: FakeSmtp = await sides.smtp(MAIL=said)
    mta = {"name": "mx1.internal", "port": server.port}
    async with serving(world.address, {}, rules=policy(tmp_path, mta)):
        reply = await ask(world.client, "sendverifyemail", verify(href="secret-1"))
    assert (reply["code"], reply["message"], reply["payload"]) == (1, DEFERRED, None)
    assert "disk full on /var/spool/postfix" in caplog.text and "secret-1" not in caplog.text


async def test_a_stopping_server_finishes_actions_in_flight(
    world: World, sides: Sides, tmp_path: Path
) -> None:
    server = await sides.smtp(body=SILENT)
    async with serving(world.address, {}, rules=policy(tmp_path, {"port": server.port})):
        asking = asyncio.create_task(ask(world.client, "sendverifyemail", verify()))
        await until(lambda: server.bodies, what="the mail is on its way")
    assert (await asking)["message"] == OUTCOME_UNKNOWN


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_request_of_a_dead_replica_is_unknown_unless_it_is_idempotent(
    world: World, sides: Sides, tmp_path: Path, idempotent: bool
) -> None:
    web, reqid = await sides.web(body=b'{"done": true}'), "a" * 32
    check = {"handler": "http", "url": f"http://127.0.0.1:{web.port}/", "idempotent": idempotent}
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "a.yaml").write_text(json.dumps({"actions": {"check": check}}))
    async with serving(world.address, {}, rules=tmp_path / "rules"):
        ledger = await world.client.jetstream().key_value("MSS_LEDGER")
        until_then = time.time_ns() // 1000 + 60_000_000
        lease = {"owner": "gone", "nonce": "1", "until": until_then}
        await ledger.create(action_key("check", reqid), json.dumps(lease).encode())
        replies = await asyncio.gather(*(ask(world.client, "check", {}, reqid=reqid) for _ in range(5)))
    assert all(reply == replies[0] for reply in replies)
    if idempotent:
        assert (replies[0]["code"], replies[0]["payload"]) == (0, {"done": True})
    else:
        assert (replies[0]["code"], replies[0]["message"]) == (1, OUTCOME_UNKNOWN)
    assert len(web.requests) == int(idempotent)


@pytest.mark.parametrize(
    ("answers", "message", "at_the_second"),
    [
        ({"RCPT": "550 no"}, "ok", 1),
        ({"MAIL": "450 later"}, "ok", 1),
        ({"body": DROP}, OUTCOME_UNKNOWN, 0),
        (
            {"RCPT": lambda command: "450 later" if "gone@" in command else ""},
            "not delivered to everybody",
            0,
        ),
    ],
    ids=["refused", "deferred", "unknown", "in part"],
)
async def test_the_next_channel_is_used_only_after_a_definite_failure(
    world: World, sides: Sides, tmp_path: Path, answers: dict[str, Any], message: str, at_the_second: int
) -> None:
    bad, good = await sides.smtp(**answers), await sides.smtp()
    rules = policy(tmp_path, {"port": bad.port})
    written = json.loads((rules / "policy.yaml").read_text())
    second = {
        **written["channels"]["email"],
        "mtas": [{"host": "127.0.0.1", "port": good.port, "tls": "none"}],
    }
    written["channels"]["second"] = second
    written["actions"]["tellall"]["channel"] = ["email", "second"]
    (rules / "policy.yaml").write_text(json.dumps(written))
    async with serving(world.address, {}, rules=rules):
        payload = {"everybody": ["here@example.com", "gone@example.com"]}
        assert (await ask(world.client, "tellall", payload))["message"] == message
    assert len(good.bodies) == at_the_second
