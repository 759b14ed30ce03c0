"""The main path: an event on NATS becomes a mail and an SMS, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from email.message import EmailMessage
from pathlib import Path

from support.external_services import StartEngine, World
from support.locations import ROOT
from support.waiting import until
from support.wire_messages import envelope, login

import msc

NOTICE = "kiam.console.notice.login.abnormal"


def text_of(mail: EmailMessage) -> str:
    body = mail.get_body(("plain",))
    assert body is not None
    return str(body.get_content())


async def test_a_notice_becomes_a_mail_and_an_sms(world: World, start_engine: StartEngine) -> None:
    await start_engine()
    async with msc.connect(world.address) as client:
        reqid = await client.notice("login.abnormal", login(locale="zh-CN", city="新加坡"), confirm=True)
    assert await world.caught.wait_for(1, 1)
    mail = world.caught.mails[0][1]
    assert mail["To"] == "u1@example.com"
    assert mail["Subject"] == "[KrossIAM] 异常登录提醒：新加坡"
    assert "203.0.113.9" in text_of(mail)
    assert {part.get_content_type() for part in mail.walk()} >= {"text/plain", "text/html", "image/png"}
    _, number, words = world.caught.texts[0]
    assert number == "+8613800000001"
    assert "异常登录" in words and "新加坡" in words

    async def receipts_are_there() -> bool:
        return await world.stored("MSS_HISTORY") == 3

    await until(receipts_are_there, what="one plan and two receipts in the history")
    entries = [json.loads(m.data) for m in await world.messages("MSS_HISTORY")]
    planned = next(entry for entry in entries if entry["type"] == "planned")
    receipts = [entry for entry in entries if entry["type"] == "receipt"]
    assert planned["event"]["reqid"] == reqid
    assert planned["rules"] == ["abnormal-login"]
    assert {d["id"] for d in planned["deliveries"]} == {r["delivery"] for r in receipts}
    assert {(r["channel"], r["outcome"]) for r in receipts} == {("email", "sent"), ("sms", "sent")}
    assert await world.unfinished("MSS_NOTICE") == 0
    assert await world.stored("MSS_NOTICE") == 1  # it is the archive

    async def nothing_waits() -> bool:
        return await world.stored("MSS_DELIVERY") == 0

    await until(nothing_waits, what="both deliveries acknowledged")


async def test_an_event_without_a_matching_rule_is_archived_and_acknowledged(
    world: World, start_engine: StartEngine
) -> None:
    await start_engine()
    await world.client.publish(NOTICE, envelope(login(result="failure")))
    await world.client.publish("kiam.console.log", envelope({"level": "info", "message": "hello"}))
    await world.client.publish("kiam.console.log.app.web", envelope({"level": "info"}))

    async def archived() -> bool:
        return await world.stored("MSS_NOTICE") == 1 and await world.stored("MSS_LOG") == 2

    await until(archived, what="three events archived")
    assert world.caught.mails == [] and world.caught.texts == []


async def test_the_captured_audit_becomes_one_mail_with_the_rest_in_cc(
    world: World, start_engine: StartEngine
) -> None:
    lines = (ROOT / "tests/data/captured.jsonl").read_text().splitlines()
    captured = next(
        entry
        for entry in map(json.loads, lines)
        if entry["case"] == "msc:audit-accountaddemail" and entry["dir"] == "publish"
    )
    message = json.loads(captured["payload"])
    await start_engine()
    # As captured but for the time, which the broker's clock has left behind.
    await world.client.publish(captured["subject"], envelope(message["payload"], reqid=message["reqid"]))
    assert await world.caught.wait_for(1, 0)
    mail = world.caught.mails[0][1]
    assert mail["To"] == "a@x.test"
    assert mail["Cc"] == "B Two <b@x.test>"
    assert mail["Subject"] == "[KrossIAM] New address"
    assert "new@x.test" in text_of(mail)


async def test_events_that_are_published_while_no_engine_runs_are_delivered_at_the_start(
    world: World, start_engine: StartEngine
) -> None:
    engine = await start_engine()
    assert await engine.end() == 0
    for number in range(20):
        await world.client.publish(NOTICE, envelope(login(number)))  # plain core NATS, as the original's

    async def taken() -> bool:
        return await world.unfinished("MSS_NOTICE") == 20

    await until(taken, what="twenty events in the stream")
    await start_engine()
    assert await world.caught.wait_for(20, 20)
    assert {mail["To"] for _, mail in world.caught.mails} == {f"u{n}@example.com" for n in range(20)}


async def test_sigkill_among_200_events_loses_none(world: World, start_engine: StartEngine) -> None:
    engine = await start_engine()
    for number in range(200):
        await world.client.publish(NOTICE, envelope(login(number)))
    await until(lambda: len(world.caught.mails) >= 20, what="the first mails")
    await engine.end(signal.SIGKILL)
    assert len(world.caught.mails) < 200, "killed too late to prove anything"
    await start_engine()
    everybody = {f"u{n}@example.com" for n in range(200)}
    numbers = {f"+86138{n:08d}" for n in range(200)}
    await until(
        lambda: (
            {mail["To"] for _, mail in world.caught.mails} == everybody
            and {number for _, number, _ in world.caught.texts} == numbers
        ),
        what="every mail and every SMS",
    )
    # A repeat has the same Message-ID, so that mail programs can tell.
    ids = {mail["To"]: set[str]() for _, mail in world.caught.mails}
    for _, mail in world.caught.mails:
        ids[mail["To"]].add(mail["Message-ID"])
    assert all(len(same) == 1 for same in ids.values())


async def test_sigterm_finishes_the_messages_in_flight_and_leaves_the_others(
    world: World, start_engine: StartEngine, tmp_path: Path
) -> None:
    engine = await start_engine()
    for number in range(200):
        await world.client.publish(NOTICE, envelope(login(number)))
    await until(lambda: len(world.caught.mails) >= 20, what="the first mails")
    assert await engine.end(signal.SIGTERM) == 0
    # What was acknowledged is what was sent: nothing was cut off in the middle.
    left = await world.unfinished("MSS_NOTICE") * 2 + await world.stored("MSS_DELIVERY")
    assert left > 0, "it ended too late to prove anything"
    assert len(world.caught.mails) + len(world.caught.texts) + left == 400
    await start_engine()
    assert await world.caught.wait_for(200, 200)
    sent = Counter(mail["To"] for _, mail in world.caught.mails)
    assert max(sent.values()) == 1


async def test_invalid_messages_are_counted_and_dead_lettered(
    world: World, start_engine: StartEngine, unused_tcp_port: int
) -> None:
    await start_engine(metrics={"listen": f"127.0.0.1:{unused_tcp_port}"})
    nonsense = {
        "not-json": b"hello",
        "not-an-object": b"[1, 2]",
        "huge": b"\x00" * 900_000,
        "invalid-utf8": b"\xff\xfe\xfa{",
        "deep": b"[" * 10_000 + b"]" * 10_000,
        "deep-payload": envelope(None).replace(b"null", b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
        "payload-list": envelope([1]),
        "old-version": envelope({}).replace(b"0.1.1", b"0.2.0"),
        "no-reqid": envelope({}, reqid=""),
        "stale": envelope({}, sent=1),
    }
    for data in nonsense.values():
        await world.client.publish(NOTICE, data)
    await world.client.publish(NOTICE, envelope(login()))
    assert await world.caught.wait_for(1, 1)

    async def buried() -> bool:
        return await world.stored("MSS_DEAD") == len(nonsense)

    await until(buried, what="a dead letter for each")
    letters = await world.messages("MSS_DEAD")
    assert [letter.data for letter in letters] == list(nonsense.values())
    for letter in letters:
        assert letter.headers["Mss-Reason"] == letter.subject.split(".")[-1]
        assert letter.headers["Mss-Detail"]
        assert letter.headers["Mss-Subject"] == NOTICE
    assert await world.unfinished("MSS_NOTICE") == 0
    page = await fetch(f"http://127.0.0.1:{unused_tcp_port}/metrics")
    counted = sum(
        float(line.split()[-1])
        for line in page.splitlines()
        if line.startswith('mss_dead_letters_total{kind="notice"')
    )
    assert counted == len(nonsense)


async def test_an_invalid_message_of_the_maximum_size_is_truncated_and_marked(
    world: World, start_engine: StartEngine
) -> None:
    await start_engine()
    size = world.client.max_payload
    await world.client.publish(NOTICE, b"x" * size)  # no room is left for the headers of a dead letter

    async def buried() -> bool:
        return await world.stored("MSS_DEAD") == 1

    await until(buried, what="the dead letter")
    (letter,) = await world.messages("MSS_DEAD")
    assert letter.headers["Mss-Truncated"] == str(size)
    assert size - 10_000 < len(letter.data) < size
    assert await world.unfinished("MSS_NOTICE") == 0


async def fetch(url: str) -> str:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


async def test_an_audit_leaves_nothing_where_notices_are_read(
    world: World, start_engine: StartEngine
) -> None:
    await start_engine()
    await world.client.publish("kiam.console.audit.accountaddemail", b"nonsense")
    payload = {"userid": "bob", "newemail": "n@example.com", "mailto": ["a@example.com"]}
    await world.client.publish("kiam.console.audit.accountaddemail", envelope(payload))
    assert await world.caught.wait_for(1, 0)
    for stream in ("MSS_HISTORY", "MSS_DEAD"):
        subjects = [m.subject for m in await world.messages(stream)]
        assert subjects and all(subject.split(".")[2] == "audit" for subject in subjects)
    assert await world.stored("MSS_NOTICE") == 0


async def test_a_new_consumer_sends_only_events_that_were_not_planned(
    world: World, start_engine: StartEngine
) -> None:
    """The stream keeps planned events, and a consumer that replaces a deleted one delivers all of them."""
    engine = await start_engine()
    await world.client.publish(NOTICE, envelope(login(1)))
    assert await world.caught.wait_for(1, 1)
    js = world.client.jetstream()

    async def receipts_are_there() -> bool:
        return await world.stored("MSS_HISTORY") == 3 and not await world.stored("MSS_DELIVERY")

    await until(receipts_are_there, what="one plan and two receipts in the history")
    assert await engine.end() == 0
    for stream in ("MSS_HISTORY", "MSS_DELIVERY"):  # as if the window for duplicates were over
        config = (await js.stream_info(stream)).config
        config.duplicate_window = 0.1
        await js.update_stream(config)
    await js.delete_consumer("MSS_NOTICE", "mss-planner")
    await world.client.publish(NOTICE, envelope(login(2)))
    await asyncio.sleep(0.2)
    await start_engine()
    assert await world.caught.wait_for(2, 2)

    async def is_quiet() -> bool:
        return not await world.unfinished("MSS_NOTICE") and not await world.stored("MSS_DELIVERY")

    await until(is_quiet, what="both events done")
    assert (len(world.caught.mails), len(world.caught.texts)) == (2, 2)
