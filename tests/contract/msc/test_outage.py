"""The client during outages of the broker, and when the broker refuses it."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import nats.errors
import pytest
from msc_broker import Broker, free_port, listening, plain, until
from nats.aio.client import Client

import msc
from msc import wire


def is_up(client: msc.Client) -> bool:
    return client._connection._is_up


async def lose(broker: Broker, client: msc.Client) -> None:
    """Kill the broker and wait until the client knows."""
    await broker.kill()
    await until(lambda: not is_up(client), "the client notices that the broker is gone")


async def count(other: Client) -> int:
    """How many messages the stream ALL has.

    A stream stores a moment after the broker has read, but in order: one more that is confirmed
    comes after all of them.
    """
    await until(lambda: other.is_connected, "the other client is connected again")
    return (await other.jetstream().publish("kiam.console.notice.last", b"")).seq - 1


async def test_buffered_messages_are_sent_once_in_order_with_the_time_of_sending(broker: Broker) -> None:
    async with plain(broker) as other, msc.connect(broker.url) as client:
        js = other.jetstream()
        await js.add_stream(name="ALL", subjects=["kiam.console.notice.>"])
        await client.notice("k", {"n": 0}, confirm=True)
        before = wire.decode_request((await js.get_msg("ALL", 1)).data).time
        await lose(broker, client)
        for number in range(1, 2000):
            await client.notice("k", {"n": number, "filler": "x" * 300})
        held = wire.decode_request((client._connection._outbox.peek(1)[0]).body(0)).time
        assert held == 0  # it has no time yet
        await broker.start()
        await client.close(timeout=30)
        assert await count(other) == 2000
        requests = [wire.decode_request((await js.get_msg("ALL", seq)).data) for seq in range(1, 2001)]
    assert [request.payload["n"] for request in requests] == list(range(2000))
    assert all(request.time > before for request in requests[1:])


class Forgetful:
    """A broker of our own, whose second connection reads messages and hangs up without a PONG."""

    def __init__(self) -> None:
        self.connections = 0
        self.heard: list[list[bytes]] = []  # bodies, for each connection
        self.hang_up = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.append(bodies := [])
        self.connections += 1
        number = self.connections
        info = {"server_id": "x", "version": "2.12.0", "max_payload": 1 << 20, "headers": True}
        writer.write(b"INFO %b\r\n" % json.dumps(info).encode())
        leaving = asyncio.create_task(self.hang_up.wait())
        if number == 1:
            leaving.add_done_callback(lambda _: writer.close())
        while line := await reader.readline():
            if line.startswith(b"PUB"):
                bodies.append((await reader.readexactly(int(line.split()[-1]) + 2))[:-2])
            elif line.startswith(b"PING"):
                if number == 2 and bodies:
                    break
                writer.write(b"PONG\r\n")
        leaving.cancel()
        writer.close()


async def test_buffered_messages_are_sent_again_after_another_outage() -> None:
    """A message is removed from the buffer only after the broker has answered a flush."""
    broker = Forgetful()
    async with await asyncio.start_server(broker.serve, "127.0.0.1", 0) as server:
        client = await msc.connect(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        broker.hang_up.set()
        await until(lambda: not is_up(client), "the client notices")
        reqids = [await client.notice("k", {"n": number}) for number in range(10)]
        await client.close(timeout=30)
    assert broker.connections == 3
    for bodies in broker.heard[1:]:
        assert [wire.decode_request(body).reqid for body in bodies] == reqids


async def test_a_full_buffer_refuses_new_messages_and_keeps_the_others(broker: Broker) -> None:
    async with plain(broker) as other, msc.connect(broker.url, buffer=5000) as client:
        js = other.jetstream()
        await js.add_stream(name="ALL", subjects=["kiam.console.notice.>"])
        await lose(broker, client)
        taken = []
        with pytest.raises(msc.BufferFull, match="was not accepted") as full:
            for number in range(1000):
                await client.notice("k", {"n": number})
                taken.append(number)
        assert f"{len(taken)} messages" in str(full.value)
        assert 5000 - 300 < client._connection._outbox.size <= 5000
        with pytest.raises(msc.BufferFull):
            await client.notice("k", {"n": -1})
        await broker.start()
        await client.notice("k", {"n": -2}, confirm=True, timeout=30)
        await client.close(timeout=30)
        stored = [(await js.get_msg("ALL", seq)).data for seq in range(1, await count(other) + 1)]
    numbers = [json.loads(data)["payload"]["n"] for data in stored]
    assert sorted(numbers) == sorted([*taken, -2])


async def test_closing_with_unsent_messages_is_an_error(broker: Broker) -> None:
    client = await msc.connect(broker.url)
    await lose(broker, client)
    reqids = [await client.notice("k", {}), await client.audit("k", {})]
    with pytest.raises(msc.NotConnected, match="2 messages unsent") as lost:
        await client.close(timeout=0.05)
    assert lost.value.unsent == tuple(reqids)


async def test_an_error_of_the_block_is_raised_with_a_note(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(msc.Client.close, "__defaults__", (0.05,))
    with pytest.raises(KeyError) as error:
        async with msc.connect(broker.url) as client:
            await lose(broker, client)
            await client.notice("k", {})
            raise KeyError("mine")
    assert "1 messages unsent" in error.value.__notes__[0]


async def test_closing_without_unsent_messages_is_no_error(broker: Broker) -> None:
    async with msc.connect(broker.url) as client:
        await lose(broker, client)


async def test_a_request_waits_for_the_broker(broker: Broker) -> None:
    async with msc.connect(broker.url) as client:
        await lose(broker, client)
        with pytest.raises(msc.NotConnected, match="the message was not sent"):
            await client.request("k", {}, timeout=0.05)
        waiting = asyncio.create_task(client.request("k", {}, timeout=30))
        await broker.start()
        with pytest.raises(msc.NoResponders):
            await waiting


async def test_a_confirmed_message_waits_for_the_broker(broker: Broker) -> None:
    async with plain(broker) as other, msc.connect(broker.url) as client:
        await other.jetstream().add_stream(name="ALL", subjects=["kiam.console.notice.>"])
        await lose(broker, client)
        with pytest.raises(msc.NotConnected):
            await client.notice("k", {}, confirm=True, timeout=0.05)
        waiting = asyncio.create_task(client.notice("k", {}, confirm=True, timeout=30))
        await broker.start()
        assert len(await waiting) == 32


async def test_a_message_whose_confirmation_was_lost_is_sent_again(broker: Broker) -> None:
    """The broker stores the message and fails before it confirms: it is sent again, and stored once."""
    async with plain(broker) as other, msc.connect(broker.url) as client:
        js = other.jetstream()
        await js.add_stream(name="ALL", subjects=["kiam.console.notice.>"])
        broker.signal(signal.SIGSTOP)
        waiting = asyncio.create_task(client.notice("k", {}, confirm=True, timeout=30))
        await until(lambda: bool(client._connection._errors._requests), "the message is sent")
        await lose(broker, client)
        await broker.start()
        await waiting
        assert await count(other) == 1


async def test_a_message_that_is_sent_again_is_marked(broker: Broker) -> None:
    """A broker that was killed may have lost the id. MSS therefore looks for the event in its history."""
    async with plain(broker) as other, msc.connect(broker.url) as client:
        js = other.jetstream()
        await js.add_stream(name="ALL", subjects=["kiam.console.notice.>"])
        await client.notice("k", {"n": 1}, confirm=True)
        broker.signal(signal.SIGSTOP)
        waiting = asyncio.create_task(client.notice("k", {"n": 2}, confirm=True, timeout=30))
        await until(lambda: bool(client._connection._errors._requests), "the message is sent")
        await lose(broker, client)
        await broker.start()
        await waiting
        first, second = [(await js.get_msg("ALL", sequence)).headers for sequence in (1, 2)]
        assert first is not None and "Mss-Possible-Duplicate" not in first
        assert second is not None and second["Mss-Possible-Duplicate"] == "1"


async def test_a_slow_broker_does_not_fill_the_memory(broker: Broker) -> None:
    client = await msc.connect(broker.url, buffer=100_000)
    broker.signal(signal.SIGSTOP)
    with pytest.raises(msc.BufferFull):
        while True:
            await client.notice("k", {"filler": "x" * 10_000}, timeout=0.05)
    nats_client = client._connection._client
    assert nats_client is not None
    assert nats_client.nats.pending_data_size <= 100_000
    broker.signal(signal.SIGCONT)
    # The late answers to our pings must not have killed the connection.
    await client.notice("k", {}, timeout=30)
    assert await nats_client.flush(30)
    await client.close()


async def test_connecting_without_a_broker_fails() -> None:
    with pytest.raises(msc.ConnectError, match=r"refused|Connect call failed"):
        await msc.connect(f"nats://127.0.0.1:{free_port()}", connect_timeout=0.3)


async def test_connecting_to_a_silent_broker_fails() -> None:
    async def ignore(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    writers: list[asyncio.StreamWriter] = []
    async with await asyncio.start_server(ignore, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(msc.ConnectError, match="no answer"):
            await msc.connect(f"nats://127.0.0.1:{port}", connect_timeout=0.3)
        for writer in writers:
            writer.close()


async def test_one_of_several_servers_is_enough(broker: Broker) -> None:
    async with msc.connect(f"127.0.0.1:{free_port()}, {broker.url}") as client:
        await client.notice("k", {})


# A client that nats-py has closed for good

USERS = 'authorization {{ users: [ {{ user: iam, password: "{password}" }} ] }}'


async def test_a_changed_password_is_reported_until_it_is_right_again(start_broker: Any) -> None:
    broker = await start_broker(USERS.format(password="one"))
    async with msc.connect(broker.url, user="iam", password="one") as client:
        broker.write(USERS.format(password="two"))
        broker.signal(signal.SIGHUP)
        await until(lambda: bool(client._connection._errors.refusal), "the broker refuses the new connection")
        with pytest.raises(msc.NotConnected, match=r"(?i)authorization"):
            await client.notice("k", {})
        with pytest.raises(msc.NotConnected, match=r"(?i)authorization"):
            await client.request("k", {})
        broker.write(USERS.format(password="one"))
        broker.signal(signal.SIGHUP)
        await until(lambda: is_up(client), "the client is connected again")
        await client.notice("k", {})


async def test_buffered_messages_survive_a_client_that_nats_py_closes(start_broker: Any) -> None:
    broker = await start_broker(USERS.format(password="one"))
    async with (
        listening(broker, "kiam.console.notice.k", user="iam", password="one"),
        msc.connect(broker.url, user="iam", password="one") as client,
    ):
        nats_client = client._connection._client
        assert nats_client is not None
        await lose(broker, client)
        await client.notice("k", {"n": 1})
        await nats_client.nats.close()  # as nats-py does on "authentication expired"
        await broker.start()
        await until(lambda: is_up(client), "a new connection is made")
        assert client._connection._client is not nats_client
        await client.close(timeout=30)
        assert not client._connection._outbox


async def test_a_wrong_password_is_reported_at_once(start_broker: Any) -> None:
    broker = await start_broker(USERS.format(password="one"))
    with pytest.raises(msc.ConnectError, match=r"(?i)authorization"):
        await msc.connect(broker.url, user="iam", password="two", connect_timeout=30)


# Permissions

NARROW = """
authorization { users: [ { user: iam, password: pw, permissions: {
    publish: { allow: [ALLOWED] }, subscribe: { allow: ["kiam._inbox.>"] } } } ] }
