"""``mss trace`` for each outcome of a delivery, with a real server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats
import pytest
from support.delivery_outcomes import CommandResult, MailHost, mail_host, mss, mss_process, write_policy
from support.external_services import StartEngine, World
from support.processes import Engine, NatsServer, write_config
from support.waiting import until
from support.wire_messages import envelope

SECRET = "https://iam.example.com/secure?token=abc&next=1"


@pytest.fixture
async def host() -> AsyncIterator[MailHost]:
    async with mail_host() as made:
        yield made


class Traced:
    """Events published to a server, and the output of the command for each."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.address = world.address

    async def publish(self, address: str | None, key: str = "notice.case", reqid: str = "") -> str:
        reqid = reqid or uuid4().hex
        payload: dict[str, Any] = {"number": 1, "link": SECRET}
        if address:
            payload["mailto"] = address
        await self._world.client.publish(f"kiam.console.{key}", envelope(payload, reqid=reqid))
        return reqid

    async def run(self, reqid: str, *options: str, **environment: str) -> CommandResult:
        return await mss("trace", reqid, "--server", self._world.address, *options, **environment)

    async def document(self, reqid: str) -> dict[str, Any]:
        result = await self.run(reqid, "--format", "json")
        assert result.code == 0, result
        document: dict[str, Any] = result.document
        return document

    async def entries(self, reqid: str, count: int) -> None:
        """Wait until the history has that many entries of the event."""

        async def there() -> bool:
            info = await self._world.client.jetstream().stream_info(
                "MSS_HISTORY", subjects_filter=f"mss.history.*.{reqid}"
            )
            return sum((info.state.subjects or {}).values()) >= count

        await until(there, what=f"{count} entries of {reqid}")


@pytest.fixture
async def traced(world: World, start_engine: StartEngine, host: MailHost, tmp_path: Path) -> Traced:
    await start_engine(write_policy(tmp_path / "rules", host.port))
    return Traced(world)


def attempts(delivery: dict[str, Any]) -> list[str]:
    return [attempt["outcome"] for attempt in delivery["attempts"]]


@pytest.mark.parametrize(
    ("address", "key", "status", "outcomes", "final", "duplicated", "words"),
    [
        ("ok@x.test", "notice.case", "sent", ["sent"], True, False, "250 taken"),
        ("refused@x.test", "notice.case", "refused", ["refused"], True, False, "550 no such user here"),
        ("later@x.test", "notice.patient", "deferred", ["deferred"], False, False, "451 come back later"),
        ("later@x.test", "notice.case", "dead", ["deferred", "deferred"], True, False, "451 come back later"),
        ("drop@x.test", "notice.patient", "unknown", ["unknown"], False, False, "after the message"),
        ("drop-once@x.test", "notice.case", "sent", ["unknown", "sent"], True, True, "250 taken"),
        ("drop@x.test", "notice.case", "unknown", ["unknown", "unknown"], True, False, "after the message"),
    ],
)  # fmt: skip
async def test_the_status_of_a_delivery(
    traced: Traced,
    address: str,
    key: str,
    status: str,
    outcomes: list[str],
    final: bool,
    duplicated: bool,
    words: str,
) -> None:
    reqid = await traced.publish(address, key)
    await traced.entries(reqid, 1 + len(outcomes))
    document = await traced.document(reqid)
    assert (document["reqid"], document["event"]) == (reqid, key)
    (delivery,) = document["deliveries"]
    assert (delivery["status"], attempts(delivery), delivery["final"], delivery["duplicated"]) == (
        status, outcomes, final, duplicated,
    )  # fmt: skip
    assert delivery["to"] == [address] and words in delivery["attempts"][-1]["detail"]
    dead_lettered = final and status != "sent"
    assert [dead_letter["delivery"] for dead_letter in document["dead"]] == [delivery["id"]] * dead_lettered
    result = await traced.run(reqid)
    assert result.code == 0 and result.errors == "", result
    assert f"{status}  {delivery['channel']} to {address}" in result.output
    assert words in " ".join(result.output.split())
    assert ("may have it twice" in " ".join(result.output.split())) is duplicated
    assert SECRET not in result.output and "token=abc" not in json.dumps(document)


async def test_text_fits_80_columns_and_has_local_times(traced: Traced) -> None:
    reqid = await traced.publish("later@x.test")
    await traced.entries(reqid, 3)
    result = await mss_process("trace", reqid, "--server", traced.address, COLUMNS="80")
    assert result.code == 0, result
    assert max(map(len, result.output.splitlines())) <= 80
    assert re.search(r"received  20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\+08:00", result.output)
    assert "\x1b" not in result.output  # no terminal, no colours


async def test_the_trace_shows_unsent_messages_and_the_reasons(traced: Traced) -> None:
    reqid = await traced.publish(None)
    await traced.entries(reqid, 1)
    document = await traced.document(reqid)
    assert document["rules"] == [
        {"id": "quick", "verdict": "matched"},
        {"id": "in-shadow", "verdict": "shadow"},
    ]
    assert [(s["rule"], s["reason"]) for s in document["suppressed"]] == [
        ("quick", "no_address"),
        ("in-shadow", "shadow"),
    ]
    result = await traced.run(reqid)
    assert "email (quick): no_address: the recipient has no email" in result.output
    assert "matched, in shadow mode: nothing is sent" in result.output


