"""Actions over a real broker, with mail servers and databases: the Go client cannot tell the difference."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats.errors
import pytest
from support.external_services import World
from support.geoip_database import write_database
from support.in_process_server import PREFIX, ask, checked, serving, verify
from support.locations import ROOT
from support.waiting import LIMIT, until
from support.wire_messages import envelope

CAPTURED = [json.loads(line) for line in (ROOT / "tests/data/captured.jsonl").read_text().splitlines()]
REQUESTS = [entry for entry in CAPTURED if entry["dir"] == "request"]
# Requests without a reply from the original, and the reply of MSS: see the table in docs/compatibility.md.
BETTER = {
    "version number": "version is not a string",
    "time float .0": "time is not an integer",
    "body empty": "the message is not JSON: Expecting value at character 0",
    "body not json": "the message is not JSON: Expecting value at character 0",
}


@pytest.fixture
def environment(world: World, tmp_path: Path) -> dict[str, str]:
    return {**world.environment, "GEOIP_DATABASE": str(write_database(tmp_path / "city.mmdb"))}


def refreshed(case: str, payload: str) -> bytes:
    """Return the captured bytes with the present time."""
    if case == "bad time+reqid" or '"time"' not in payload:
        return payload.encode()
    time_text = payload.partition('"time":')[2].partition(",")[0].strip()
    shift = -9_500_000 if case == "time -9.5s" else 0
    now = str(time.time_ns() // 1000 + shift) + (".0" if time_text.endswith(".0") else "")
    return payload.replace(time_text, now).encode()


async def test_every_captured_request_is_answered_as_captured(
    world: World, environment: dict[str, str]
) -> None:
    replies = {entry["case"]: json.loads(entry["payload"]) for entry in CAPTURED if entry["dir"] == "reply"}
    silent = {entry["case"] for entry in CAPTURED if entry["dir"] == "noreply"}
    assert silent == set(BETTER)
    async with serving(world.address, environment):
        for entry in REQUESTS:
            data = refreshed(entry["case"], entry["payload"])
            reply = json.loads((await world.client.request(entry["subject"], data, timeout=5)).data)
            if entry["case"] in BETTER:
                sent = json.loads(entry["payload"])["reqid"] if entry["payload"].startswith("{") else ""
                assert (reply["code"], reply["message"], reply["payload"], reply["reqid"]) == (
                    1, BETTER[entry["case"]], None, sent,
                ), entry["case"]  # fmt: skip
                continue
            expected = replies[entry["case"]]
            for field in ("version", "reqid", "code", "message", "payload"):
                assert reply[field] == expected[field], entry["case"]
            # Go and MSS write 0, not 0.0, and "<" as an escape.
            raw = (await world.client.request(entry["subject"], data, timeout=5)).data.decode()
            captured = next(
                e["payload"] for e in CAPTURED if e["dir"] == "reply" and e["case"] == entry["case"]
            )
            assert raw.partition(',"reqid"')[2] == captured.partition(',"reqid"')[2], entry["case"]
    (mail,) = [mail for _, mail in world.caught.mails]  # sendverifyemail-en; its repeat sent nothing
    assert mail["To"] == "Al <al@x.test>"
    assert mail["Subject"] == "[KrossIAM] Verify your email"
    assert "https://iam.x.test/v?a=1&b=2" in str(mail.get_body(("plain",)).get_content())


async def test_a_request_with_headers_and_a_go_inbox_is_answered(
    world: World, environment: dict[str, str]
) -> None:
    async with serving(world.address, environment):
        inbox, reqid = "kiam._inbox.gz0W8o46czSMxBmbhw97WQ.rDwTbG3O", uuid4().hex
        answers = await world.client.subscribe(inbox)
        await world.client.publish(
            f"{PREFIX}.iplocation",
            envelope({"ipaddr": "10.0.0.1"}, reqid=reqid),
            reply=inbox,
            headers={"A": "b"},
        )
        msg = await answers.next_msg(timeout=5)
        assert msg.headers is None
        assert checked(msg.data, reqid)["message"] == "ip(10.0.0.1) is a private address"


async def test_the_example_policy_sends_mails_in_both_languages(
    world: World, environment: dict[str, str]
) -> None:
    async with serving(world.address, environment):
        assert (await ask(world.client, "sendverifyemail", verify(1, locale="zh-CN", subject="")))[
            "code"
        ] == 0
        text = {"phone": "+8613800000000", "code": "834201", "locale": "zh-CN"}
        assert (await ask(world.client, "sendsms", text))["code"] == 0
    (mail,) = [mail for _, mail in world.caught.mails]
    assert mail["Subject"] == "[KrossIAM] 请验证您的邮箱地址"
    assert "有效期" in str(mail.get_body(("plain",)).get_content())
    ((_, number, text),) = world.caught.texts
    assert number == "+8613800000000" and "834201" in text and "验证码" in text


async def test_an_undeclared_or_disabled_action_has_no_responders(
    world: World, environment: dict[str, str]
) -> None:
    async with serving(world.address, environment, actions_off=frozenset({"sendsms"})):
        for key in ("nosuch", "sendsms"):
            with pytest.raises(nats.errors.NoRespondersError):
                await ask(world.client, key, {}, limit=5)
        assert (await ask(world.client, "iplocation", {"ipaddr": "10.0.0.1"}))["code"] == 1
    async with serving(world.address, environment, actions=False):
        with pytest.raises(nats.errors.NoRespondersError):
            await ask(world.client, "iplocation", {"ipaddr": "10.0.0.1"}, limit=5)


async def test_a_request_with_another_reply_subject_than_an_inbox_is_ignored(
    world: World, environment: dict[str, str]
) -> None:
    async with serving(world.address, environment) as server:
        heard = await world.client.subscribe(">")
        await world.client.flush()
        for reply in (
            "", "$JS.API.STREAM.DELETE.MSS_DEAD", "$SYS.REQ.USER.INFO", "$KV.MSS_LEDGER.x", "$SRV.PING",
            "mss.delivery.notice.email", "kiam.console.notice.login", f"{PREFIX}.iplocation",
        ):  # fmt: skip
            await world.client.publish(f"{PREFIX}.sendverifyemail", envelope(verify()), reply=reply)
        await until(
            lambda: (
                server.metrics.value("mss_action_requests_total", action="sendverifyemail", code="100") == 8
            ),
            what="eight requests refused",
        )
        await ask(world.client, "iplocation", {"ipaddr": "8.8.8.8"})
        subjects = []
        while not heard._pending_queue.empty():
            subjects.append((await heard.next_msg()).subject)
        assert not [s for s in subjects if s.startswith(("$JS.API.STREAM.DELETE", "$SYS", "mss.delivery"))]
        assert "MSS_DEAD" in {i.config.name for i in await world.client.jetstream().streams_info()}
    assert world.caught.mails == []


async def repeated(world: World, count: int) -> list[tuple[str, bytes]]:
    """Send ``count`` requests at once, every tenth three times; return reqid and reply of each caller."""
    numbers = [n for n in range(count) for _ in range(3 if n % 10 == 0 else 1)]
    reqids = {n: uuid4().hex for n in range(count)}

    async def one(n: int) -> tuple[str, bytes]:
        msg = await world.client.request(
            f"{PREFIX}.sendverifyemail", envelope(verify(n), reqid=reqids[n]), timeout=LIMIT
        )
        return reqids[n], msg.data

    return await asyncio.gather(*(one(n) for n in numbers))


async def test_three_replicas_send_each_mail_once(world: World, environment: dict[str, str]) -> None:
    async with (
        serving(world.address, environment) as one,
        serving(world.address, environment) as two,
        serving(world.address, environment) as three,
    ):
        answers = await repeated(world, 300)
    replicas = (one, two, three)  # counted a moment after the reply, so read when they have ended
    shares = [
        s.metrics.value("mss_action_requests_total", action="sendverifyemail", code="0") for s in replicas
    ]
    assert len(answers) == sum(shares) == 360 and min(shares) > 0
    assert {json.loads(data)["code"] for _, data in answers} == {0}
    assert len(set(answers)) == 300  # all replies of one reqid are equal, byte by byte
    assert Counter(mail["To"] for _, mail in world.caught.mails) == {
        f"u{n}@example.com": 1 for n in range(300)
    }


async def test_a_later_repeat_gets_the_recorded_reply(world: World, environment: dict[str, str]) -> None:
    reqid, payload = uuid4().hex, verify(1)
    async with serving(world.address, environment):
        first = await ask(world.client, "sendverifyemail", payload, reqid=reqid)
    async with serving(world.address, environment):  # another replica, after the first is gone
        assert await ask(world.client, "sendverifyemail", payload, reqid=reqid) == first
        await ask(world.client, "sendsms", {"phone": "+8613800000000", "code": "1234"}, reqid=reqid)
    assert len(world.caught.mails) == len(world.caught.texts) == 1
    ledger = await world.client.jetstream().key_value("MSS_LEDGER")
    keys = [key for key in await ledger.keys() if key.startswith("action.")]
    entries = [(await ledger.get(key)).value or b"" for key in keys]
    assert len(entries) == 2
    for secret in (b"secret", b"u1", b'"1234"', b"+8613800000000"):
        assert not [entry for entry in entries if secret in entry]


async def test_requests_beyond_the_limit_are_refused_at_once(
    world: World, environment: dict[str, str]
) -> None:
    async with serving(world.address, environment) as server:
        assert server.actions is not None
        specs = dict(server.rulebook.actions)
        specs["sendverifyemail"] = replace(specs["sendverifyemail"], concurrency=2, queue=3)
        await server.actions.apply(specs)
        replies = await asyncio.gather(*(ask(world.client, "sendverifyemail", verify(n)) for n in range(50)))
    codes = Counter((reply["code"], reply["message"]) for reply in replies)
    assert set(codes) == {(0, "ok"), (1, "busy: too many requests in flight")}
    assert codes[0, "ok"] == len(world.caught.mails) >= 5


async def test_the_database_is_reloaded_and_its_absence_is_reported(
    world: World, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.actions.iplocation.CHECK_INTERVAL", 0.0)
    database = tmp_path / "city.mmdb"
    database.write_bytes(b"this is no database")

    async def city() -> Any:
        reply = await ask(world.client, "iplocation", {"ipaddr": "2.125.160.216"})
        return reply["payload"]["city"] if reply["code"] == 0 else reply["message"]

    async def becomes(expected: str) -> None:
        async def is_so() -> bool:
            return bool(await city() == expected)

        await until(is_so, what=expected)

    def up(server: Any) -> float:
        return float(server.metrics.value("mss_action_database_up", action="iplocation"))

    async with serving(world.address, environment) as server:
        assert await city() == "the location of addresses is not available"
        assert up(server) == 0
        write_database(database)
        await becomes("Boxford")
        assert up(server) == 1
        write_database(database, city="Elsewhere")
        await becomes("Elsewhere")
        with database.open("r+b") as file:  # in place: a lookup must not read the overwritten file
            file.truncate(10)

        async def is_noticed() -> bool:
            return await city() == "Elsewhere" and up(server) == 0

        await until(is_noticed, what="the database is no more")
        database.unlink()
        assert await city() == "Elsewhere"
