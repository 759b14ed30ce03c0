"""Replicas reply to control requests, and settings change in a running session."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import pytest
from click.testing import CliRunner, Result
from support.external_services import World
from support.in_process_server import serving
from support.processes import NatsServer, write_config
from support.waiting import LIMIT, until
from support.wire_messages import envelope, login

from engine.cli import cli
from engine.model.errors import BrokerError
from engine.model.messages import Kind
from engine.server.server import Server

NOTICE = "kiam.console.notice.login.abnormal"
POLICY = """
channels:
  terminal: {type: console}
rules:
  - {id: %s, event: [notice.login.abnormal, audit.>], template: t, notify: [terminal]}
"""


def write_policy(folder: Path, rule: str) -> Path:
    (folder / "templates" / "t").mkdir(parents=True, exist_ok=True)
    (folder / "templates" / "t" / "default.txt").write_text("words")
    (folder / "policy.yaml").write_text(POLICY % rule)
    return folder


async def mss(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, cli, arguments)


@asynccontextmanager
async def three(world: World, folder: Path) -> AsyncIterator[list[Server]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                serving(world.address, {}, rules=write_policy(folder / name, "first"), replica=name)
            )
            for name in ("a", "b", "c")
        ]


async def test_every_replica_replies_for_itself(world: World, tmp_path: Path) -> None:
    config = ["-c", str(write_config(tmp_path, world.address, tmp_path))]
    alone = await mss("reload", *config)
    assert alone.exit_code == 1 and alone.stdout == "" and "no replica replies" in alone.stderr

    async with three(world, tmp_path) as servers:
        before = servers[0].rulebook.revision
        shown = await mss("status", "--expect", "3", *config)
        assert shown.exit_code == 0, shown.output
        assert [line[0] for line in shown.stdout.splitlines() if " revision " in line] == ["a", "b", "c"]
        assert f"a  revision {before} since " in shown.stdout
        header, *table = (line.split() for line in shown.stdout.partition("\n\n")[2].splitlines())
        assert header == ["stream", "or", "channel", "pending", "in", "flight", "error"]
        assert {line[0]: line[1:] for line in table}["notice"] == ["0", "0"]
        assert ["channel", "terminal", "0", "0"] in table

        for name in "abc":
            write_policy(tmp_path / name, "second")
        tried: dict[str, Any] = json.loads(
            (await mss("reload", "--dry-run", "--format", "json", *config)).stdout
        )
        assert tried["ok"] and {each["revision"] for each in tried["replicas"]} == {before}
        assert all(each["reload"]["changed"] for each in tried["replicas"])
        assert {server.rulebook.revision for server in servers} == {before}
        done = await mss("reload", "--expect", "3", *config)
        assert done.exit_code == 0 and done.stdout.count("reloaded") == 3, done.output
        (after,) = {server.rulebook.revision for server in servers}
        assert after != before and after == tried["replicas"][0]["reload"]["revision"]

        for name in "ac":
            write_policy(tmp_path / name, "third")
        (tmp_path / "b" / "policy.yaml").write_text("rules: [}")
        refused = await mss("reload", *config)
        assert refused.exit_code == 1 and "different revisions" in refused.stderr
        lines = {line[0]: line for line in refused.stdout.splitlines() if " revision " in line}
        assert ["refused" in lines[name] for name in "abc"] == [False, True, False]
        assert f"b  revision {after} since" in lines["b"] and "policy.yaml:1:9" in refused.stdout
        document = json.loads((await mss("status", "--format", "json", *config)).stdout)
        assert document["ok"] is False and [each["replica"] for each in document["replicas"]] == [
            "a",
            "b",
            "c",
        ]
        last = document["replicas"][1]["last_reload"]
        assert (last["ok"], last["problems"][0]["line"], last["problems"][0]["column"]) == (False, 1, 9)
        assert {lag["name"] for lag in document["replicas"][0]["streams"]} == {
            "notice",
            "audit",
            "log",
            "digest",
            "due",
        }
        assert document["replicas"][0]["queues"][0] == {
            "name": "terminal", "pending": 0, "in_flight": 0, "error": ""
        }  # fmt: skip

        fewer = await mss("status", "--expect", "4", "--timeout", "1", *config)
        assert fewer.exit_code == 1 and "3 replicas of 4 expected" in fewer.stderr


ACTION = "actions: {hello: {handler: notify, channel: terminal, to: {user: userid}, template: t}}\n"


async def test_live_settings_change_in_a_running_session(world: World, tmp_path: Path) -> None:
    rules = write_policy(tmp_path, "first")
    (rules / "actions.yaml").write_text(ACTION)
    async with serving(world.address, {}, rules=rules, kinds=(Kind.NOTICE,)) as server:

        def planned(kind: str) -> float:
            return server.metrics.value("mss_events_total", kind=kind, result="planned")

        async def announce(kind: str, **more: Any) -> None:
            await world.client.publish(f"kiam.console.{kind}.login.abnormal", envelope(login(1), **more))

        async def change(**settings: Any) -> None:
            await server.apply(server.rulebook, replace(server.settings, **settings))

        async def answer_after(seconds: float) -> str:
            request = envelope(login(1), sent=int((time.time() - seconds) * 1e6))
            reply = await world.client.request("kiam.console.action.hello", request, timeout=LIMIT)
            message: str = json.loads(reply.data)["message"]
            return message

        async def is_left() -> bool:
            info = await world.client.jetstream().consumer_info("MSS_NOTICE", "mss-planner")
            return info.num_waiting == 0

        await change(kinds=(Kind.NOTICE, Kind.AUDIT))
        await announce("audit")
        await until(lambda: planned("audit") == 1, what="audits are taken")
        await change(kinds=(Kind.AUDIT,))
        await until(is_left, what="nobody asks for notices")
        await announce("notice")
        await announce("audit")
        await until(lambda: planned("audit") == 2, what="audits are still taken")
        assert planned("notice") == 0 and await world.unfinished("MSS_NOTICE") == 1
        await change(kinds=(Kind.NOTICE, Kind.AUDIT))
        await until(lambda: planned("notice") == 1, what="what came meanwhile is planned")

        await announce("notice", sent=1)
        await until(
            lambda: server.metrics.value("mss_dead_letters_total", kind="notice", reason="bad-time"),
            what="refused",
        )
        assert await answer_after(8) == "ok"
        await change(clock_tolerance=1e10, action_deadline=7.0)
        await announce("notice", sent=1)
        await until(lambda: planned("notice") == 2, what="the same is taken")
        assert (await answer_after(5), await answer_after(8)) == ("ok", "not carried out: no time left")


LOGINS = """authorization {{ users: [
  {{user: mss, password: {password}, permissions: {{publish: ">", subscribe: ">"}}}}, {{user: app, password: app}}
]}}"""


async def test_a_session_with_another_broker_or_login_must_open_before_it_replaces_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.broker.connection._CONNECT_LIMIT", 6.0)
    first = NatsServer(tmp_path / "one", LOGINS.format(password="old"))
    await first.start()
    app = await nats.connect(first.address, user="app", password="app")
    rules = write_policy(tmp_path / "rules", "first")
    access = {"user": "mss", "password": "old"}
    async with serving(first.address, {}, rules=rules, access=access, shutdown_grace=5.0) as server:

        def planned() -> float:
            return server.metrics.value("mss_events_total", kind="notice", result="planned")

        with pytest.raises(BrokerError, match=r"(?i)authorization violation"):
            await server.apply(
                server.rulebook, replace(server.settings, access={"user": "mss", "password": "wrong"})
            )
        assert server.settings.access == access
        await app.publish(NOTICE, envelope(login(1)))
        await until(lambda: planned() == 1, what="the old session serves")

        # The same broker under another name, with the login of somebody else.
        moved = first.address.replace("127.0.0.1", "localhost")
        old = server.actions
        await server.apply(
            server.rulebook,
            replace(server.settings, servers=(moved,), access={"user": "app", "password": "app"}),
        )
        assert server.settings.servers == (moved,) and server.ready.is_set() and server.actions is not old
        for number in range(20):
            await app.publish(NOTICE, envelope(login(number)))
        await until(lambda: planned() == 21, what="the new session serves")

        async def is_alone() -> bool:
            info = await app.jetstream().consumer_info("MSS_NOTICE", "mss-planner")
            return bool(info.num_waiting == 1)

        await until(is_alone, what="the old session has ended")
    await app.close()
    await first.kill()
