"""The streams: created without loss of messages, and refused where they would do harm."""

from __future__ import annotations

import asyncio
from pathlib import Path

import nats
import pytest
from nats.js import api
from support.processes import NatsServer, client_options

from engine.broker import Connection, Provisioner, Topology, connect
from engine.model.errors import BrokerError, BrokerLost, BrokerUnsupported
from engine.model.messages import Kind


async def test_everything_is_created_once(connection: Connection) -> None:
    topology = Topology()
    await Provisioner(topology, connection).provision()
    await Provisioner(topology, connection).provision()
    await Provisioner(topology, connection).ensure_workers(["email", "sms"])
    await Provisioner(topology, connection).ensure_workers(["email", "sms"])
    names = {info.config.name for info in await connection.js.streams_info()}
    assert names == {
        "MSS_NOTICE", "MSS_AUDIT", "MSS_LOG", "MSS_DELIVERY", "MSS_TIMER", "MSS_DEAD", "MSS_HISTORY", "MSS_EPOCH",
        "KV_MSS_LEDGER", "KV_MSS_STATE", "KV_MSS_PREFERENCES",
    }  # fmt: skip
    notice = (await connection.js.stream_info("MSS_NOTICE")).config
    assert notice.subjects == ["kiam.console.notice.>"]
    assert (notice.retention, notice.max_age) == (api.RetentionPolicy.LIMITS, 7 * 86400)
    log = (await connection.js.stream_info("MSS_LOG")).config
    assert log.subjects == ["kiam.console.log", "kiam.console.log.>"]
    workers = await connection.js.consumers_info("MSS_DELIVERY")
    assert sorted(w.config.filter_subject for w in workers) == ["mss.delivery.*.email", "mss.delivery.*.sms"]


async def test_a_replica_that_starts_at_the_same_time_as_a_faster_one_finds_its_streams(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await Provisioner(Topology(), connection).provision()
    stream_info, asked = connection.js.stream_info, set[str]()

    async def a_moment_ago(name: str) -> api.StreamInfo:
        if name not in asked:
            asked.add(name)
            raise nats.js.errors.NotFoundError
        return await stream_info(name)

    monkeypatch.setattr(connection.js, "stream_info", a_moment_ago)
    await Provisioner(Topology(), connection).provision()
    assert {"MSS_NOTICE", "MSS_AUDIT", "MSS_LOG", "MSS_DELIVERY"} <= asked
    assert (await stream_info("MSS_NOTICE")).config.subjects == ["kiam.console.notice.>"]


async def test_an_event_that_is_stored_before_the_consumer_exists_is_delivered(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_consumer = connection.js.add_consumer

    async def publish_first(stream: str, config: api.ConsumerConfig) -> api.ConsumerInfo:
        if stream == "MSS_NOTICE":
            await connection.js.publish("kiam.console.notice.x", b"event")
        return await add_consumer(stream, config)

    monkeypatch.setattr(connection.js, "add_consumer", publish_first)
    await Provisioner(Topology(), connection).provision()
    assert (await connection.js.consumer_info("MSS_NOTICE", "mss-planner")).num_pending == 1


async def test_the_time_at_which_a_consumer_was_created_is_known(connection: Connection) -> None:
    first, second = Provisioner(Topology(), connection), Provisioner(Topology(), connection)
    await first.provision()
    await second.provision()
    assert second.planner_created == first.planner_created
    await connection.js.delete_consumer("MSS_NOTICE", "mss-planner")
    await second.ensure_kind(Kind.NOTICE)
    assert second.planner_created[Kind.NOTICE] > first.planner_created[Kind.NOTICE]


async def test_a_disabled_kind_has_no_stream(connection: Connection) -> None:
    await Provisioner(Topology(kinds=(Kind.NOTICE,)), connection).provision()
    names = {info.config.name for info in await connection.js.streams_info()}
    assert "MSS_NOTICE" in names and not names & {"MSS_AUDIT", "MSS_LOG"}


async def test_two_installations_can_share_one_broker(connection: Connection) -> None:
    await Provisioner(Topology(), connection).provision()
    await Provisioner(Topology(prefix="other.app", namespace="mss2", streams="MSS2"), connection).provision()
    with pytest.raises(BrokerUnsupported, match="stream_prefix"):
        await Provisioner(Topology(prefix="third.app"), connection).provision()
    with pytest.raises(BrokerUnsupported, match="another stream"):
        await Provisioner(Topology(namespace="mss3", streams="MSS3"), connection).provision()


@pytest.mark.parametrize(
    "subjects", [["kiam.console.>"], ["kiam.console.action.iplocation"], ["kiam.*.action.*"]]
)
async def test_a_stream_over_the_actions_is_refused(connection: Connection, subjects: list[str]) -> None:
    await connection.js.add_stream(name="BAD", subjects=subjects)
    with pytest.raises(BrokerUnsupported, match="stream BAD captures"):
        await Provisioner(Topology(), connection).provision()


async def test_a_stream_with_another_retention_is_refused(connection: Connection) -> None:
    await connection.js.add_stream(name="MSS_DELIVERY", subjects=["mss.delivery.*.*"])
    with pytest.raises(BrokerUnsupported, match="MSS_DELIVERY has retention"):
        await Provisioner(Topology(), connection).provision()


async def test_a_missing_permission_is_an_error_at_the_start(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    server = NatsServer(
        tmp_path_factory.mktemp("nats"),
        """authorization { users: [{user: a, password: b, permissions: {publish: {deny: ["$JS.API.STREAM.CREATE.>"]}}}] }""",
    )
    await server.start()
    try:
        connection = await connect({**client_options(server), "user": "a", "password": "b"})
        with pytest.raises(BrokerUnsupported, match="permissions are too narrow"):
            await Provisioner(Topology(), connection).provision()
        await connection.close()
    finally:
        await server.kill()


async def test_a_confirmed_publish_fails_if_it_is_not_permitted(tmp_path: Path) -> None:
    server = NatsServer(
        tmp_path / "nats",
        'authorization { users: [{user: a, password: b, permissions: {publish: {deny: ["siem.>"]}}}] }',
    )
    await server.start()
    connection = await connect({**client_options(server), "user": "a", "password": "b"})
    await connection.publish_confirmed("elsewhere", b"event", {}, limit=5.0)
    with pytest.raises(BrokerError, match=r"does not permit siem\.Events"):
        await connection.publish_confirmed("siem.Events", b"event", {}, limit=5.0)
    await connection.close()
    await server.kill()


async def test_a_closed_client_is_a_lost_connection(connection: Connection) -> None:
    await connection.client.close()  # as nats-py does by itself, for example on an expired token
    assert connection.lost.is_set()
    with pytest.raises(BrokerLost):
        await connection.publish("x", b"")


async def test_connect_waits_for_a_broker_that_is_not_up_yet(
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
        with pytest.raises(BrokerUnsupported, match="JetStream"):
            await Provisioner(Topology(), connection).provision()
        await connection.close()
    finally:
        await server.kill()
