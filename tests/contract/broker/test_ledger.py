"""The ledger on a real broker: leases, recorded replies and dead replicas."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.processes import NatsServer, client_options
from support.waiting import LIMIT, until

from engine.actions.ledger import Lease, LeaseHeld, Ledger, RecordedReply, action_key
from engine.broker import Broker, Connection, Provisioner, Topology, connect

KEY = action_key("sendverifyemail", "a" * 32)


def now() -> int:
    return time.time_ns() // 1000


def soon() -> int:
    return now() + 60_000_000


async def ledger(connection: Connection, owner: str, *, quick: bool = True) -> Ledger:
    topology = Topology()
    await Provisioner(topology, connection).provision()
    broker = Broker(connection, topology)
    await broker.publisher.start()
    made = Ledger(
        broker.ledger,
        owner=owner,
        clock=now,
        beat=0.1,
        dead_after=0.4 if quick else 30.0,
    )
    await made.open()
    return made


async def leased(own: Ledger) -> Lease:
    claim = await own.claim(KEY, until=soon(), limit=LIMIT)
    assert isinstance(claim, Lease)
    return claim


async def test_one_of_many_gets_the_lease(connection: Connection) -> None:
    ledgers = [await ledger(connection, f"r{n}") for n in range(3)]
    claims = await asyncio.gather(
        *(own.claim(KEY, until=soon(), limit=LIMIT) for own in ledgers for _ in range(20))
    )
    (lease,) = [claim for claim in claims if isinstance(claim, Lease)]
    taken = [claim for claim in claims if isinstance(claim, LeaseHeld)]
    assert len(taken) == 59 and {claim.revision for claim in taken} == {lease.revision}


async def test_others_wait_for_the_reply_and_get_it_byte_by_byte(connection: Connection) -> None:
    one, two = await ledger(connection, "one", quick=False), await ledger(connection, "two", quick=False)
    lease = await leased(one)
    taken = await two.claim(KEY, until=soon(), limit=LIMIT)
    assert isinstance(taken, LeaseHeld) and taken.owner == "one"
    waiting = asyncio.create_task(two.outcome(taken, limit=LIMIT))
    reply = '{"code":1,"message":"\\u003cb\\u003e 你好","time":1}'.encode()
    assert await one.record(lease, reply) == reply
    assert await waiting == RecordedReply(reply=reply)
    assert await two.claim(KEY, until=soon(), limit=LIMIT) == RecordedReply(reply=reply)


async def test_a_replica_is_alive_while_its_heartbeat_continues(connection: Connection) -> None:
    one, two = await ledger(connection, "one"), await ledger(connection, "two")
    beating = asyncio.create_task(one.run())
    await leased(one)
    taken = await two.claim(KEY, until=soon(), limit=LIMIT)
    assert isinstance(taken, LeaseHeld)
    assert (
        await two.outcome(taken, limit=1.2) is None
    )  # three times as long as until a replica counts as dead
    assert one.is_surely_alive
    beating.cancel()
    found = await two.outcome(taken, limit=LIMIT)
    assert isinstance(found, LeaseHeld) and found.dead
    assert not one.is_surely_alive


async def test_a_closed_replica_and_an_expired_lease_are_dead_at_once(
    connection: Connection,
) -> None:
    one, two = await ledger(connection, "one", quick=False), await ledger(connection, "two", quick=False)
    await leased(one)
    await one.close()
    taken = await two.claim(KEY, until=soon(), limit=LIMIT)
    assert isinstance(taken, LeaseHeld)
    found = await two.outcome(taken, limit=5)
    assert isinstance(found, LeaseHeld) and found.dead
    other = action_key("sendsms", "a" * 32)
    assert isinstance(await two.claim(other, until=now() - 11_000_000, limit=LIMIT), Lease)
    one = await ledger(connection, "one", quick=False)
    taken = await one.claim(other, until=soon(), limit=LIMIT)
    assert isinstance(taken, LeaseHeld)
    found = await one.outcome(taken, limit=5)
    assert isinstance(found, LeaseHeld) and found.dead


async def test_the_recorded_reply_wins_over_that_of_a_replica_taken_for_dead(connection: Connection) -> None:
    one, two = await ledger(connection, "one"), await ledger(connection, "two")
    lease = await leased(one)
    taken = await two.claim(KEY, until=soon(), limit=LIMIT)
    assert isinstance(taken, LeaseHeld)
    unknown = b'{"unknown":true}'
    assert await two.record(Lease(key=KEY, revision=taken.revision), unknown) == unknown
    assert await one.record(lease, b'{"sent":true}') == unknown
    assert await two.claim(KEY, until=soon(), limit=LIMIT) == RecordedReply(reply=unknown)


async def test_one_replica_takes_over_the_lease_of_a_dead_one(connection: Connection) -> None:
    one, two, three = [await ledger(connection, name) for name in ("one", "two", "three")]
    lease = await leased(one)
    taken = await two.claim(KEY, until=soon(), limit=LIMIT)
    assert isinstance(taken, LeaseHeld)
    claims = [await own.claim(KEY, until=soon(), limit=LIMIT, over=taken) for own in (two, three)]
    assert isinstance(claims[0], Lease) and isinstance(claims[1], LeaseHeld) and claims[1].owner == "two"
    assert await two.record(claims[0], b'{"by":"two"}') == b'{"by":"two"}'
    assert await one.record(lease, b'{"by":"one"}') == b'{"by":"two"}'


async def test_a_record_is_sent_before_the_reply_is_published(connection: Connection) -> None:
    one, two = await ledger(connection, "one"), await ledger(connection, "two")
    told = asyncio.Event()

    async def tell() -> None:
        await connection.client.publish("told")
        told.set()

    async def look(_: object) -> None:
        found.append(await two.claim(KEY, until=soon(), limit=LIMIT))

    found: list[object] = []
    await connection.client.subscribe("told", cb=look)
    await one.record(await leased(one), b"{}", tell)
    await until(lambda: found, what="told")
    assert told.is_set() and found == [RecordedReply(reply=b"{}")]


async def test_a_reply_is_recorded_after_the_broker_was_killed(server: NatsServer) -> None:
    connection = await connect(client_options(server))
    one = await ledger(connection, "one")
    lease = await leased(one)
    await server.kill()
    recording = asyncio.create_task(one.record(lease, b'{"sent":true}'))
    with pytest.raises(TimeoutError):
        await one.claim(action_key("x", "y"), until=soon(), limit=0.3)
    await server.start()
    assert await recording == b'{"sent":true}'
    two = await ledger(connection, "two")
    assert await two.claim(KEY, until=soon(), limit=LIMIT) == RecordedReply(reply=b'{"sent":true}')
    await connection.close()


def test_any_request_has_a_valid_key() -> None:
    keys = {
        action_key(action, reqid)
        for action in ("a", "ab", "a.b")
        for reqid in ("", "b", "bc", "a b*>", "\ud800", "好", "x" * 100_000)
    }
    assert len(keys) == 21
    assert all(len(key) == 39 and key.replace(".", "").isalnum() for key in keys)