async def test_a_failed_rendering_names_its_dead_letter(traced: Traced) -> None:
    reqid = await traced.publish("ok@x.test", "notice.worded")
    await traced.entries(reqid, 2)
    document = await traced.document(reqid)
    (failure,) = document["failures"]
    assert (failure["rule"], failure["channel"]) == ("worded", "email")
    (dead_letter,) = document["dead"]
    assert dead_letter["reason"] == "render-failed" and dead_letter["delivery"] == failure["id"]
    assert f"mss dead retry {dead_letter['sequence']}" in (await traced.run(reqid)).output


async def test_the_trace_shows_all_events_with_the_same_reqid(traced: Traced, host: MailHost) -> None:
    reqid = await traced.publish("ok@x.test")
    await traced.publish("ok@x.test", reqid=reqid)
    await traced.publish("other@x.test", "audit.case", reqid=reqid)
    await traced.publish("later@x.test", "notice.patient", reqid=reqid)
    await traced.entries(reqid, 4 + 3)
    document = await traced.document(reqid)
    assert document["event"] == "notice.case" and len(document["arrivals"]) == 2
    assert [d["status"] for d in document["deliveries"]] == ["sent"]  # once: the second event changed nothing
    assert host.taken("ok@x.test") == 1
    others = {other["event"]: [d["to"] for d in other["deliveries"]] for other in document["others"]}
    assert others == {"notice.patient": [["later@x.test"]], "audit.case": [["other@x.test"]]}
    result = await traced.run(reqid)
    assert result.output.count("received") == 4 and "audit.case" in result.output


async def test_an_unknown_reqid_has_exit_code_1(traced: Traced) -> None:
    result = await traced.run("no-such-reqid")
    assert result.code == 1 and result.output == ""
    assert "the history does not know reqid no-such-reqid" in result.errors


async def test_a_reqid_can_have_any_characters(traced: Traced) -> None:
    reqid = await traced.publish("ok@x.test", reqid="ä b.*>")

    async def known() -> bool:
        return (await traced.run(reqid)).code == 0

    await until(known, what="its history")
    assert (await traced.document(reqid))["reqid"] == reqid


async def test_follow_ends_when_nothing_is_pending(traced: Traced) -> None:
    reqid = uuid4().hex
    following = asyncio.create_task(mss_process("trace", reqid, "--follow", "--server", traced.address))
    await asyncio.sleep(0)
    await traced.publish("drop-once@x.test", reqid=reqid)
    result = await following
    assert result.code == 0, result
    lines = result.output.splitlines()
    results = (re.search(r"\+08:00  (?:\S+ )?(planned|unknown|sent)\b", line) for line in lines)
    assert [found[1] for found in results if found] == ["planned", "unknown", "sent"]
    assert lines[-1] == "1 delivery: 1 sent"


async def test_a_user_who_may_not_read_audits_reads_notices(tmp_path: Path, host: MailHost) -> None:
    """The permissions of the reader are those of docs/operating.md."""
    broker = NatsServer(
        tmp_path / "strict",
        """authorization { users: [
          {user: mss, password: mss},
          {user: reader, password: reader, permissions: {
            publish: ["$JS.API.CONSUMER.CREATE.MSS_HISTORY.*.mss.history.notice.*", "$JS.FC.>"],
            subscribe: ["_INBOX_mss.>"]}},
          {user: nobody, password: nobody, permissions: {publish: {deny: ">"}, subscribe: ["_INBOX_mss.>"]}}]}""",
    )
    await broker.start()
    config = write_config(
        tmp_path / "strict",
        broker.address,
        write_policy(tmp_path / "rules", host.port),
        user="mss",
        password="mss",
    )
    engine = Engine(config=config, environment={})
    await engine.start()
    client = await nats.connect(broker.address, user="mss", password="mss")
    reqid = uuid4().hex
    for kind in ("notice", "audit"):
        payload = {"mailto": f"{kind}@x.test", "number": 1, "link": SECRET}
        await client.publish(f"kiam.console.{kind}.case", envelope(payload, reqid=reqid))
    await until(lambda: len(host.bodies) == 2, what="both mails")
    reader = write_config(tmp_path, broker.address, tmp_path / "rules", user="reader", password="reader")

    async def said_of_notice() -> bool:
        result = await mss("trace", reqid, "-c", str(reader))
        assert result.code == 0, result
        assert "audit: not shown, because NATS does not permit it" in result.errors
        assert "audit@x.test" not in result.output
        return "sent  email to notice@x.test" in result.output

    await until(said_of_notice, what="the notice's receipt")
    nobody = write_config(tmp_path, broker.address, tmp_path / "rules", user="nobody", password="nobody")
    result = await mss("trace", reqid, "-c", str(nobody))
    assert result.code == 1 and "permissions violation" in result.errors.lower(), result
    await client.close()
    await engine.end()
    await broker.kill()
