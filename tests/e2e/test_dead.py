"""``mss dead``: each dead letter is redriven exactly once, even if a process is killed."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from support.delivery_outcomes import (
    FIXED,
    CommandResult,
    MailHost,
    mail_host,
    mss,
    mss_process,
    write_policy,
)
from support.external_services import StartEngine, World
from support.locations import MSS
from support.processes import NatsServer, client_options, write_config
from support.waiting import until
from support.wire_messages import envelope

from engine.broker import Broker, Connection, Provisioner, Topology, connect
from engine.history.dead_letter_store import DeadLetterStore, open_redriver
from engine.history.dead_letters import DeadLetter, DeadLetterFilter
from engine.runtime import now

SECRET = "https://iam.example.com/secure?token=abc&next=1"


@pytest.fixture
async def host() -> AsyncIterator[MailHost]:
    async with mail_host() as made:
        yield made


class Bench:
    """Deliveries that become dead letters, and the command that manages them."""

    def __init__(self, world: World, rules: Path, start: StartEngine, host: MailHost) -> None:
        self.world, self.rules, self.host = world, rules, host
        self._start = start

    async def serve(self, files: dict[str, str] | None = None, **settings: Any) -> Any:
        write_policy(self.rules, self.host.port, files)
        return await self._start(self.rules, **settings)

    async def publish(self, address: str, key: str = "notice.case", reqid: str = "") -> str:
        reqid = reqid or uuid4().hex
        payload = {"number": 1, "link": SECRET, "mailto": address}
        await self.world.client.publish(f"kiam.console.{key}", envelope(payload, reqid=reqid))
        return reqid

    async def dead(self, count: int) -> None:
        async def there() -> bool:
            return await self.world.stored("MSS_DEAD") == count

        await until(there, what=f"{count} dead letters")

    async def quiet(self) -> None:
        """Wait until nothing is pending."""

        async def empty() -> bool:
            streams = ("MSS_NOTICE", "MSS_AUDIT", "MSS_DELIVERY")
            return not any([await self.world.unfinished(stream) for stream in streams])

        await until(empty, what="all is done")

    async def run(self, *arguments: str, answer: str = "") -> CommandResult:
        return await mss("dead", *arguments, "--server", self.world.address, answer=answer)

    async def trace(self, reqid: str) -> dict[str, Any]:
        result = await mss("trace", reqid, "--server", self.world.address, "--format", "json")
        assert result.code == 0, result
        document: dict[str, Any] = result.document
        return document

    def mails(self) -> Counter[str]:
        return Counter(str(mail["To"]) for mail in self.host.mails)


@pytest.fixture
def bench(world: World, start_engine: StartEngine, host: MailHost, tmp_path: Path) -> Bench:
    return Bench(world, tmp_path / "rules", start_engine, host)


async def test_each_sort_is_redriven_once_and_keeps_its_id(bench: Bench) -> None:
    engine = await bench.serve()
    refused = await bench.publish("refused@x.test")
    exhausted = await bench.publish("later@x.test")
    audit = await bench.publish("refused-audit@x.test", "audit.case")
    worded = await bench.publish("worded@x.test", "notice.worded")
    await bench.dead(4)
    before = {reqid: await bench.trace(reqid) for reqid in (refused, exhausted, audit)}
    listed = await bench.run("list")
    assert listed.code == 0 and len(listed.output.splitlines()) == 5, listed
    assert "exhausted" in listed.output and exhausted in listed.output
    header, *rows = (re.split(r" {2,}", line.strip()) for line in listed.output.splitlines())
    assert header == ["id", "time", "kind", "reason", "rule", "channel", "reqid", "attempts", "detail"]
    assert {row[3]: row[7] for row in rows}["exhausted"] == "2"
    await engine.end()
    await bench.serve(FIXED)  # with templates that render
    bench.host.healed = True
    result = await bench.run("retry", "--all")
    assert (result.code, result.output) == (0, "4 dead letters redriven\n"), result
    assert await bench.world.stored("MSS_DEAD") == 0
    addresses = ["refused@x.test", "later@x.test", "refused-audit@x.test", "worded@x.test"]
    await until(lambda: set(bench.mails()) == set(addresses), what="four mails")
    await bench.quiet()
    assert bench.mails() == Counter(addresses)
    for reqid, event in before.items():
        (old,), (new,) = event["deliveries"], (await bench.trace(reqid))["deliveries"]
        assert (new["id"], new["status"], len(new["redriven"])) == (old["id"], "sent", 1)
        assert [each["outcome"] for each in new["attempts"]] == [
            *(each["outcome"] for each in old["attempts"]), "sent",
        ]  # fmt: skip
    # Only the failed delivery of the event was planned again: the terminal had its message.
    event = await bench.trace(worded)
    assert {d["channel"]: len(d["attempts"]) for d in event["deliveries"]} == {"email": 1, "terminal": 1}
    assert event["failures"] == [] and len(event["arrivals"]) == 2
    # Three events, two notices that MSS published, and the event that was redriven.
    assert await bench.world.stored("MSS_NOTICE") == 6
    assert (await bench.run("retry", "--all")).output == "0 dead letters redriven\n"


GATHERED = {
    "gathered.yaml": """
