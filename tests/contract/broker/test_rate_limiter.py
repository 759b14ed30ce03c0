"""The rate limiter: one rate for all replicas together."""

from __future__ import annotations

import asyncio

import pytest

from engine.broker import Broker, Connection, Provisioner, Publisher, Topology
from engine.model.errors import BrokerError
from engine.pipeline.flow_control import DistributedRateLimiter

NOW = 1_800_000_000_000_000


async def test_the_rate_holds_over_all_replicas_and_after_a_restart(connection: Connection) -> None:
    topology = Topology()
    await Provisioner(topology, connection).provision()
    broker = Broker(connection, topology)
    await broker.publisher.start()
    state = broker.state

    def replica() -> DistributedRateLimiter:
        return DistributedRateLimiter(rate=50.0, key="rate.email", state=state, clock=lambda: NOW)

    one, two = replica(), replica()
    waits = await asyncio.gather(*(pace.turn() for pace in (one, two) for _ in range(40)))
    waits += [await replica().turn() for _ in range(5)]  # of others, who come later
    apart = [after - before for before, after in zip(sorted(waits), sorted(waits)[1:], strict=False)]
    assert len(waits) == 85
    assert all(gap >= 0.02 - 1e-6 for gap in apart)
    assert max(waits) < 85 * 0.02 + 1  # and hardly a turn is left unused


async def test_without_its_state_the_rate_limiter_fails(connection: Connection) -> None:
    topology = Topology()
    await Provisioner(topology, connection).provision()
    broker = Broker(connection, topology, publisher=Publisher(connection, give_up_after=0.5))
    pace = DistributedRateLimiter(rate=1.0, key="rate.email", state=broker.state, clock=lambda: NOW)
    await connection.js.delete_stream("KV_MSS_STATE")
    async with broker.publisher.running():
        with pytest.raises(BrokerError, match=r"the rate of rate\.email cannot be kept"):
            await pace.turn()
