"""A reload with another login: its session replaces the session that the server has by then."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from support.policy_builders import policy
from support.waiting import LIMIT, until

from engine.model.errors import BrokerLost
from engine.rules.rulebook import Rulebook
from engine.server.server import Server
from engine.settings import Settings

RULE = "rules: [{id: r, event: notice.login.abnormal, notify: [terminal], template: t}]\n"
OLD, NEW = {"password": "old"}, {"password": "new"}


class FakeSession:
    """A session without a broker. With the new login, it prepares a reload once ``opens`` is set."""

    started: ClassVar[list[FakeSession]]
    connects: ClassVar[asyncio.Event]  # the new login is accepted
    opens: ClassVar[asyncio.Event]

    def __init__(self, *, settings: Settings, **_: object) -> None:
        self.access = settings.access
        self.ready = asyncio.Event()
        self.lost = asyncio.Event()
        self.ending = asyncio.Event()
        self.in_flight = 0
        self.started.append(self)

    def start(self) -> None:
        self.task = asyncio.create_task(self._serve())

    async def _serve(self) -> Exception:
        if self.access == NEW:
            await self.connects.wait()
        self.ready.set()
        await self.lost.wait()
        return BrokerLost("the connection to NATS is closed")

    async def end(self, _: float) -> Exception | None:
        if self.task.done():
            return self.task.result()
        self.ending.set()
        if self.access == OLD:
            await self.opens.wait()
        await self.cancel()
        return None

    async def cancel(self) -> None:
        self.task.cancel()
        await asyncio.wait((self.task,))

    async def prepare(self, _: Rulebook, __: Settings) -> str:
        if self.access == NEW:
            await self.opens.wait()
        return "prepared"

    async def commit(self, prepared: str, _: Rulebook) -> None:
        assert prepared == "prepared"


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[FakeSession]:
    monkeypatch.setattr("engine.server.server.Session", FakeSession)
    monkeypatch.setattr("engine.server.server._SESSION_WAIT", 0.01)
    FakeSession.started, FakeSession.connects, FakeSession.opens = [], asyncio.Event(), asyncio.Event()
    FakeSession.connects.set()
    return FakeSession.started


async def test_a_reload_with_another_login_ends_a_session_that_started_meanwhile(
    sessions: list[FakeSession], tmp_path: Path
) -> None:
    server = Server(settings=Settings(metrics="", access=OLD), rulebook=policy(tmp_path, RULE).require())
    stop = asyncio.Event()
    async with asyncio.timeout(LIMIT):
        running = asyncio.create_task(server.run(stop))
        await server.ready.wait()
        reload = asyncio.create_task(server.apply(server.rulebook, replace(server.settings, access=NEW)))
        await until(lambda: len(sessions) == 2, what="the second session starts")
        sessions[0].lost.set()  # the password has changed
        await until(lambda: len(sessions) == 3, what="the server tries the old password again")
        FakeSession.opens.set()
        await reload
        await until(sessions[2].task.done, what="the session with the old password ends")
        assert not sessions[1].task.done() and server.ready.is_set()
        stop.set()
        await running
        assert all(session.task.done() for session in sessions)


async def test_a_session_that_a_reload_starts_during_the_stop_ends(
    sessions: list[FakeSession], tmp_path: Path
) -> None:
    server = Server(settings=Settings(metrics="", access=OLD), rulebook=policy(tmp_path, RULE).require())
    stop = asyncio.Event()
    async with asyncio.timeout(LIMIT):
        running = asyncio.create_task(server.run(stop))
        await server.ready.wait()
        reload = asyncio.create_task(server.apply(server.rulebook, replace(server.settings, access=NEW)))
        await until(lambda: len(sessions) == 2, what="the second session starts")
        stop.set()
        await sessions[0].ending.wait()
        FakeSession.opens.set()
        await reload
        await running
        assert [session.task.done() for session in sessions] == [True, True]


@pytest.mark.parametrize("connects", [True, False])
async def test_a_reload_that_is_cancelled_ends_its_session(
    sessions: list[FakeSession], connects: bool, tmp_path: Path
) -> None:
    """The session over which the reload was requested may end, and cancels it."""
    if not connects:
        FakeSession.connects.clear()
    server = Server(settings=Settings(metrics="", access=OLD), rulebook=policy(tmp_path, RULE).require())
    reload = asyncio.create_task(server.apply(server.rulebook, replace(server.settings, access=NEW)))
    async with asyncio.timeout(LIMIT):
        await until(lambda: len(sessions) == 1 and sessions[0].ready.is_set() == connects, what="it starts")
        reload.cancel()
        await asyncio.wait((reload,))
        assert reload.cancelled() and sessions[0].task.done()
        assert server.settings.access == OLD
