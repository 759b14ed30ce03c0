"""The consumer: every message arrives, within the limit of messages in flight, despite kills and bugs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

import pytest
from nats.aio.msg import Msg
from nats.js import api
from support.processes import NatsServer
from support.waiting import LIMIT, until

from engine.broker import Broker, Connection, Consumer, OutgoingMessage, PendingAck, Publisher, Topology
from engine.broker.consumer import Handle
from engine.broker.publisher import OnStored
from engine.model.errors import BrokerError, BrokerUnsupported

ACK_WAIT = 1.0


async def stream(connection: Connection, messages: int) -> None:
    js = connection.js
    await js.add_stream(name="S", subjects=["s"], retention=api.RetentionPolicy.WORK_QUEUE)
    await js.add_consumer(
        "S", api.ConsumerConfig(durable_name="d", ack_policy=api.AckPolicy.EXPLICIT, ack_wait=ACK_WAIT)
    )
    for number in range(messages):
        await connection.publish("s", b"%d" % number)
    await connection.client.flush()


def consumer(
    connection: Connection,
    handle: Handle,
    limit: int = 10,
    *,
    publisher: Publisher | None = None,
    **more: Any,
) -> Consumer:
    broker = Broker(connection, Topology(), publisher=publisher)
    return Consumer(broker, "S", "d", limit=limit, ack_wait=ACK_WAIT, handle=handle, **more)


async def left(connection: Connection) -> int:
    return int((await connection.js.stream_info("S")).state.messages)


async def test_everything_arrives_and_never_more_at_once_than_allowed(connection: Connection) -> None:
    await stream(connection, 300)
    seen: Counter[bytes] = Counter()
    at_once = most = 0

    async def handle(msg: Msg) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.001)
        seen[msg.data] += 1
        await msg.ack()
        at_once -= 1

    made = consumer(connection, handle)
    running = asyncio.create_task(made.run())
    await until(lambda: len(seen) == 300, what="300 messages")
    made.stop()
    await running
    assert most == 10 and max(seen.values()) == 1 and made.in_flight == 0
    assert await left(connection) == 0


async def test_stop_finishes_the_messages_in_flight_and_leaves_the_others(connection: Connection) -> None:
    await stream(connection, 20)
    release = asyncio.Event()
    handled = []

    async def handle(msg: Msg) -> None:
        await release.wait()
        handled.append(msg.data)
        await msg.ack()

    made = consumer(connection, handle, limit=5)
    running = asyncio.create_task(made.run())
    await until(lambda: made.in_flight == 5, what="five in hand")
    made.stop()
    release.set()
    await asyncio.wait_for(running, LIMIT)
    assert len(handled) == 5

    async def fifteen() -> bool:
        return await left(connection) == 15

    await until(fifteen, what="fifteen left")


async def test_a_bug_delays_one_message(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.broker.consumer._REDELIVERY_WAIT", 0.1)
    await stream(connection, 10)
    seen: Counter[bytes] = Counter()

    async def handle(msg: Msg) -> None:
        seen[msg.data] += 1
        if msg.data == b"3" and seen[msg.data] < 3:
            raise RuntimeError("a bug")
        await msg.ack()

    made = consumer(connection, handle)
    running = asyncio.create_task(made.run())
    await until(lambda: seen[b"3"] == 3 and len(seen) == 10, what="the third try")
    made.stop()
    await running
    assert sorted(seen.values()) == [1] * 9 + [3]


async def test_results_within_one_window_are_stored_together_and_block_no_slot(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.broker.consumer._FLUSH_WINDOW", 0.5)
    await stream(connection, 10)
    ended = 0
    ended_before: list[int] = []  # each was stored

    class Noting(Publisher):
        async def send(self, messages: Sequence[OutgoingMessage], then: OnStored) -> None:
            ended_before.append(ended)
            await super().send(messages, then)

    async def handle(_: Msg) -> PendingAck:
        nonlocal ended
        await asyncio.sleep(0)
        ended += 1
        return PendingAck()

    made = consumer(connection, handle, limit=1, publisher=Noting(connection))
    running = asyncio.create_task(made.run())
    await until(lambda: len(ended_before) == 10, what="ten stored")
    made.stop()
    await running
    assert ended_before == [10] * 10
    assert await left(connection) == 0


async def test_a_message_that_always_meets_a_bug_is_dead_lettered_and_broker_errors_do_not_count(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.broker.consumer._REDELIVERY_WAIT", 0.02)
    await stream(connection, 2)
    await connection.js.add_stream(name="D", subjects=["dead"])
    publisher = Publisher(connection)
    await publisher.start()
    seen: Counter[bytes] = Counter()

    async def handle(msg: Msg) -> None:
        seen[msg.data] += 1
        if msg.data == b"0":
            raise RuntimeError("a bug")
        if seen[msg.data] < 12:
            raise BrokerError("no answer")
        await msg.ack()

    def give_up(msg: Msg) -> PendingAck:
        return PendingAck(messages=[OutgoingMessage(subject="dead", payload=msg.data, id="d")])

    made = consumer(connection, handle, publisher=publisher, give_up=give_up)
    running = asyncio.create_task(made.run())

    async def is_done() -> bool:
        return await left(connection) == 0

    await until(is_done, what="both are over")
    made.stop()
    await running
    assert seen == {b"0": 5, b"1": 12}
    assert (await connection.js.get_msg("D", 1)).data == b"0"
    await publisher.close()


async def test_a_message_in_progress_is_not_redelivered(connection: Connection) -> None:
    await stream(connection, 1)
    times = 0

    async def handle(msg: Msg) -> None:
        nonlocal times
        times += 1
        await asyncio.sleep(ACK_WAIT * 2.5)
        await msg.ack()

    made = consumer(connection, handle)
    running = asyncio.create_task(made.run())

    async def empty() -> bool:
        return await left(connection) == 0

    await until(lambda: times, what="the message handed out")  # before that the stream may be empty too
    await until(empty, what="the message acknowledged")
    made.stop()
    await running
    assert times == 1


def copy(msg: Msg) -> OutgoingMessage:
    return OutgoingMessage(subject="t", payload=msg.data, id=msg.data.decode())


async def test_a_message_is_acknowledged_when_its_results_are_stored_and_uses_no_slot_until_then(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.broker.publisher._RESEND_AFTER", 0.1)
    await stream(connection, 100)
    handled, counted = [], []
    publisher = Publisher(connection)
    async with publisher.running():

        def handle(msg: Msg) -> PendingAck:
            handled.append(msg.data)
            settled = partial(counted.append, msg.data)
            return PendingAck(messages=[copy(msg)], settled=settled)

        made = consumer(connection, handle, limit=5, publisher=publisher)
        running = asyncio.create_task(made.run())
        await until(lambda: len(handled) == 100, what="all handled, and no stream to store them")
        assert made.in_flight == 100 and await left(connection) == 100 and not counted
        await connection.js.add_stream(name="T", subjects=["t"])
        await until(lambda: made.in_flight == 0, what="all acknowledged")
        made.stop()
        await running
    assert sorted(counted) == sorted(handled)
    assert await left(connection) == 0
    assert (await connection.js.stream_info("T")).state.messages == 100


async def test_a_message_without_results_is_acknowledged_at_once(connection: Connection) -> None:
    await stream(connection, 20)
    publisher = Publisher(connection)
    async with publisher.running():

        async def later() -> PendingAck:
            return PendingAck()

        def handle(msg: Msg) -> PendingAck | Coroutine[Any, Any, PendingAck]:
            return later() if int(msg.data) % 2 else PendingAck()

        made = consumer(connection, handle, limit=5, publisher=publisher)
        running = asyncio.create_task(made.run())

        async def is_empty() -> bool:
            return await left(connection) == 0

        await until(is_empty, what="all acknowledged")
        made.stop()
        await running


async def test_a_message_whose_results_cannot_be_stored_is_redelivered(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.broker.consumer._REDELIVERY_WAIT", 0.1)
    await stream(connection, 4)
    full = {"name": "T", "subjects": ["t"], "discard": api.DiscardPolicy.NEW}
    await connection.js.add_stream(max_msgs=1, **full)
    seen: Counter[bytes] = Counter()
    publisher = Publisher(connection)
    async with publisher.running():

        def handle(msg: Msg) -> PendingAck | Coroutine[Any, Any, PendingAck]:
            seen[msg.data] += 1
            if msg.data == b"3" and seen[msg.data] == 1:
                raise RuntimeError("a bug before anything is awaited")
            settlement = PendingAck(messages=[copy(msg)])

            async def later() -> PendingAck:
                await asyncio.sleep(0)
                return settlement

            return settlement if int(msg.data) % 2 else later()

        made = consumer(connection, handle, publisher=publisher)
        running = asyncio.create_task(made.run())
        await until(lambda: max(seen.values(), default=0) > 2, what="handed out again and again")
        await connection.js.update_stream(max_msgs=10, **full)

        async def all_stored() -> bool:
            return (await connection.js.stream_info("T")).state.messages == 4

        await until(all_stored, what="all four stored")
        await until(lambda: made.in_flight == 0, what="all acknowledged")
        made.stop()
        await running
    assert await left(connection) == 0


async def test_it_continues_after_the_broker_was_killed(
    server: NatsServer, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.broker.consumer._SILENCE", 1000.0)  # it must not need to notice the silence
    await stream(connection, 5)
    seen = set()

    async def handle(msg: Msg) -> None:
        seen.add(msg.data)
        await msg.ack()

    made = consumer(connection, handle)
    running = asyncio.create_task(made.run())
    await until(lambda: len(seen) == 5, what="the first five")
    await server.kill()
    await server.start()
    await until(lambda: connection.reconnections == 1, what="connected again")
    for number in range(5, 10):
        await connection.publish("s", b"%d" % number)
    await until(lambda: len(seen) == 10, what="the next five")
    made.stop()
    await running


async def test_a_message_that_looks_like_a_status_is_a_message(connection: Connection) -> None:
    await stream(connection, 0)
    await connection.publish("s", b"", headers={"Status": "409", "Description": "Consumer Deleted"})
    seen = []

    async def handle(msg: Msg) -> None:
        seen.append(msg.headers)
        await msg.ack()

    made = consumer(connection, handle)
    running = asyncio.create_task(made.run())
    await until(lambda: bool(seen), what="the message")
    made.stop()
    await running


async def test_a_deleted_consumer_is_an_error(connection: Connection) -> None:
    await stream(connection, 0)

    async def handle(msg: Msg) -> None:
        await msg.ack()

    made = consumer(connection, handle)
    running = asyncio.create_task(made.run())
    await until(lambda: bool(made._pulls), what="a standing pull")
    await connection.client.flush()
    await connection.js.delete_consumer("S", "d")
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(running, LIMIT)
    assert isinstance(caught.value.exceptions[0], BrokerUnsupported)
