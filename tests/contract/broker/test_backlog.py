"""The age of unplanned events, which a stream removes after a time."""

from __future__ import annotations

import pytest

from engine.broker import Broker, Connection, Provisioner, Topology
from engine.metrics import Metrics
from engine.model.messages import Kind
from engine.runtime import now
from engine.server.health import measure_backlog

AGE = "mss_event_oldest_unplanned_age_seconds"


async def test_an_old_unplanned_event_is_measured_and_warned_of(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    broker, metrics = Broker(connection, Topology(archive_age=1000.0)), Metrics()
    await Provisioner(broker.topology, connection).provision()

    async def age(seconds_later: float) -> float:
        await measure_backlog(broker, [Kind.NOTICE], metrics, now() + int(seconds_later * 1e6))
        return metrics.value(AGE, kind="notice")

    assert await age(900.0) == 0.0
    for _ in range(2):
        await connection.js.publish("kiam.console.notice.x", b"event")
    consumer = await connection.js.pull_subscribe_bind("mss-planner", stream="MSS_NOTICE")
    (first,) = await consumer.fetch(1)
    assert 400.0 < await age(400.0) < 450.0 and not caplog.messages  # delivered, and not acknowledged
    assert 600.0 < await age(600.0) < 650.0
    (warning,) = caplog.messages
    assert "unplanned notice event" in warning and "lost after 1000 s" in warning
    await first.ack_sync()
    assert await age(400.0) > 400.0
    (second,) = await consumer.fetch(1)
    await second.ack_sync()
    assert await age(900.0) == 0.0


async def test_a_missing_stream_leaves_the_other_kinds_measured(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    broker, metrics = Broker(connection, Topology()), Metrics()
    await Provisioner(broker.topology, connection).provision()
    await connection.js.delete_stream("MSS_NOTICE")
    await connection.js.publish("kiam.console.audit.x", b"event")
    await measure_backlog(broker, [Kind.NOTICE, Kind.AUDIT], metrics, now() + 10_000_000)
    assert metrics.value(AGE, kind="audit") >= 10.0
    assert "backlog of notice events not measured" in caplog.text
