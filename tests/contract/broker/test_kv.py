"""Values that all replicas change at the same time: every change is made once, and none spoils another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from nats.js import api
from support.processes import NatsServer, client_options
from support.waiting import LIMIT, until

from engine.broker import AtomicStore, Connection, connect
from engine.model.errors import BrokerError


def count(value: bytes) -> tuple[bytes, int]:
    number = int(value or b"0") + 1
    return str(number).encode(), number


def look(value: bytes) -> tuple[None, int]:
    return None, int(value or b"0")


async def cells_of(connection: Connection) -> AtomicStore:
    return AtomicStore(await connection.js.key_value("B"))


@pytest.fixture
async def cells(connection: Connection) -> AsyncIterator[AtomicStore]:
    config = api.KeyValueConfig(bucket="B", history=1)
    yield AtomicStore(await connection.js.create_key_value(config))


async def test_hundreds_of_changes_at_once_by_several_replicas_are_all_made(
    server: NatsServer, cells: AtomicStore
) -> None:
    other = await connect(client_options(server))
    try:
        replicas = [cells, await cells_of(other)]
        results = await asyncio.gather(*(each.update("k", count) for _ in range(400) for each in replicas))
    finally:
        await other.close()
    assert sorted(results) == list(range(1, 801))
    assert await cells.update("k", look) == 800


async def test_keys_do_not_wait_for_one_another_and_nothing_is_kept_of_them(cells: AtomicStore) -> None:
    results = await asyncio.gather(*(cells.update(f"k.{number % 50}", count) for number in range(200)))
    assert sorted(results) == sorted([1, 2, 3, 4] * 50)
    assert len(await cells.keys_with_prefix("k.")) == 50
    assert await cells.keys_with_prefix("other.") == []
    assert not cells._waiting and not cells._work


async def test_a_change_that_cannot_be_reckoned_fails_alone(cells: AtomicStore) -> None:
    def broken(value: bytes) -> tuple[bytes, int]:
        raise ValueError("x")

    steps = [count, broken, look, count]
    results = await asyncio.gather(*(cells.update("k", step) for step in steps), return_exceptions=True)
    assert [results[0], results[2], results[3]] == [1, 1, 2]
    assert isinstance(results[1], ValueError)


async def test_who_does_not_wait_for_the_end_takes_nothing_from_the_others(cells: AtomicStore) -> None:
    impatient = [asyncio.create_task(cells.update("k", count)) for _ in range(10)]
    patient = [asyncio.create_task(cells.update("k", count)) for _ in range(10)]
    await asyncio.sleep(0)
    for task in impatient:
        task.cancel()
    assert await asyncio.gather(*patient) == list(range(11, 21))


async def test_what_was_deleted_begins_anew(connection: Connection, cells: AtomicStore) -> None:
    await cells.update("k", count)
    await (await connection.js.key_value("B")).delete("k")
    assert await cells.update("k", count) == 1


async def test_without_a_broker_everybody_hears_of_it_and_afterwards_it_works(
    server: NatsServer, cells: AtomicStore
) -> None:
    assert await cells.update("k", count) == 1
    await server.kill()
    ends = await asyncio.gather(*(cells.update("k", count) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(each, BrokerError) for each in ends)
    await server.start()

    async def works() -> bool:
        with contextlib.suppress(BrokerError):
            return await cells.update("k", count) >= 2
        return False

    await until(works, what="a change that is made")


async def test_a_bug_leaves_nobody_waiting(cells: AtomicStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> int:
        await asyncio.sleep(0)
        raise RuntimeError("x")

    monkeypatch.setattr(cells._bucket, "_update", broken)
    async with asyncio.timeout(LIMIT):
        ends = await asyncio.gather(*(cells.update("k", count) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(each, RuntimeError) for each in ends)
    monkeypatch.undo()
    assert await cells.update("k", count) == 1


async def test_who_is_cancelled_in_the_middle_leaves_nobody_waiting(
    cells: AtomicStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = asyncio.Event()

    async def hanging(*_: object, **__: object) -> None:
        writing.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(cells._bucket, "_update", hanging)
    changes = [asyncio.create_task(cells.update("k", count)) for _ in range(3)]
    await writing.wait()
    for work in cells._work:
        work.cancel()
    async with asyncio.timeout(LIMIT):
        ends = await asyncio.gather(*changes, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ends)
