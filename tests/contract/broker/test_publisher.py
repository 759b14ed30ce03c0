"""The publisher: every message is stored once, whatever happens to the broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.js import api
from support.processes import NatsServer

from engine.broker import Connection, OutgoingMessage, Publisher
from engine.broker import publisher as module
from engine.model.errors import MaxPayloadExceeded, NotStored


@pytest.fixture
async def publisher(connection: Connection) -> AsyncIterator[Publisher]:
    made = Publisher(connection, window=64)
    async with made.running():
        yield made


def message(number: int, subject: str = "s.a") -> OutgoingMessage:
    return OutgoingMessage(subject=subject, payload=b"%d" % number, id=f"id-{number}", headers={"X": "y"})


async def test_many_groups_at_once_are_stored_once(connection: Connection, publisher: Publisher) -> None:
    await connection.js.add_stream(name="S", subjects=["s.>"])
    groups = [publisher.store(*(message(group * 10 + n) for n in range(10))) for group in range(50)]
    await asyncio.gather(*groups)
    await publisher.store(message(7), message(8))  # a repeat
    await publisher.store()  # nothing
    info = await connection.js.stream_info("S")
    assert info.state.messages == 500
    stored = await connection.js.get_msg("S", 1)
    assert stored.headers == {"X": "y", "Nats-Msg-Id": "id-0"}


async def test_a_stream_reports_which_message_was_first(
    connection: Connection, publisher: Publisher, server: NatsServer
) -> None:
    await connection.js.add_stream(name="S", subjects=["s.>"])
    assert await publisher.store_if_new(message(1))
    assert not await publisher.store_if_new(message(1))
    await server.kill()
    await server.start()
    assert not await publisher.store_if_new(message(1))
    assert await publisher.store_if_new(message(2))


async def test_a_refusal_by_the_stream_is_an_error_at_once(
    connection: Connection, publisher: Publisher
) -> None:
    await connection.js.add_stream(name="S", subjects=["s.>"], max_msgs=3, discard=api.DiscardPolicy.NEW)
    with pytest.raises(NotStored, match="maximum messages"):
        await publisher.store(*(message(n) for n in range(200)))
    assert (await connection.js.stream_info("S")).state.messages == 3
    await connection.js.purge_stream("S")
    await publisher.store(message(999))  # the window is free again


async def test_without_a_stream_storing_fails_after_the_limit(
    connection: Connection, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GIVE_UP_AFTER", 0.2)
    with pytest.raises(NotStored, match="no stream acknowledged nowhere"):
        await publisher.store(message(1, "nowhere"))


async def test_a_message_that_no_stream_acknowledged_is_sent_again(
    connection: Connection, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RESEND_AFTER", 0.05)
    storing = asyncio.create_task(publisher.store(message(1)))
    await connection.flush(5.0)  # it has gone out, and nobody was there
    await connection.js.add_stream(name="S", subjects=["s.>"])
    async with asyncio.timeout(60):
        await storing
    assert (await connection.js.stream_info("S")).state.messages == 1


async def test_a_message_that_is_too_large_is_refused_and_the_connection_stays_open(
    connection: Connection, publisher: Publisher
) -> None:
    await connection.js.add_stream(name="S", subjects=["s.>"])
    room = connection.client.max_payload
    for size in (room + 1, room):  # the second fits without its headers only
        with pytest.raises(MaxPayloadExceeded):
            await publisher.store(OutgoingMessage(subject="s.a", payload=b"x" * size, id=f"big-{size}"))
    await publisher.store(OutgoingMessage(subject="s.a", payload=b"x" * (room - 200), id="fits"))
    assert connection.client.is_connected


async def test_a_killed_broker_loses_no_message(
    server: NatsServer, connection: Connection, publisher: Publisher
) -> None:
    await connection.js.add_stream(name="S", subjects=["s.>"])
    await publisher.store(message(0))
    await server.kill()
    storing = asyncio.gather(*(publisher.store(message(n)) for n in range(1, 300)))
    await server.start()
    async with asyncio.timeout(60):
        await storing
    assert (await connection.js.stream_info("S")).state.messages == 300


async def test_close_fails_the_messages_in_flight(connection: Connection, publisher: Publisher) -> None:
    waiting = asyncio.create_task(publisher.store(message(1, "nowhere")))
    await asyncio.sleep(0)
    await publisher.close()
    with pytest.raises(NotStored, match="closed"):
        await waiting
