"""The deliverer against a real broker: each way a send can end, and what is left behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from support import until

from engine.broker import Connection, Consumer, Outgoing, Publisher, Topology
from engine.codec import encode
from engine.deliver import Deliverer
from engine.errors import Deferred, Refused, Unknown
from engine.metrics import Metrics
from engine.model import Delivery, Kind, Message, Place, Severity
from engine.retry import RetryPolicy
from engine.rulebook import ChannelSpec
from engine.server import now

SECRET = "https://iam.example.com/secure?token=abc"
QUICK = RetryPolicy(attempts=3, first=0.05, max=0.1, deadline=3600.0)


@dataclass
class Scripted:
    """A channel that answers as told, then says yes."""

    answers: list[Exception | str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)

    async def send(self, delivery: Delivery) -> str:
        self.sent.append(delivery.id)
        answer = self.answers.pop(0) if self.answers else "250 ok"
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        pass


@dataclass
class Bench:
    connection: Connection
    publisher: Publisher
    topology: Topology
    metrics: Metrics
    channel: Scripted

    async def store(self, delivery: Delivery) -> None:
        subject = self.topology.delivery_subject(delivery.kind, delivery.channel)
        await self.publisher.store(Outgoing(subject=subject, payload=encode(delivery), id=delivery.id))

    async def stored(self, stream: str) -> list[Any]:
        state = (await self.connection.js.stream_info(stream)).state
        if not state.messages:
            return []
        return [
            await self.connection.js.get_msg(stream, n) for n in range(state.first_seq, state.last_seq + 1)
        ]

    async def history(self) -> list[dict[str, Any]]:
        return [json.loads(message.data) for message in await self.stored("MSS_HISTORY")]

    async def done(self) -> None:
        """Return once no delivery waits."""

        async def empty() -> bool:
            return not (await self.connection.js.stream_info("MSS_DELIVERY")).state.messages

        await until(empty, what="the delivery acknowledged")


@asynccontextmanager
async def delivering(
    connection: Connection,
    *answers: Exception | str,
    retry: RetryPolicy = QUICK,
    clock: Callable[[], int] = now,
) -> AsyncIterator[Bench]:
    topology = Topology(kinds=(Kind.NOTICE,), ack_wait=1.0)
    await topology.prepare(connection)
    await topology.ensure_workers(connection, ["email"])
    publisher = Publisher(connection)
    await publisher.start()
    bench = Bench(connection, publisher, topology, Metrics(), Scripted(list(answers)))
    deliverer = Deliverer(
        spec=ChannelSpec(
            name="email", type="email", address="email", options={}, retry=retry, place=Place(file="x")
        ),
        channel=bench.channel,
        topology=topology,
        connection=connection,
        publisher=publisher,
        ledger=await topology.ledger(connection),
        metrics=bench.metrics,
        clock=clock,
    )
    consumer = Consumer(
        connection, "MSS_DELIVERY", topology.worker("email"), limit=4, ack_wait=1.0, handle=deliverer.handle
    )
    running = asyncio.create_task(consumer.run())
    yield bench
    consumer.stop()
    await running
    await publisher.close()


def delivery(**more: Any) -> Delivery:
    whole = Delivery(
        id="d" * 32,
        kind=Kind.NOTICE,
        key="x",
        reqid="a" * 32,
        rule="r",
        revision="rev",
        channel="email",
        user="u",
        to=("a@example.com",),
        locale="en",
        severity=Severity.NONE,
        message=Message(text="words"),
        secrets=(SECRET,),
        created=now(),
    )
    return replace(whole, **more)


async def test_sent(connection: Connection) -> None:
    async with delivering(connection) as bench:
        await bench.store(delivery())
        await bench.done()
        (receipt,) = await bench.history()
        assert (receipt["outcome"], receipt["attempt"], receipt["final"], receipt["detail"]) == (
            "sent", 1, True, "250 ok",
        )  # fmt: skip
        assert await bench.stored("MSS_DEAD") == []
        assert bench.metrics.value("mss_delivery_attempts_total", channel="email", outcome="sent") == 1


@pytest.mark.parametrize(
    ("error", "outcome"), [(Deferred("451 later"), "deferred"), (Unknown("silence"), "unknown")]
)
async def test_what_failed_for_now_comes_again(
    connection: Connection, error: Exception, outcome: str
) -> None:
    async with delivering(connection, error) as bench:
        await bench.store(delivery())
        await bench.done()
        assert [(r["outcome"], r["attempt"], r["final"]) for r in await bench.history()] == [
            (outcome, 1, False),
            ("sent", 2, True),
        ]


async def test_refused_is_a_dead_letter_at_once_and_shows_no_secret(connection: Connection) -> None:
    async with delivering(connection, Refused(f"550 no such user, see {SECRET}\r\nX: y")) as bench:
        await bench.store(delivery())
        await bench.done()
        (letter,) = await bench.stored("MSS_DEAD")
        assert letter.subject == "mss.dead.notice.refused"
        assert letter.headers["Mss-Detail"] == "550 no such user, see *** X: y"
        assert letter.headers["Mss-Attempts"] == "1"
        assert json.loads(letter.data)["message"]["text"] == "words"  # whole: it can be sent after all
        (receipt,) = await bench.history()
        assert (receipt["outcome"], receipt["final"]) == ("refused", True)
        assert SECRET not in json.dumps(receipt)


async def test_who_had_to_wait_is_sent_to_alone(connection: Connection) -> None:
    async with delivering(connection, Deferred("451 b waits", remaining=("b@example.com",))) as bench:
        await bench.store(delivery(to=("a@example.com", "b@example.com")))
        await bench.done()
        await until(lambda: len(bench.channel.sent) == 2, what="the second address")
        assert bench.channel.sent[0] == "d" * 32 != bench.channel.sent[1]

        async def both() -> bool:
            return len(await bench.history()) == 2

        await until(both, what="two receipts")
        assert [(r["outcome"], r["to"]) for r in await bench.history()] == [
            ("sent", ["a@example.com", "b@example.com"]),
            ("sent", ["b@example.com"]),
        ]


async def test_attempts_are_bounded(connection: Connection) -> None:
    async with delivering(connection, *(Deferred("451 later") for _ in range(9))) as bench:
        await bench.store(delivery())
        await bench.done()
        assert len(bench.channel.sent) == 3
        (letter,) = await bench.stored("MSS_DEAD")
        assert letter.headers["Mss-Reason"] == "exhausted"
        assert [r["final"] for r in await bench.history()] == [False, False, True]


async def test_what_is_too_old_is_not_sent(connection: Connection) -> None:
    async with delivering(connection) as bench:
        await bench.store(delivery(created=now() - 3601 * 1_000_000))
        await bench.done()
        assert bench.channel.sent == []
        (letter,) = await bench.stored("MSS_DEAD")
        assert letter.headers["Mss-Reason"] == "expired"


async def test_what_was_sent_before_a_crash_is_not_sent_again(connection: Connection) -> None:
    async with delivering(connection, Deferred("once more")) as bench:
        # As if the first attempt had gone out and its acknowledgement been lost.
        await bench.publisher.store(
            Outgoing(subject=f"$KV.MSS_LEDGER.delivery.{'d' * 32}", payload=b"sent", id="mark")
        )
        await bench.store(delivery())
        await bench.done()
        assert len(bench.channel.sent) == 1


async def test_a_bug_in_a_channel_costs_a_delay(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.broker.consumer._MISHAP_WAIT", 0.05)
    async with delivering(connection, RuntimeError("a bug")) as bench:
        await bench.store(delivery())
        await bench.done()
        assert len(bench.channel.sent) == 2


async def test_a_delivery_that_cannot_be_read_is_buried(connection: Connection) -> None:
    async with delivering(connection) as bench:
        await bench.publisher.store(Outgoing(subject="mss.delivery.audit.email", payload=b"{}", id="x"))
        await bench.done()
        (letter,) = await bench.stored("MSS_DEAD")
        assert letter.subject == "mss.dead.audit.bad-delivery"


def test_waits_grow_to_a_ceiling_and_never_vanish() -> None:
    retry = RetryPolicy(attempts=99, first=5.0, max=60.0)
    assert [retry.wait(n, chance=1.0) for n in (1, 2, 3, 4, 5, 99)] == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert retry.wait(1, chance=0.0) == 2.5
    assert retry.wait(1, chance=0.0, asked=120.0) == 120.0
