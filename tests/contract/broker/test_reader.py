"""The stream reader: all messages of a subject, in order, across a kill of the broker, without a trace."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.processes import NatsServer, client_options
from support.waiting import LIMIT, until

from engine.broker import Connection, OutgoingMessage, Publisher, connect
from engine.broker.reader import StreamReader
from engine.model.errors import BrokerUnsupported, NotPermitted


async def filled(connection: Connection, count: int, size: int = 10) -> Publisher:
    await connection.js.add_stream(name="S", subjects=["s.*.*"])
    publisher = Publisher(connection)
    await publisher.start()
    await publisher.store(*(message(number, size) for number in range(count)))
    return publisher


def message(number: int, size: int = 10) -> OutgoingMessage:
    headers = {"Number": str(number)}
    return OutgoingMessage(
        subject=f"s.{'ab'[number % 2]}.x", payload=b"x" * size, id=f"m{number}", headers=headers
    )


async def numbers(reading: StreamReader) -> list[int]:
    found = []
    while (stored := await reading.next_existing()) is not None:
        found.append(int(stored.headers["Number"]))
    return found


async def test_it_reads_one_subject_from_the_oldest_message(connection: Connection) -> None:
    publisher = await filled(connection, 10)
    async with StreamReader(connection, "S", "s.a.*") as reading:
        assert await numbers(reading) == [0, 2, 4, 6, 8]
        assert await reading.next_existing() is None
    async with StreamReader(connection, "S", "s.b.x", start=5) as reading:
        assert await numbers(reading) == [5, 7, 9]
    async with StreamReader(connection, "S", "s.c.x") as reading:
        assert await numbers(reading) == []
    await publisher.close()


async def test_it_reads_from_a_given_time(connection: Connection) -> None:
    publisher = await filled(connection, 1)
    async with StreamReader(connection, "S", "s.*.*") as reading:
        first = await reading.next_existing()
    assert first is not None
    await publisher.store(message(1))
    async with StreamReader(connection, "S", "s.*.*", since=first.at + 1000) as reading:
        assert await numbers(reading) == [1]
    async with StreamReader(connection, "S", "s.*.*", since=first.at - 1000) as reading:
        assert await numbers(reading) == [0, 1]
    await publisher.close()


async def test_it_reads_more_than_fits_into_any_buffer(connection: Connection) -> None:
    """96 MB: without flow control, the broker would close the connection at 64 MB."""
    publisher = await filled(connection, 1500, size=64 * 1024)
    async with StreamReader(connection, "S", "s.*.*") as reading:
        assert await numbers(reading) == list(range(1500))
    assert connection.reconnections == 0
    await publisher.close()


async def test_with_headers_only_the_size_of_the_payload_is_known(connection: Connection) -> None:
    publisher = await filled(connection, 3, size=5000)
    async with StreamReader(connection, "S", "s.*.*", headers_only=True) as reading:
        stored = await reading.next_existing()
    assert stored is not None and (stored.payload, stored.size) == (b"", 5000)
    await publisher.close()


async def test_it_continues_after_the_broker_was_killed(server: NatsServer, connection: Connection) -> None:
    publisher = await filled(connection, 4)
    async with StreamReader(connection, "S", "s.*.*") as reading:
        assert await numbers(reading) == [0, 1, 2, 3]
        following = asyncio.create_task(reading.next_message())
        await server.kill()
        await server.start()
        await until(lambda: connection.reconnections == 1, what="connected again")
        await publisher.store(message(4))
        async with asyncio.timeout(LIMIT):
            assert (await following).headers["Number"] == "4"
    await publisher.close()


async def test_it_leaves_no_consumer_on_the_broker(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.broker.reader._IDLE", 0.2)
    publisher = await filled(connection, 4)
    async with StreamReader(connection, "S", "s.*.*") as reading:
        assert len(await connection.js.consumers_info("S")) == 1
        await numbers(reading)

    async def gone() -> bool:
        return not await connection.js.consumers_info("S")

    await until(gone, what="the consumer forgotten")
    await publisher.close()


async def test_a_missing_stream_and_a_missing_permission_are_errors(tmp_path: Path) -> None:
    server = NatsServer(
        tmp_path / "strict",
        """authorization { users: [
          {user: mss, password: mss},
          {user: a, password: a, permissions: {publish: ["$JS.API.CONSUMER.CREATE.S.*.s.a.x", "$JS.FC.>"]}},
          {user: slow, password: a, permissions: {publish: ["$JS.API.CONSUMER.CREATE.S.*.s.a.x"]}},
          {user: deaf, password: a, permissions: {subscribe: {deny: "_INBOX.>"}}}]}""",
    )
    await server.start()
    owner = await connect({**client_options(server), "user": "mss", "password": "mss"})
    with pytest.raises(BrokerUnsupported, match="there is no stream S on this broker"):
        await StreamReader(owner, "S", "s.a.x").__aenter__()
    publisher = await filled(owner, 1500, size=64 * 1024)
    reader = await connect({**client_options(server), "user": "a", "password": "a"})
    async with StreamReader(reader, "S", "s.a.x") as reading:
        assert len(await numbers(reading)) == 750
    with pytest.raises(NotPermitted, match=r"s\.b\.x"):
        await StreamReader(reader, "S", "s.b.x").__aenter__()
    # Without the right to answer for the flow it would stand still, and has to say so.
    slow = await connect({**client_options(server), "user": "slow", "password": "a"})
    async with StreamReader(slow, "S", "s.a.x") as reading:
        with pytest.raises(NotPermitted, match=r"\$js\.fc"):
            await numbers(reading)
    deaf = await connect({**client_options(server), "user": "deaf", "password": "a"})
    with pytest.raises(NotPermitted, match="subscription"):
        await StreamReader(deaf, "S", "s.a.x").__aenter__()
    await publisher.close()
    for connection in (owner, reader, slow, deaf):
        await connection.close()
    await server.kill()