"""


def narrow(*subjects: str) -> str:
    return NARROW.replace("ALLOWED", ", ".join(json.dumps(subject) for subject in subjects))


async def test_a_forbidden_subject_is_reported_at_the_next_call(start_broker: Any) -> None:
    broker = await start_broker(narrow("kiam.console.notice.>"))
    async with msc.connect(broker.url, user="iam", password="pw") as client:
        await client.audit("Secret.Key", {})
        await until(lambda: bool(client._connection._errors._denied), "the violation arrives")
        await client.notice("k", {})  # another subject is not concerned
        for _ in range(2):
            with pytest.raises(msc.PermissionDenied, match=r"(?i)permissions violation"):
                await client.audit("Secret.Key", {})


async def test_a_forbidden_subject_is_reported_at_the_end(start_broker: Any) -> None:
    broker = await start_broker(narrow("kiam.console.notice.>"))
    with pytest.raises(msc.PermissionDenied, match=r"kiam\.console\.audit\.k"):
        async with msc.connect(broker.url, user="iam", password="pw") as client:
            await client.audit("k", {})


async def test_a_forbidden_subject_is_reported_at_once_to_requests(start_broker: Any) -> None:
    broker = await start_broker(narrow("kiam.console.notice.>"))
    async with msc.connect(broker.url, user="iam", password="pw", inbox_prefix="kiam._inbox") as client:
        with pytest.raises(msc.PermissionDenied):
            await client.request("k", {})
        with pytest.raises(msc.PermissionDenied):
            await client.audit("k", {}, confirm=True)


async def test_a_forbidden_inbox_is_reported(start_broker: Any) -> None:
    broker = await start_broker(narrow("kiam.console.>"))
    async with msc.connect(broker.url, user="iam", password="pw") as client:
        for _ in range(2):
            with pytest.raises(msc.PermissionDenied, match=r"(?i)subscription"):
                await client.request("k", {})
        await client.notice("k", {})


async def test_an_error_in_a_callback_does_not_end_the_connection(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with msc.connect(broker.url) as client:
        nats_client = client._connection._client
        assert nats_client is not None

        def broken(*_: Any) -> None:
            raise RuntimeError("a log handler that raises")

        monkeypatch.setattr(client._connection._errors, "record", broken)
        await nats_client._errored(nats.errors.Error("nats: something"))
