"""Key-value buckets: single reads and writes, and values that all replicas change at the same time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.js import api
from support.processes import NatsServer, client_options
from support.waiting import LIMIT, until

from engine.broker import AtomicStore, Bucket, Connection, OwnBucket, Publisher, connect
from engine.broker.kv import RecentValues, Value
from engine.model.errors import BrokerError


def count(value: bytes) -> tuple[bytes, int]:
    number = int(value or b"0") + 1
    return str(number).encode(), number


def look(value: bytes) -> tuple[None, int]:
    return None, int(value or b"0")


@pytest.fixture
async def bucket(connection: Connection) -> AsyncIterator[OwnBucket]:
    await connection.js.create_key_value(api.KeyValueConfig(bucket="B", history=1, direct=True))
    publisher = Publisher(connection)
    async with publisher.running():
        yield OwnBucket(connection, "B", publisher)


@pytest.fixture
def store(bucket: OwnBucket) -> AtomicStore:
    return AtomicStore(bucket)


@pytest.mark.parametrize("is_own", [True, False])
async def test_a_value_is_written_only_at_the_expected_revision(bucket: Bucket, is_own: bool) -> None:
    bucket = bucket if is_own else Bucket(bucket.connection, bucket.name)
    assert await bucket.get("k") == Value()
    first = await bucket.put("k", b"1", last=0)
    assert first and await bucket.get("k") == Value(data=b"1", revision=first)
    assert await bucket.put("k", b"2", last=0) == await bucket.put("k", b"2", last=first + 1) == 0
    second = await bucket.put("k", b"2", last=first)
    assert second > first and await bucket.put("k", b"3") > second
    assert (await bucket.get("k")).data == b"3"


async def test_a_removed_value_has_no_data_and_can_be_written_again(bucket: Bucket) -> None:
    await bucket.put("p.k", b"1")
    await bucket.put("p.l", b"1")
    removed = await bucket.put("p.k", b"")
    assert await bucket.get("p.k") == Value(revision=removed)
    assert await bucket.keys_with_prefix("p.") == ["p.l"]
    assert [each.payload async for each in bucket.present("p.*")] == [b"1"]
    assert await bucket.put("p.k", b"2", last=0) == 0
    assert await bucket.put("p.k", b"2", last=removed) > removed


async def test_a_bucket_that_does_not_exist_is_an_error_and_no_empty_value(connection: Connection) -> None:
    missing = Bucket(connection, "MISSING")
    with pytest.raises(BrokerError, match="MISSING: k cannot be read"):
        await missing.get("k")
    with pytest.raises(BrokerError, match="MISSING: k cannot be written"):
        await missing.put("k", b"1")


async def test_hundreds_of_concurrent_updates_by_several_replicas_are_all_made(
    server: NatsServer, store: AtomicStore
) -> None:
    other = await connect(client_options(server))
    try:
        publisher = Publisher(other)
        async with publisher.running():
            replicas = [store, AtomicStore(OwnBucket(other, "B", publisher))]
            results = await asyncio.gather(
                *(each.update("k", count) for _ in range(400) for each in replicas)
            )
    finally:
        await other.close()
    assert sorted(results) == list(range(1, 801))
    assert await store.update("k", look) == 800


async def test_keys_are_updated_independently_and_no_state_of_them_is_kept(store: AtomicStore) -> None:
    results = await asyncio.gather(*(store.update(f"k.{number % 50}", count) for number in range(200)))
    assert sorted(results) == sorted([1, 2, 3, 4] * 50)
    assert len(await store.bucket.keys_with_prefix("k.")) == 50
    assert await store.bucket.keys_with_prefix("other.") == []
    assert not store._waiting and not store._work


async def test_an_update_function_that_raises_fails_alone(store: AtomicStore) -> None:
    def broken(value: bytes) -> tuple[bytes, int]:
        raise ValueError("x")

    steps = [count, broken, look, count]
    results = await asyncio.gather(*(store.update("k", step) for step in steps), return_exceptions=True)
    assert [results[0], results[2], results[3]] == [1, 1, 2]
    assert isinstance(results[1], ValueError)


async def test_a_cancelled_caller_does_not_affect_the_others(store: AtomicStore) -> None:
    impatient = [asyncio.create_task(store.update("k", count)) for _ in range(10)]
    patient = [asyncio.create_task(store.update("k", count)) for _ in range(10)]
    await asyncio.sleep(0)
    for task in impatient:
        task.cancel()
    assert await asyncio.gather(*patient) == list(range(11, 21))


async def test_a_deleted_value_starts_again(connection: Connection, store: AtomicStore) -> None:
    await store.update("k", count)
    await (await connection.js.key_value("B")).delete("k")
    assert await store.update("k", count) == 1


async def test_every_update_fails_while_the_broker_is_down_and_works_afterwards(
    server: NatsServer, store: AtomicStore
) -> None:
    assert await store.update("k", count) == 1
    await server.kill()
    ends = await asyncio.gather(*(store.update("k", count) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(each, BrokerError) for each in ends)
    await server.start()

    async def works() -> bool:
        with contextlib.suppress(BrokerError):
            return await store.update("k", count) >= 2
        return False

    await until(works, what="a change that is made")


async def test_a_bug_is_raised_for_every_caller(bucket: OwnBucket) -> None:
    bugs = [RuntimeError("x")]

    class Broken(OwnBucket):
        async def put(self, *arguments: Any, **options: Any) -> int:
            await asyncio.sleep(0)
            if bugs:
                raise bugs.pop()
            return await bucket.put(*arguments, **options)

    store = AtomicStore(Broken(bucket.connection, bucket.name, bucket.publisher))
    async with asyncio.timeout(LIMIT):
        ends = await asyncio.gather(*(store.update("k", count) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(each, RuntimeError) for each in ends)
    assert await store.update("k", count) == 1


async def test_a_cancelled_update_cancels_every_caller(bucket: OwnBucket) -> None:
    writing = asyncio.Event()

    class Hanging(OwnBucket):
        async def put(self, *_: Any, **__: Any) -> int:
            writing.set()
            await asyncio.Event().wait()
            return 0

    store = AtomicStore(Hanging(bucket.connection, bucket.name, bucket.publisher))
    changes = [asyncio.create_task(store.update("k", count)) for _ in range(3)]
    await writing.wait()
    for work in store._work:
        work.cancel()
    async with asyncio.timeout(LIMIT):
        ends = await asyncio.gather(*changes, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ends)


class Counting(OwnBucket):
    """A bucket that counts its reads."""

    reads = 0

    async def get(self, key: str) -> Value:
        Counting.reads += 1
        return await super().get(key)


async def test_a_remembered_value_saves_the_read_and_leads_only_to_a_write(
    bucket: OwnBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Counting, "reads", 0)
    one = AtomicStore(Counting(bucket.connection, bucket.name, bucket.publisher))
    two = AtomicStore(bucket)
    assert [await one.update("k", count) for _ in range(3)] == [1, 2, 3]
    assert Counting.reads == 0
    assert await two.update("k", count) == 4
    assert await one.update("k", look) == 4  # a step that writes nothing gets the present value
    assert await two.update("k", count) == 5
    assert await one.update("k", count) == 6  # a refused write is repeated with the present value
    assert Counting.reads == 2


async def test_an_expired_value_is_not_remembered(bucket: OwnBucket) -> None:
    store = AtomicStore(bucket)
    assert await store.update("k", count, ttl=1.0) == 1

    async def is_gone() -> bool:
        return not (await bucket.get("k")).data

    await until(is_gone, what="the end of the value")
    assert await store.update("k", count) == 1


async def test_the_bytes_of_remembered_values_are_bounded(bucket: OwnBucket) -> None:
    store = AtomicStore(bucket, RecentValues(max_bytes=10_000))
    for number in range(20):
        await store.update(f"k.{number}", lambda _: (b"x" * 1000, None))
    assert 5 <= len(store._recent._values) <= 8
    await store.update("large", lambda _: (b"x" * 20_000, None))
    assert not store._recent._values and store._recent._free == 10_000
