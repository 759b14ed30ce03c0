"""The server while the broker is killed, closes the client or is not suitable, and with disabled kinds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
from support import in_process_server
from support.external_services import World
from support.processes import NatsServer, client_options
from support.waiting import LIMIT, until
from support.wire_messages import envelope, login

from engine.cli.demo import Caught, sms_catcher, smtp_catcher
from engine.model.errors import BrokerUnsupported
from engine.model.messages import Kind
from engine.server.server import Server

NOTICE = "kiam.console.notice.login.abnormal"


@asynccontextmanager
async def serving(caught: Caught, address: str, **settings: object) -> AsyncIterator[Server]:
    """A server in this process, with the example policy and catchers."""
    async with smtp_catcher(caught) as smtp, sms_catcher(caught) as sms:
        environment = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(smtp), "SMS_GATEWAY": f"127.0.0.1:{sms}"}
        async with in_process_server.serving(address, environment, **settings) as server:
            yield server


async def test_a_killed_broker_loses_nothing(tmp_path: Path) -> None:
    broker, caught = NatsServer(tmp_path / "nats"), Caught()
    await broker.start()
    async with serving(caught, broker.address):
        client = await nats.connect(**client_options(broker))  # type: ignore[arg-type]
        for number in range(200):
            # A request is answered by the stream: what is counted here, the broker has taken.
            await client.request(NOTICE, envelope(login(number)), timeout=LIMIT)
        await until(lambda: len(caught.mails) >= 10, what="the first mails")
        await broker.kill()
        before = len(caught.mails)
        assert before < 200, "killed too late to prove anything"
        await broker.start()
        everybody = {f"u{n}@example.com" for n in range(200)}
        await until(
            lambda: {mail["To"] for _, mail in caught.mails} == everybody and len(caught.texts) >= 200,
            what="every mail and every SMS",
        )
        await client.close()
    await broker.kill()


async def test_a_closed_client_is_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.server.server._SESSION_WAIT", 0.05)
    closed: list[Callable[[], object]] = []
    from engine.server import session as module

    connect = module.connect

    async def watched(options: object, **more: object) -> object:
        connection = await connect(options, **more)  # type: ignore[arg-type]
        closed.append(connection.client.close)
        return connection

    monkeypatch.setattr(module, "connect", watched)
    async with serving(world.caught, world.address) as server:
        await world.client.publish(NOTICE, envelope(login(1)))
        assert await world.caught.wait_for(1, 1)
        await closed[0]()  # type: ignore[misc]
        await until(lambda: len(closed) == 2 and server.ready.is_set(), what="a second session")
        await world.client.publish(NOTICE, envelope(login(2)))
        assert await world.caught.wait_for(2, 2)


async def test_a_disabled_kind_is_left_to_other_programs(world: World) -> None:
    async with serving(world.caught, world.address, kinds=(Kind.NOTICE,)):
        names = {info.config.name for info in await world.client.jetstream().streams_info()}
        assert "MSS_NOTICE" in names and "MSS_AUDIT" not in names
        theirs = await world.client.subscribe("kiam.console.audit.>")
        await world.client.publish(
            "kiam.console.audit.accountaddemail", envelope({"mailto": ["a@example.com"]})
        )
        assert (await theirs.next_msg(timeout=LIMIT)).data
        await world.client.publish(NOTICE, envelope(login(1)))
        assert await world.caught.wait_for(1, 1)
    assert [mail["To"] for _, mail in world.caught.mails] == ["u1@example.com"]


async def test_two_replicas_share_the_work(world: World) -> None:
    async with serving(world.caught, world.address) as one, serving(world.caught, world.address) as two:
        for number in range(100):
            await world.client.publish(NOTICE, envelope(login(number)))
        assert await world.caught.wait_for(100, 100)
        assert len(world.caught.mails) == len(world.caught.texts) == 100
        shares = [
            server.metrics.value("mss_events_total", kind="notice", result="planned") for server in (one, two)
        ]
        assert sum(shares) == 100


async def test_a_stream_over_the_actions_stops_the_start(world: World) -> None:
    await world.client.jetstream().add_stream(name="BAD", subjects=["kiam.console.>"])
    with pytest.raises(BrokerUnsupported, match="stream BAD"):
        async with serving(world.caught, world.address):
            pass


@pytest.mark.parametrize(
    "denied", ['subscribe: {deny: ["_INBOX_mss.>"]}', 'publish: {deny: ["$JS.API.CONSUMER.MSG.NEXT.>"]}']
)
async def test_a_missing_permission_stops_the_start(tmp_path: Path, denied: str) -> None:
    broker = NatsServer(
        tmp_path / "nats",
        f"authorization {{ users: [{{user: a, password: b, permissions: {{ {denied} }} }}] }}",
    )
    await broker.start()
    with pytest.raises(BrokerUnsupported, match="permissions are too narrow"):
        async with serving(Caught(), broker.address, access={"user": "a", "password": "b"}):
            pass
    await broker.kill()
