"""Preferences in the bucket, and the cache for the planning of events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.documented_permissions import permissions
from support.policy_builders import policy
from support.processes import NatsServer, client_options
from support.waiting import until

from engine.broker import Bucket, Connection, Provisioner, Topology, connect
from engine.cli import cli
from engine.metrics import Metrics
from engine.model.errors import BrokerError, CacheMiss, InvalidPreferences, NotPermitted
from engine.planning.recipients import Choices
from engine.preferences.cache import PreferenceCache
from engine.preferences.document import MAX_DOCUMENT_BYTES
from engine.preferences.store import PreferenceStore

Document = dict[str, Any]


class Desk:
    """A store, and a cache that follows it."""

    def __init__(self, connection: Connection, *, most: int = 100, retry_after: float = 2.0) -> None:
        self.metrics = Metrics()
        self.store = PreferenceStore(Bucket(connection, "MSS_PREFERENCES"))
        self.cache = PreferenceCache(self.store, self.metrics, most=most, retry_after=retry_after)

    async def put(self, user: str, document: Mapping[str, Any]) -> int:
        return (await self.store.change(user, lambda _: (document, None)))[1]

    def lookups(self, result: str) -> float:
        return self.metrics.value("mss_preference_lookups_total", result=result)

    def is_cached(self, user: str) -> bool:
        try:
            self.cache.choices_of(user)
        except CacheMiss:
            return False
        return True


@pytest.fixture
async def desk(connection: Connection) -> AsyncIterator[Desk]:
    await Provisioner(Topology(), connection).provision()
    made = Desk(connection)
    following = asyncio.create_task(made.cache.run())
    await made.cache.following.wait()
    yield made
    following.cancel()
    await asyncio.wait((following,))


async def test_a_record_is_written_changed_and_removed(desk: Desk) -> None:
    store = desk.store
    assert (await store.get("u1")).document_of("u1") is None
    await desk.put("u1", {"locale": "de"})
    await desk.put("Ünïcode user@example.com", {"sms": []})

    def add(present: Document) -> tuple[Document, str]:
        return {**present, "security": ["sms"]}, "added"

    assert (await store.change("u1", add))[0] == "added"
    assert (await store.get("u1")).document_of("u1") == {"locale": "de", "security": ["sms"]}
    with pytest.raises(InvalidPreferences, match="somebody else's"):
        (await store.get("u1")).document_of("u2")
    assert len([each async for each in store.records()]) == 2

    await desk.put("u1", {})
    assert (await store.get("u1")).document_of("u1") is None
    assert [each async for each in store.records() if b"u1" in each.data] == []
    info = await store.bucket.connection.js.stream_info(store.bucket.stream, subjects_filter=">")
    assert info.state.subjects is not None and sorted(info.state.subjects.values()) == [1, 1]  # no history

    await desk.put("u1", {"locale": "fr"})
    assert (await store.get("u1")).document_of("u1") == {"locale": "fr"}


async def test_concurrent_changes_are_all_applied(desk: Desk) -> None:
    async def add(number: int) -> None:
        await desk.store.change("u1", lambda present: ({**present, f"c{number}": []}, None))

    await asyncio.gather(*(add(number) for number in range(8)))
    assert len((await desk.store.get("u1")).document_of("u1") or {}) == 8


async def test_a_document_that_is_too_large_is_not_stored(desk: Desk) -> None:
    with pytest.raises(InvalidPreferences, match=f"at most {MAX_DOCUMENT_BYTES}"):
        await desk.put("u1", {"a": ["x" * MAX_DOCUMENT_BYTES]})
    assert (await desk.store.get("u1")).revision == 0


async def test_the_cache_follows_the_bucket(desk: Desk, server: NatsServer) -> None:
    cache = desk.cache
    assert cache.choices_of("u1") is None
    assert desk.lookups("hit") == desk.lookups("miss") == 0  # nobody has any: nothing to look up

    await desk.put("u1", {"security": ["sms"]})
    await until(lambda: not desk.is_cached("u1"), what="the change to be reported")
    expected = Choices(channels={"security": ("sms",)})
    assert await cache.look_up("u1") == expected
    assert cache.choices_of("u1") == expected
    assert await cache.look_up("u2") is None
    assert cache.choices_of("u2") is None  # that there is none is known too
    assert (desk.lookups("hit"), desk.lookups("miss")) == (2, 2)

    other = Desk(await connect(client_options(server)))
    await other.put("u1", {"security": []})
    await until(lambda: not desk.is_cached("u1"), what="the change to be reported")
    assert await cache.with_choices(lambda of: (of("u1"), of("u2"))) == (
        Choices(channels={"security": ()}),
        None,
    )
    assert await cache.change("u2", lambda _: ({"locale": "de"}, "said")) == "said"
    assert not desk.is_cached("u2")  # at once: the user who got the reply sees the change
    await other.store.bucket.connection.close()


async def test_an_invalid_record_counts_as_no_preferences(desk: Desk) -> None:
    await desk.put("u1", {"locale": 7})
    assert await desk.cache.look_up("u1") is None
    await desk.put("u2", {"locale": "de"})
    (record,) = [each.data async for each in desk.store.records() if b"u2" in each.data]
    bucket = await desk.store.bucket.connection.js.key_value(desk.store.bucket.name)
    for key in await bucket.keys():
        await bucket.put(key, record[:-5])
    assert await desk.cache.look_up("u2") is None
    assert desk.lookups("unreadable") == 2


async def test_a_stale_read_is_repeated(desk: Desk) -> None:
    """A value that was read during a change must not be cached."""
    await desk.put("u1", {"locale": "de"})
    old = await desk.store.get("u1")
    await desk.cache.change("u1", lambda _: ({"locale": "fr"}, None))
    answers = [old]

    class Slow(PreferenceStore):
        async def get(self, user: str) -> Any:
            return answers.pop() if answers else await desk.store.get(user)

    desk.cache._store = Slow(desk.store.bucket)
    assert await desk.cache.look_up("u1") == desk.cache.choices_of("u1") == Choices(locale="fr")


async def test_the_cache_has_a_maximum_size(connection: Connection) -> None:
    await Provisioner(Topology(), connection).provision()
    desk = Desk(connection, most=3)
    await desk.put("u0", {"locale": "de"})
    following = asyncio.create_task(desk.cache.run())
    await desk.cache.following.wait()
    for number in range(5):
        await desk.cache.look_up(f"u{number}")
    assert len(desk.cache) == 3
    assert [desk.is_cached(f"u{number}") for number in range(5)] == [False, False, True, True, True]
    following.cancel()
    await asyncio.wait((following,))


async def test_the_cache_is_empty_after_a_reconnect(desk: Desk, server: NatsServer) -> None:
    await desk.put("u1", {"locale": "de"})
    await until(lambda: not desk.is_cached("u1"), what="the change to be reported")
    await desk.cache.look_up("u1")
    assert desk.is_cached("u1")
    connection = desk.store.bucket.connection
    at_once: list[bool] = []
    connection.on_reconnect(lambda: at_once.append(desk.is_cached("u1")))
    await server.kill()
    await server.start()
    await until(lambda: connection.reconnections == 1, what="connected again")
    await until(lambda: desk.cache._is_current, what="followed again")
    assert at_once == [False]
    assert await desk.cache.look_up("u1") == Choices(locale="de")
    assert desk.is_cached("u1")
    await desk.put("u1", {"locale": "fr"})
    await until(lambda: not desk.is_cached("u1"), what="the change to be reported")
    assert await desk.cache.look_up("u1") == Choices(locale="fr")


async def test_operators_show_change_and_move_preferences(
    desk: Desk, server: NatsServer, tmp_path: Path
) -> None:
    rules = "rules: [{id: tips, event: notice.tips, category: tips, to: {email: mailto}, template: t, notify: [email]}]"
    policy(tmp_path / "rules", rules)

    async def mss(*arguments: str, given: str = "", code: int = 0) -> str:
        arguments = ("preferences", *arguments, "--server", server.address)
        result = await asyncio.to_thread(CliRunner().invoke, cli, arguments, given)
        assert result.exit_code == code, result.output
        return result.output

    within = ("--rules", str(tmp_path / "rules"))
    assert json.loads(await mss("get", "u1")) == {}
    assert json.loads(await mss("set", "u1", '{"tips": [], "locale": "de"}', *within))["tips"] == []
    assert json.loads(await mss("set", "u1", "-", given='{"locale": null}')) == {"tips": []}
    await mss("set", "Ü 2", '{"locale": "fr", "gone": ["sms"]}')
    output = await mss("set", "u1", '{"tisp": [], "locale": "??"}', code=1)
    assert "'??' is no language" in output
    assert "did you mean 'tips'?" in await mss("set", "u1", '{"tisp": []}', *within, code=1)
    await mss("set", "u1", '["tips"]', code=2)
    for nobody in ("", " u1"):
        assert "userid: no event has" in await mss("set", nobody, '{"tips": []}', code=1)

    exported = await mss("export")
    assert [json.loads(line)["userid"] for line in exported.splitlines()] == ["u1", "Ü 2"]
    listed = (await mss("list")).splitlines()
    assert [line.split(maxsplit=1) for line in listed][:2] == [
        ["user", "preferences"],
        ["u1", '{"tips": []}'],
    ]
    await mss("set", "u1", "{}", "--replace")
    assert [each["userid"] for each in json.loads(await mss("list", "--format", "json"))] == ["Ü 2"]
    output = await mss("import", "-", *within, given=f"{exported}\nnothing\n", code=1)
    assert "line 2: gone: there is no such category" in output and "line 4: no JSON" in output
    assert output.endswith("1 imported, 2 refused\n")
    assert json.loads(await mss("get", "u1")) == {"tips": []}


async def test_the_documented_permissions_suffice(tmp_path: Path) -> None:
    server = NatsServer(
        tmp_path / "strict",
        f"""authorization {{ users: [{{user: mss, password: mss}},
          {{user: o, password: o, permissions: {permissions("People's preferences")}}},
          {{user: none, password: o, permissions: {{publish: [x], subscribe: ["_INBOX_mss.>"]}}}}]}}""",
    )
    await server.start()
    owner = await connect({**client_options(server), "user": "mss", "password": "mss"})
    await Provisioner(Topology(), owner).provision()
    options = {**client_options(server), "password": "o", "inbox_prefix": b"_INBOX_mss"}
    operator = Desk(await connect({**options, "user": "o"}))
    await operator.put("u1", {"locale": "de"})
    await operator.put("u1", {"locale": "fr"})
    assert (await operator.store.get("u1")).document_of("u1") == {"locale": "fr"}
    (record,) = [each async for each in operator.store.records()]
    assert record.document_of("u1") == {"locale": "fr"}
    stranger = Desk(await connect({**options, "user": "none"}))
    with pytest.raises(NotPermitted):
        await stranger.store.get("u1")
    for desk in (operator, stranger):
        await desk.store.bucket.connection.close()
    await owner.close()
    await server.kill()


async def test_a_missing_bucket_does_not_count_as_no_preferences(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(connection, retry_after=0.05)
    with pytest.raises(BrokerError, match="cannot be read"):
        await desk.store.get("u1")
    with pytest.raises(BrokerError, match="cannot be read"):
        await desk.put("u1", {"locale": "de"})
    waiting = asyncio.create_task(desk.cache.with_choices(lambda choices_of: choices_of("u1")))
    await until(lambda: "so events wait" in caplog.text, what="the warning")
    assert not waiting.done()
    await Provisioner(Topology(), connection).provision()
    await desk.put("u1", {"locale": "de"})
    assert await waiting in (None, Choices(locale="de"))
