"""The archive is read in order, and only the kinds that are permitted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.documented_permissions import permissions
from support.processes import NatsServer, client_options
from support.wire_messages import envelope

from engine.broker import Broker, Bucket, OutgoingMessage, Publisher, Topology, connect
from engine.history.archive import Archive
from engine.model.errors import BrokerUnsupported, NotPermitted
from engine.model.messages import Event, Kind
from engine.preferences.store import PreferenceStore


async def filled(connection: object, kind: Kind, count: int) -> None:
    topology = Topology()
    base = f"{topology.prefix}.{kind}"
    await connection.js.add_stream(name=topology.stream(kind), subjects=[base, f"{base}.>"])  # type: ignore[attr-defined]
    publisher = Publisher(connection)  # type: ignore[arg-type]
    messages = [
        OutgoingMessage(
            subject=base if kind is Kind.LOG and number % 2 else f"{base}.a.b",
            payload=envelope({"number": number}), id=f"{kind}.{number}",
            headers={"Mss-Hops": "2"} if number == 7 else {},
        )
        for number in range(count)
    ]  # fmt: skip
    async with publisher.running():
        redriven = {"Mss-Dead-Letter": "1-1", "Mss-Redriven-At": "1", "Mss-Received": "1"}
        again = OutgoingMessage(
            subject=f"{base}.a.b", payload=envelope({"number": 0}), id=f"{kind}.redriven", headers=redriven
        )
        await publisher.store(*messages, again)


async def read(archive: Archive, kinds: list[Kind]) -> list[Event]:
    return [event async for batch in archive.events(kinds, 1) for event in batch]


async def test_each_permitted_event_is_read_once_in_order(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats", f"""authorization {{ users: [
        {{user: all, password: x}},
        {{user: some, password: x, permissions: {permissions("Replaying events")}}}]}}""")  # fmt: skip
    await server.start()
    options = client_options(server)
    everybody = await connect({**options, "user": "all", "password": "x"})
    await filled(everybody, Kind.NOTICE, 1000)
    await filled(everybody, Kind.LOG, 9)
    archive = Archive(broker=Broker(everybody, Topology()), tolerance=60.0)
    events = await read(archive, [Kind.NOTICE, Kind.AUDIT, Kind.LOG])
    assert [event.payload["number"] for event in events[:1000]] == list(range(1000))
    assert [event.key for event in events[1000:]] == ["a.b", ""] * 4 + ["a.b"]
    assert [event.hops for event in events[:10]] == [0] * 7 + [2, 0, 0]
    assert list(archive.missing) == [Kind.AUDIT] and archive.waiting == 0
    with pytest.raises(BrokerUnsupported, match="no stream MSS_AUDIT"):
        await read(Archive(broker=Broker(everybody, Topology()), tolerance=60.0), [Kind.AUDIT])
    limited = await connect({**options, "user": "some", "password": "x", "inbox_prefix": "_INBOX_mss"})
    archive = Archive(broker=Broker(limited, Topology()), tolerance=60.0)
    assert len(await read(archive, [Kind.NOTICE, Kind.LOG])) == 1000 and list(archive.hidden) == [Kind.LOG]
    with pytest.raises(NotPermitted):
        await read(Archive(broker=Broker(limited, Topology()), tolerance=60.0), [Kind.LOG])
    await everybody.js.create_key_value(bucket="MSS_PREFERENCES")
    chosen = PreferenceStore(Bucket(everybody, "MSS_PREFERENCES"))
    await chosen.change("u1", lambda _: ({"locale": "de"}, None))
    assert [record async for record in PreferenceStore(replace(chosen.bucket, connection=limited)).records()]
    await limited.close()
    await everybody.close()
    await server.kill()
