"""The delivery worker on a real broker: every result of a send, and what it leaves on the broker."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from msgspec import structs
from support.waiting import until

from engine.broker import (
    RESENT_HEADER,
    Broker,
    Connection,
    Consumer,
    OutgoingMessage,
    Provisioner,
    Publisher,
    Topology,
)
from engine.broker.codec import encode
from engine.channels.circuit_breaker import CircuitBreaker
from engine.history import entries
from engine.metrics import Metrics
from engine.model.errors import Deferred, Refused, Unknown
from engine.model.messages import Delivery, Kind, Message, Outcome, Receipt, Severity
from engine.model.problems import Place
from engine.pipeline.deliver import DeliveryWorker
from engine.pipeline.dispatch import DelayedForwarder
from engine.pipeline.flow_control import FlowControl
from engine.pipeline.operator_notices import OperatorNotifier
from engine.rules.rulebook import ChannelSpec, RetryPolicy
from engine.runtime import now

SECRET = "https://iam.example.com/secure?token=abc"
QUICK = RetryPolicy(attempts=3, first=0.05, max=0.1, deadline=3600.0)


@dataclass
class Scripted:
    """A channel that gives the answers of a list, then succeeds."""

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
    broker: Broker
    metrics: Metrics
    channel: Scripted

    @property
    def connection(self) -> Connection:
        return self.broker.connection

    @property
    def publisher(self) -> Publisher:
        return self.broker.publisher

    async def store(self, delivery: Delivery) -> None:
        subject = self.broker.topology.delivery_subject(delivery.kind, delivery.channel)
        await self.publisher.store(OutgoingMessage(subject=subject, payload=encode(delivery), id=delivery.id))

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
        """Return when no delivery waits."""

        async def empty() -> bool:
            return not (await self.connection.js.stream_info("MSS_DELIVERY")).state.messages

        await until(empty, what="the delivery acknowledged")


@asynccontextmanager
async def delivering(
    connection: Connection,
    *answers: Exception | str,
    retry: RetryPolicy = QUICK,
    clock: Callable[[], int] = now,
    repeats_unknown: bool = True,
) -> AsyncIterator[Bench]:
    broker = Broker(connection, Topology(kinds=(Kind.NOTICE,), ack_wait=1.0))
    topology, provisioner = broker.topology, Provisioner(broker.topology, connection)
    await provisioner.provision()
    await provisioner.ensure_workers(["email"])
    await broker.publisher.start()
    bench = Bench(broker, Metrics(), Scripted(list(answers)))
    flow_control = FlowControl(name="email", breaker=CircuitBreaker(first=0.02, longest=0.05))
    deliverer = DeliveryWorker(
        spec=ChannelSpec(
            name="email",
            type="email",
            address="email",
            options={},
            retry=retry,
            repeats_unknown=repeats_unknown,
            place=Place(file="x"),
        ),
        flow_control=flow_control,
        notifier=OperatorNotifier(broker=broker, clock=clock),
        channel=bench.channel,
        broker=broker,
        metrics=bench.metrics,
        clock=clock,
    )
    consumer = Consumer(
        broker,
        "MSS_DELIVERY",
        topology.worker("email"),
        limit=4,
        ack_wait=1.0,
        handle=deliverer.handle,
        on_stop=flow_control.close,
    )
    due = DelayedForwarder(broker)
    mover = Consumer(
        broker, "MSS_TIMER", topology.delivery_timer_worker, limit=4, ack_wait=1.0, handle=due.handle
    )
    epoch = asyncio.create_task(connection.track_server_start(provisioner.server_started_at))
    running = asyncio.gather(consumer.run(), mover.run())
    await until(lambda: connection.server_started_at < math.inf, what="the epoch")
    yield bench
    consumer.stop()
    mover.stop()
    await running
    epoch.cancel()
    await broker.publisher.close()


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
    return structs.replace(whole, **more)


async def test_a_sent_delivery_has_a_receipt(connection: Connection) -> None:
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
async def test_a_deferred_delivery_is_retried(connection: Connection, error: Exception, outcome: str) -> None:
    async with delivering(connection, error) as bench:
        await bench.store(delivery())
        await bench.done()
        assert [(r["outcome"], r["attempt"], r["final"]) for r in await bench.history()] == [
            (outcome, 1, False),
            ("sent", 2, True),
        ]


async def test_a_refused_delivery_is_dead_lettered_at_once_without_secrets(connection: Connection) -> None:
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


async def test_the_remaining_recipients_get_a_delivery_of_their_own(connection: Connection) -> None:
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


async def test_the_number_of_attempts_is_limited(connection: Connection) -> None:
    async with delivering(connection, *(Deferred("451 later") for _ in range(9))) as bench:
        await bench.store(delivery())
        await bench.done()
        assert len(bench.channel.sent) == 3
        (letter,) = await bench.stored("MSS_DEAD")
        assert letter.headers["Mss-Reason"] == "exhausted"
        assert [r["final"] for r in await bench.history()] == [False, False, True]


async def test_an_expired_delivery_is_not_sent(connection: Connection) -> None:
    async with delivering(connection) as bench:
        await bench.store(delivery(created=now() - 3601 * 1_000_000))
        await bench.done()
        assert bench.channel.sent == []
        (letter,) = await bench.stored("MSS_DEAD")
        assert letter.headers["Mss-Reason"] == "expired"


async def handed_out_and_lost(bench: Bench, one: Delivery) -> None:
    """Receive a delivery as a worker that is then killed: it is redelivered after ack_wait."""
    await bench.store(one)
    taking = await bench.connection.js.pull_subscribe_bind(
        bench.broker.topology.worker("email"), "MSS_DELIVERY"
    )
    await taking.fetch(1, timeout=5)
    await taking.unsubscribe()


@asynccontextmanager
async def prepared(connection: Connection) -> AsyncIterator[Bench]:
    """Provide streams and a publisher without a delivery worker."""
    broker = Broker(connection, Topology(kinds=(Kind.NOTICE,), ack_wait=1.0))
    await Provisioner(broker.topology, connection).provision()
    await Provisioner(broker.topology, connection).ensure_workers(["email"])
    async with broker.publisher.running():
        yield Bench(broker, Metrics(), Scripted())


def receipt_of(one: Delivery, outcome: Outcome, attempt: int = 1) -> OutgoingMessage:
    receipt = Receipt(
        delivery=one, attempt=attempt, outcome=outcome, detail="before", at=now(), final=outcome == "sent"
    )
    return entries.receipt_entry(Topology(), receipt, id_=f"before.{outcome}")


async def test_a_delivery_that_was_sent_before_a_crash_is_not_sent_again(connection: Connection) -> None:
    async with prepared(connection) as bench:
        await handed_out_and_lost(bench, delivery())
        await bench.publisher.store(receipt_of(delivery(), Outcome.SENT))
    async with delivering(connection) as bench:
        await bench.done()
        assert bench.channel.sent == []
        assert len(await bench.history()) == 1


async def test_a_killed_worker_leaves_an_unknown_attempt(connection: Connection) -> None:
    async with prepared(connection) as bench:
        await handed_out_and_lost(bench, delivery())
    async with delivering(connection) as bench:
        await bench.done()
        assert [(r["outcome"], r["attempt"], r["final"]) for r in await bench.history()] == [
            ("unknown", 1, False),
            ("sent", 2, True),
        ]


async def test_a_deferred_attempt_is_not_recorded_as_unknown(connection: Connection) -> None:
    async with prepared(connection) as bench:
        await handed_out_and_lost(bench, delivery())
        await bench.publisher.store(receipt_of(delivery(), Outcome.DEFERRED))
    async with delivering(connection) as bench:
        await bench.done()
        assert [r["outcome"] for r in await bench.history()] == ["deferred", "sent"]


async def test_a_delivery_that_a_killed_broker_stored_twice_is_sent_once(connection: Connection) -> None:
    async with delivering(connection) as bench:
        await bench.store(delivery())
        await bench.done()
        subject = bench.broker.topology.delivery_subject("notice", "email")
        again = OutgoingMessage(
            subject=subject, payload=encode(delivery()), id="forgotten", headers={RESENT_HEADER: "1"}
        )
        await bench.publisher.store(again)
        await bench.done()
        assert len(bench.channel.sent) == 1


async def test_with_on_unknown_stop_an_unknown_result_is_final(connection: Connection) -> None:
    async with delivering(connection, Unknown("silence"), repeats_unknown=False) as bench:
        await bench.store(delivery())
        await bench.done()
        assert len(bench.channel.sent) == 1
        (letter,) = await bench.stored("MSS_DEAD")
        assert letter.headers["Mss-Reason"] == "unknown"


@pytest.mark.parametrize(
    ("before", "sends"), [(None, 0), (Outcome.DEFERRED, 1)], ids=["died in the middle", "was deferred"]
)
async def test_a_claim_without_a_receipt_is_not_sent_again(
    connection: Connection, before: Outcome | None, sends: int
) -> None:
    async with prepared(connection) as bench:
        await handed_out_and_lost(bench, delivery())
        await bench.broker.ledger.put(f"delivery.{'d' * 32}", b"1", last=0)
        if before:
            await bench.publisher.store(receipt_of(delivery(), before))
    async with delivering(connection, repeats_unknown=False) as bench:
        await bench.done()
        assert len(bench.channel.sent) == sends
        assert [letter.subject for letter in await bench.stored("MSS_DEAD")] == (
            [] if sends else ["mss.dead.notice.unknown"]
        )


async def test_a_delivery_without_a_claim_is_sent_after_a_worker_was_killed(connection: Connection) -> None:
    async with prepared(connection) as bench:
        await handed_out_and_lost(bench, delivery())
    async with delivering(connection, repeats_unknown=False) as bench:
        await bench.done()
        assert len(bench.channel.sent) == 1


async def test_a_long_wait_is_spent_on_the_broker_and_keeps_the_attempt_count(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.pipeline.deliver._LONG_WAIT", 0.0)
    answers = [Deferred("451 later", retry_after=1.0) for _ in range(3)]
    async with delivering(connection, *answers) as bench:
        await bench.store(delivery())

        async def waits() -> bool:
            return bool((await connection.js.stream_info("MSS_TIMER")).state.messages)

        await until(waits, what="the timer")
        await until(lambda: len(bench.channel.sent) == 3, what="the last attempt")
        await bench.done()
        assert [(r["attempt"], r["final"]) for r in await bench.history()] == [
            (1, False), (2, False), (3, True),
        ]  # fmt: skip
        (letter,) = await bench.stored("MSS_DEAD")
        assert letter.headers["Mss-Reason"] == "exhausted"
        assert not await waits()


async def test_an_open_circuit_breaker_probes_the_provider_and_costs_other_deliveries_no_attempt(
    connection: Connection,
) -> None:
    """Twenty deliveries with three attempts each would send sixty times to a broken provider."""
    answers = [Deferred("connection refused") for _ in range(12)]
    async with delivering(connection, *answers, retry=replace(QUICK, attempts=8)) as bench:
        for n in range(20):
            await bench.store(delivery(id=f"{n:032}"))
        await bench.done()
        assert len(bench.channel.sent) == 32
        assert await bench.stored("MSS_DEAD") == []


async def test_a_delivery_that_waits_returns_to_the_stream_when_the_replica_ends(
    connection: Connection,
) -> None:
    answers = [Deferred("connection refused", retry_after=30.0) for _ in range(5)]
    async with delivering(connection, *answers) as bench:
        for n in range(8):
            await bench.store(delivery(id=f"{n:032}"))
        await until(lambda: len(bench.channel.sent) == 5, what="the breaker opens")
    async with delivering(connection) as bench:
        await until(lambda: len(set(bench.channel.sent)) >= 3, what="those that waited")


async def test_a_bug_in_a_channel_delays_the_delivery(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.broker.consumer._REDELIVERY_WAIT", 0.05)
    async with delivering(connection, RuntimeError("a bug")) as bench:
        await bench.store(delivery())
        await bench.done()
        assert len(bench.channel.sent) == 2


async def test_an_undecodable_delivery_is_dead_lettered(connection: Connection) -> None:
    async with delivering(connection) as bench:
        await bench.publisher.store(
            OutgoingMessage(subject="mss.delivery.audit.email", payload=b"{}", id="x")
        )
        await bench.done()
        (letter,) = await bench.stored("MSS_DEAD")
        assert letter.subject == "mss.dead.audit.bad-delivery"


def test_retry_waits_grow_to_a_maximum_and_are_never_zero() -> None:
    retry = RetryPolicy(attempts=99, first=5.0, max=60.0)
    assert [retry.wait(n, chance=1.0) for n in (1, 2, 3, 4, 5, 99)] == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert retry.wait(1, chance=0.0) == 2.5
    assert retry.wait(1, chance=0.0, retry_after=120.0) == 120.0