rules:
  - id: gathered
    event: notice.gathered
    to: {email: mailto}
    notify: [email, terminal]
    digest: {key: mailto, wait: 100ms}
""",
    "events/notice/gathered.schema.json": json.dumps(
        {"properties": {"mailto": {}, "number": {}, "link": {"x-mss-sensitive": True}}}
    ),
    "templates/gathered/terminal.txt": "{{ events | length }}",
    "templates/gathered/email.txt": "---\nsubject: S\n---\n{{ events[0].payload.words.length }}",
}
COUNTED = "---\nsubject: S\n---\n{{ events | length }} of {{ recipient.address }}"


async def test_a_digest_is_redriven_after_its_template_is_fixed(bench: Bench) -> None:
    engine = await bench.serve(GATHERED)
    for _ in range(3):
        await bench.publish("gathered@x.test", "notice.gathered")
    await bench.dead(1)
    (dead_letter,) = (await bench.run("list", "--format", "json")).document["dead_letters"]
    shown = await bench.run("show", dead_letter["delivery"])
    assert shown.output.count("gathered@x.test") == 3 and "token=abc" not in shown.output, shown
    assert (await bench.run("retry", "--all")).output == "1 dead letter redriven\n"
    await bench.dead(1)  # again
    await engine.end()
    await bench.serve({**GATHERED, "templates/gathered/email.txt": COUNTED})
    assert (await bench.run("retry", dead_letter["delivery"])).output == "1 dead letter redriven\n"
    await until(lambda: bench.host.mails, what="the digest")
    (mail,) = bench.host.mails
    assert mail.get_content().strip() == "3 of gathered@x.test"
    await bench.quiet()
    event = await bench.trace(dead_letter["reqid"])
    done = {d["channel"]: (d["id"], d["status"], len(d["attempts"])) for d in event["deliveries"]}
    assert done["email"] == (dead_letter["delivery"], "sent", 1)
    assert done["terminal"][1:] == ("sent", 1)
    assert len(event["arrivals"]) == 3 and event["failures"] == []
    assert bench.mails() == Counter({"gathered@x.test": 1})


async def test_a_delivery_that_fails_again_can_be_redriven_again(bench: Bench) -> None:
    """All of it is within the duplicate window of the stream: no message may be dropped as a duplicate."""
    await bench.serve()
    reqid = await bench.publish("refused@x.test")
    await bench.dead(1)
    assert (await bench.run("retry", "1")).code == 0

    async def died_again() -> bool:
        return (await bench.run("show", "2")).code == 0

    await until(died_again, what="a second dead letter")
    bench.host.healed = True
    (delivery,) = (await bench.trace(reqid))["deliveries"]
    assert delivery["status"] == "refused" and len(delivery["attempts"]) == 2
    result = await bench.run("retry", delivery["id"])
    assert result.output == "1 dead letter redriven\n", result
    await until(lambda: bench.mails() == Counter(["refused@x.test"]), what="the mail")
    await bench.quiet()
    (delivery,) = (await bench.trace(reqid))["deliveries"]
    assert delivery["status"] == "sent" and len(delivery["redriven"]) == 2


async def test_a_retry_that_is_killed_and_run_again_sends_each_delivery_once(bench: Bench) -> None:
    await bench.serve()
    count = 200
    for number in range(count):
        await bench.publish(f"refused-{number}@x.test")
    await bench.dead(count)
    bench.host.healed = True
    process = await asyncio.create_subprocess_exec(
        str(MSS), "dead", "retry", "--all", "--server", bench.world.address,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip

    async def begun() -> bool:
        return await bench.world.stored("MSS_DEAD") < count

    await until(begun, what="the first dead letters are redriven")
    process.send_signal(signal.SIGKILL)
    await process.wait()
    left = await bench.world.stored("MSS_DEAD")
    assert left > 0, "killed too late to prove anything"
    result = await bench.run("retry", "--all")
    assert result.code == 0, result
    await until(lambda: len(bench.mails()) == count, what="every mail")
    await bench.quiet()
    assert max(bench.mails().values()) == 1 and await bench.world.stored("MSS_DEAD") == 0


async def test_two_retries_at_once_send_each_delivery_once(bench: Bench) -> None:
    await bench.serve()
    for number in range(40):
        await bench.publish(f"refused-{number}@x.test")
    await bench.dead(40)
    bench.host.healed = True
    retry = ("dead", "retry", "--all", "--server", bench.world.address)
    await asyncio.gather(*(mss_process(*retry) for _ in range(2)))
    await until(lambda: len(bench.mails()) == 40, what="every mail")
    await bench.quiet()
    assert max(bench.mails().values()) == 1 and await bench.world.stored("MSS_DEAD") == 0


@pytest.mark.parametrize("key", ["notice.case", "notice.worded"])
async def test_a_second_copy_in_the_stream_is_not_sent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """A command was killed before it removed the dead letter, and ran again after the duplicate window."""
    engine = await bench.serve()
    await bench.publish("refused@x.test", key)
    await bench.dead(1)
    await engine.end()
    js = bench.world.client.jetstream()
    stream = "MSS_DELIVERY" if key == "notice.case" else "MSS_NOTICE"
    config = (await js.stream_info(stream)).config
    config.duplicate_window = 0.1
    await js.update_stream(config)

    async def keep(_: DeadLetterStore, __: DeadLetter) -> None:
        """Remove nothing, as if the command was killed here."""

    monkeypatch.setattr(DeadLetterStore, "remove", keep)
    connection = await connect({"servers": [bench.world.address]})
    dead_letters = DeadLetterStore(Broker(connection, Topology()))
    found = [dead_letter async for dead_letter in dead_letters.search(DeadLetterFilter())]

    async def two_copies() -> bool:
        async with open_redriver(dead_letters, now) as redriver:
            assert [done.problem async for done in redriver.redrive(found)] == [""]
        return await bench.world.stored(stream) == 2

    await until(two_copies, what="two copies")
    bench.host.healed = True
    await bench.serve(FIXED)
    await until(lambda: len(bench.host.mails) > 0, what="the mail")
    await bench.quiet()
    assert bench.mails() == Counter(["refused@x.test"])
    await connection.close()


async def test_a_redriven_event_keeps_its_time_of_arrival(bench: Bench) -> None:
    await bench.serve()
    hour = 3_600_000_000
    data = envelope({"mailto": "ok@x.test", "number": 1, "link": SECRET}, sent=now() - hour)
    headers = {"Mss-Dead-Letter": "1-1", "Mss-Redriven-At": str(now()), "Mss-Received": str(now() - hour)}
    await bench.world.client.publish("kiam.console.notice.case", data, headers=headers)
    await until(lambda: len(bench.host.mails) == 1, what="the mail")
    # A header in the dead letter cannot make the event younger.
    early = envelope({"mailto": "no@x.test", "number": 1, "link": SECRET}, sent=now() + hour)
    headers |= {"Mss-Dead-Letter": "2-1", "Mss-Received": str(now() + hour)}
    await bench.world.client.publish("kiam.console.notice.case", early, headers=headers)
    await bench.dead(1)
    assert "bad-time" in (await bench.run("list")).output


async def test_an_undecodable_event_is_redriven_unchanged(bench: Bench) -> None:
    engine = await bench.serve()
    late = envelope({"mailto": "ok@x.test", "number": 1, "link": SECRET}, sent=now() - 60_000_000)
    await bench.world.client.publish("kiam.console.notice.case", late)
    await bench.world.client.publish("kiam.console.notice.case", b"\x00" * bench.world.client.max_payload)
    await bench.dead(2)
    await engine.end()
    await bench.serve(clock_tolerance="2m")
    result = await bench.run("retry", "--all", "--kind", "notice")
    assert result.code == 1 and result.output == "1 of 2 dead letters redriven\n"
    assert "2: only its beginning was kept" in result.errors
    await until(lambda: bench.mails() == Counter(["ok@x.test"]), what="the mail")
    await bench.quiet()
    assert await bench.world.stored("MSS_DEAD") == 1


async def test_each_recipient_whose_template_fails_has_a_dead_letter(bench: Bench) -> None:
    await bench.serve()
    phones = ["+8613800000001", "+8613800000002"]
    await bench.world.client.publish("kiam.console.notice.texted", envelope({"phones": phones}))
    await bench.dead(2)
    dead_letters = (await bench.run("list", "--format", "json")).document["dead_letters"]
    assert len({dead_letter["delivery"] for dead_letter in dead_letters}) == 2
    assert {dead_letter["reason"] for dead_letter in dead_letters} == {"render-failed"}


async def test_filters_select_dead_letters_and_drop_asks_first(bench: Bench) -> None:
    await bench.serve()
    reqid = await bench.publish("refused@x.test")
    await bench.publish("later@x.test")
    await bench.publish("refused@x.test", "audit.case")
    await bench.publish("worded@x.test", "notice.worded")
    await bench.world.client.publish("kiam.console.notice.case", b"nonsense")
    await bench.dead(5)

    async def count(*filters: str) -> int:
        total: int = (await bench.run("list", "--format", "json", *filters)).document["total"]
        return total

    assert await count() == 5
    assert await count("--rule", "quick") == 3
    assert await count("--rule", "quick", "--reason", "refused") == 2
    assert await count("--kind", "audit") == 1
    assert await count("--channel", "email", "--kind", "notice") == 3
    assert await count("--reqid", reqid) == 1
    assert await count("--since", "1h") == 5
    assert await count("--since", "0s") == 0
    limited = (await bench.run("list", "--format", "json", "--limit", "2")).document
    assert limited["total"] == 5 and [each["sequence"] for each in limited["dead_letters"]] == [4, 5]
    refused = await bench.run("drop", "--all", answer="n\n")
    assert refused.code == 1 and "Drop 5 dead letters for good?" in refused.errors
    assert await count() == 5
    result = await bench.run("drop", "--all", "--rule", "quick", "--reason", "refused", "--yes")
    assert (result.code, result.output) == (0, "2 dead letters dropped\n")
    (delivery,) = (await bench.trace(reqid))["deliveries"]
    assert delivery["dropped"] and delivery["status"] == "refused"
    result = await bench.run(
        "drop",
        "77",
        str((await bench.run("list", "--format", "json")).document["dead_letters"][0]["sequence"]),
    )
    assert result.code == 1 and result.output == "1 of 2 dead letters dropped\n"
    assert "77: there is no such dead letter" in result.errors
    assert await count() == 2


async def test_show_masks_secrets(bench: Bench) -> None:
    await bench.serve()
    await bench.publish("refused@x.test")
    await bench.dead(1)
    # An event that is too old, and half an event.
    await bench.world.client.publish("kiam.console.notice.case", envelope({"LINK": SECRET}, sent=1))
    await bench.dead(2)
    await bench.world.client.publish("kiam.console.notice.case", envelope({"link": SECRET})[:-2])
    await bench.dead(3)
    for form in ("text", "json"):
        for sequence, words in (("1", "Case 1 ***"), ("2", "***"), ("3", "not shown: ")):
            result = await bench.run("show", sequence, "--format", form)
            assert result.code == 0 and words in result.output, result
            assert "token=abc" not in result.output
    whole = (await bench.run("show", "1", "--format", "json")).document
    assert whole["reason"] == "refused" and whole["payload"]["to"] == ["refused@x.test"]
    (dead_letter, *_) = await bench.world.messages("MSS_DEAD")
    assert (
        SECRET in json.loads(dead_letter.data)["secrets"]
    )  # the secret is there, so the delivery can be redriven
    assert (await bench.run("show", "9")).code == 1


async def test_missing_permissions_are_reported(tmp_path: Path) -> None:
    broker = NatsServer(
        tmp_path / "strict",
        """authorization { users: [
          {user: mss, password: mss},
          {user: reader, password: reader, permissions: {
            publish: ["$JS.API.CONSUMER.CREATE.MSS_DEAD.*.mss.dead.notice.*", "$JS.FC.>"],
            subscribe: ["_INBOX_mss.>"]}},
          {user: clerk, password: clerk, permissions: {
            publish: {deny: ["mss.delivery.>"]}, subscribe: ["_INBOX_mss.>"]}}]}""",
    )
    await broker.start()
    options = {**client_options(broker), "user": "mss", "password": "mss"}
    connection: Connection = await connect(options)
    await Provisioner(Topology(), connection).provision()
    for kind in ("notice", "audit"):
        await connection.js.publish(f"mss.dead.{kind}.refused", b"{}", headers={"Mss-Delivery": kind})

    def config(user: str) -> str:
        folder = tmp_path / user
        folder.mkdir()
        return str(write_config(folder, broker.address, tmp_path, user=user, password=user))

    listed = await mss("dead", "list", "-c", config("reader"))
    assert listed.code == 0 and len(listed.output.splitlines()) == 2 and "notice" in listed.output, listed
    assert "audit: not shown, because NATS does not permit it" in listed.errors
    reader = str(tmp_path / "reader" / "mss.yaml")
    assert "permissions violation" in (await mss("dead", "show", "1", "-c", reader)).errors.lower()
    login = {"user": "reader", "password": "reader", "inbox_prefix": "_INBOX_mss"}
    reading = await connect({**client_options(broker), **login})
    store = DeadLetterStore(Broker(reading, Topology()))
    assert [each.kind for each in await store.resolve("1")] == ["notice"]
    assert store.hidden == {}  # the dead letter was found: the other kinds do not matter
    await reading.close()
    await connection.js.publish("mss.dead.notice.refused", delivery(), headers={"Mss-Delivery": "d" * 32})
    result = await mss("dead", "retry", "3", "-c", config("clerk"))
    assert result.code == 1 and "permissions violation" in result.errors.lower(), result
    assert (await connection.js.stream_info("MSS_DEAD")).state.messages == 3  # nothing was lost
    await connection.close()
    await broker.kill()


def delivery() -> bytes:
    from contract.channels.sides import make_delivery

    from engine.broker.codec import encode

    return encode(make_delivery())


async def test_the_log_has_the_reason_of_a_failed_rendering_without_secrets(bench: Bench) -> None:
    """For an event and for a digest, a template can fail at a sensitive value."""
    broken = "---\nsubject: Case\n---\n{{ payload[payload.link].x }}"
    words = {"templates/quick/default.txt": broken, "templates/gathered/email.txt": broken}
    engine = await bench.serve({**GATHERED, **words})
    await bench.publish("ok@x.test")
    await bench.publish("ok@x.test", "notice.gathered")
    await bench.dead(2)
    await engine.end()
    for rule in ("quick", "gathered"):
        (result,) = (line for line in engine.log if f"rule {rule}, channel email" in line)
        assert "***" in result and "token" not in result
