"""A policy that was read and is not gone by is let go of in a thread, however the reload ends."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from weakref import ref

import pytest
from support.policy_builders import policy

from engine.policy.loader import Policy
from engine.rules.rulebook import Rulebook
from engine.runtime import free_gradually, run_in_thread
from engine.server.control import ReloadResult
from engine.server.reload import Reloader
from engine.server.server import Server
from engine.server.session import Service, Session
from engine.settings import Settings

RULE = "rules: [{id: r, event: notice.login.abnormal, notify: [terminal], template: t}]\n"
FAILS = (
    "tests: [{name: n, given: {event: notice.login.abnormal}, expect: {deliveries: [{contains: other}]}}]\n"
)


@pytest.mark.parametrize(
    ("do", "new", "said"),
    [
        (Reloader.dry_run, RULE.replace("id: r", "id: new"), ""),
        (Reloader.reload, RULE, ""),
        (Reloader.reload, RULE + FAILS, "policy-test-failed"),
        (Reloader.reload, RULE.replace("id: r", "id: new"), "reload-failed"),
    ],
    ids=["rehearsed", "unchanged", "failed", "reload-failed"],
)
async def test_it_is_let_go_of_in_a_thread(
    do: Callable[[Reloader], Awaitable[ReloadResult]], new: str, said: str, tmp_path: Path
) -> None:
    threads: list[threading.Thread] = []
    counted: list[float] = []  # reloads, at that moment
    indexes = []

    def gone(_: object) -> None:
        threads.append(threading.current_thread())
        counted.extend(
            server.metrics.value("mss_policy_reloads_total", result=end) for end in ("ok", "refused")
        )

    def load(_: Settings) -> Policy:
        found = policy(tmp_path, new)
        index = found.require().index
        indexes.append(ref(index, gone))
        return found

    settings = Settings(metrics="")
    server = Server(settings=settings, rulebook=policy(tmp_path, RULE).require())
    gc.disable()
    try:
        result = await do(Reloader(server=server, settings=lambda: settings, load=load))
    finally:
        gc.enable()
    assert [problem.code for problem in result.problems] == ([said] if said else [])
    assert len(indexes) == 1
    assert [thread is threading.main_thread() for thread in threads] == [False]
    assert sum(counted) == (do is Reloader.reload)  # nobody waits for that to hear how it went


async def test_what_was_still_used_to_tell_of_removed_rules_is_let_go_of_in_a_thread(tmp_path: Path) -> None:
    threads: list[threading.Thread] = []
    told = asyncio.Event()

    async def flush(before: Rulebook, after: Rulebook) -> None:
        await told.wait()

    books = [policy(tmp_path, RULE).require()]
    index = ref(books[0].index, lambda _: threads.append(threading.current_thread()))
    session = cast(Session, SimpleNamespace(digest_flusher=SimpleNamespace(flush_removed=flush)))
    gc.disable()
    try:
        flushing = asyncio.create_task(Service._flush(session, books[0], cast(Rulebook, None)))
        await asyncio.sleep(0)
        await run_in_thread(free_gradually, [books.pop()])
        assert index() is not None
        told.set()
        await flushing
    finally:
        gc.enable()
    assert [thread is threading.main_thread() for thread in threads] == [False]
