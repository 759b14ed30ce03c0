"""The streams: made so that nothing is lost, and never where they do harm."""

from __future__ import annotations

import asyncio
from pathlib import Path

import nats
import pytest
from nats.js import api
from support import NatsServer, client_options, until

from engine.broker import Connection, Topology, connect
from engine.errors import BrokerLost, BrokerUnfit
from engine.model import Kind


async def test_everything_is_made_once(connection: Connection) -> None:
    topology = Topology()
    await topology.prepare(connection)
    await topology.prepare(connection)
    await topology.ensure_workers(connection, ["email", "sms"])
    await topology.ensure_workers(connection, ["email", "sms"])
    names = {info.config.name for info in await connection.js.streams_info()}
    assert names == {
        "MSS_NOTICE", "MSS_AUDIT", "MSS_LOG", "MSS_ARCHIVE_NOTICE", "MSS_ARCHIVE_AUDIT", "MSS_ARCHIVE_LOG",
        "MSS_DELIVERY", "MSS_TIMER", "MSS_DEAD", "MSS_HISTORY",
        "KV_MSS_LEDGER", "KV_MSS_STATE", "KV_MSS_PREFERENCES",
    }  # fmt: skip
    notice = (await connection.js.stream_info("MSS_NOTICE")).config
    assert notice.subjects == ["kiam.console.notice.>"]
    assert notice.retention == api.RetentionPolicy.INTEREST
    log = (await connection.js.stream_info("MSS_LOG")).config
    assert log.subjects == ["kiam.console.log", "kiam.console.log.>"]
    workers = await connection.js.consumers_info("MSS_DELIVERY")
    assert sorted(w.config.filter_subject for w in workers) == ["mss.delivery.*.email", "mss.delivery.*.sms"]


async def test_from_the_moment_the_stream_listens_nothing_is_lost(connection: Connection) -> None:
    published = 0

    async def publish() -> None:
        nonlocal published
        while True:
            await connection.client.request(
                "kiam.console.notice.x", b"e", timeout=5
            )  # answered by the stream
            published += 1

    async def announce() -> None:
        while True:
            try:
                await publish()
            except nats.errors.NoRespondersError:
                await asyncio.sleep(0)

    announcing = asyncio.create_task(announce())
    await Topology().prepare(connection)
    await until(lambda: published >= 50, what="fifty events taken")
    announcing.cancel()
    await asyncio.wait((announcing,))
    assert (await connection.js.stream_info("MSS_NOTICE")).state.messages >= published


async def test_a_service_that_is_off_has_no_stream(connection: Connection) -> None:
    await Topology(kinds=(Kind.NOTICE,)).prepare(connection)
    names = {info.config.name for info in await connection.js.streams_info()}
    assert "MSS_NOTICE" in names and not names & {"MSS_AUDIT", "MSS_LOG"}


async def test_two_on_one_broker(connection: Connection) -> None:
    await Topology().prepare(connection)
    await Topology(prefix="other.app", namespace="mss2", streams="MSS2").prepare(connection)
    with pytest.raises(BrokerUnfit, match="stream_prefix"):
        await Topology(prefix="third.app").prepare(connection)
    with pytest.raises(BrokerUnfit, match="another stream"):
        await Topology(namespace="mss3", streams="MSS3").prepare(connection)


@pytest.mark.parametrize(
    "subjects", [["kiam.console.>"], ["kiam.console.action.iplocation"], ["kiam.*.action.*"]]
)
async def test_a_stream_over_the_actions_is_refused(connection: Connection, subjects: list[str]) -> None:
    await connection.js.add_stream(name="BAD", subjects=subjects)
    with pytest.raises(BrokerUnfit, match="stream BAD captures"):
        await Topology().prepare(connection)


async def test_a_stream_with_another_retention_is_refused(connection: Connection) -> None:
    await connection.js.add_stream(name="MSS_DELIVERY", subjects=["mss.delivery.*.*"])
    with pytest.raises(BrokerUnfit, match="MSS_DELIVERY has retention"):
        await Topology().prepare(connection)


async def test_a_missing_permission_is_a_failure_to_start(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = NatsServer(
        tmp_path_factory.mktemp("nats"),
        """authorization { users: [{user: a, password: b, permissions: {publish: {deny: ["$JS.API.STREAM.CREATE.>"]}}}] }""",
    )
    await server.start()
    try:
        connection = await connect({**client_options(server), "user": "a", "password": "b"})
        with pytest.raises(BrokerUnfit, match="permissions are too narrow"):
            await Topology().prepare(connection)
        await connection.close()
    finally:
        await server.kill()


async def test_a_closed_client_is_a_lost_connection(connection: Connection) -> None:
    await connection.client.close()  # as nats-py does by itself, for example on an expired token
    assert connection.lost.is_set()
    with pytest.raises(BrokerLost):
        await connection.publish("x", b"")


async def test_a_broker_that_is_not_there_yet_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.broker.connection._RETRY_WAIT", 0.1)
    server = NatsServer(tmp_path / "nats")
    connecting = asyncio.create_task(connect(client_options(server)))
    await asyncio.sleep(0)
    assert not connecting.done()
    await server.start()
    async with asyncio.timeout(60):
        connection = await connecting
    await connection.close()
    await server.kill()


async def test_a_server_without_jetstream_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = NatsServer(
        tmp_path_factory.mktemp("nats"),
        "accounts { A: { users: [{user: a, password: b}] } }",  # of which JetStream is no part
    )
    await server.start()
    try:
        connection = await connect({**client_options(server), "user": "a", "password": "b"})
        with pytest.raises(BrokerUnfit, match="JetStream"):
            await Topology().prepare(connection)
        await connection.close()
    finally:
        await server.kill()
