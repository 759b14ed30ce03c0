"""A policy that was read or replaced is freed in a thread, however the reload ends."""

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

from engine.pipeline.digests import DigestFlusher
from engine.policy.loader import Policy
from engine.rules.rulebook import Rulebook
from engine.runtime import free_gradually, run_in_thread
from engine.server.control import ReloadResult
from engine.server.reload import Reloader
from engine.server.server import Server
from engine.server.session import flush_removed_digests
from engine.settings import Settings

RULE = "rules: [{id: r, event: notice.login.abnormal, notify: [terminal], template: t}]\n"
FAILS = (
    "tests: [{name: n, given: {event: notice.login.abnormal}, expect: {deliveries: [{contains: other}]}}]\n"
)


@pytest.mark.parametrize(
    ("do", "new", "code"),
    [
        (Reloader.dry_run, RULE.replace("id: r", "id: new"), ""),
        (Reloader.reload, RULE, ""),
        (Reloader.reload, RULE + FAILS, "policy-test-failed"),
        (Reloader.reload, RULE.replace("id: r", "id: new"), "reload-failed"),
    ],
    ids=["dry-run", "unchanged", "test-failed", "reload-failed"],
)
async def test_a_policy_is_freed_in_a_thread(
    do: Callable[[Reloader], Awaitable[ReloadResult]], new: str, code: str, tmp_path: Path
) -> None:
    threads: list[threading.Thread] = []
    counted: list[float] = []  # reloads that the metrics show at that moment
    indexes = []

    def freed(_: object) -> None:
        threads.append(threading.current_thread())
        counted.extend(
            server.metrics.value("mss_policy_reloads_total", result=end) for end in ("ok", "refused")
        )

    def load(_: Settings) -> Policy:
        found = policy(tmp_path, new)
        index = found.require().index
        indexes.append(ref(index, freed))
        return found

    settings = Settings(metrics="")
    server = Server(settings=settings, rulebook=policy(tmp_path, RULE).require())
    gc.disable()
    try:
        result = await do(Reloader(server=server, settings=lambda: settings, load=load))
    finally:
        gc.enable()
    assert [problem.code for problem in result.problems] == ([code] if code else [])
    assert len(indexes) == 1
    assert [thread is threading.main_thread() for thread in threads] == [False]
    assert sum(counted) == (do is Reloader.reload)  # the result is public before


async def test_a_policy_whose_digests_were_still_sent_is_freed_in_a_thread(tmp_path: Path) -> None:
    threads: list[threading.Thread] = []
    sent = asyncio.Event()

    async def flush(replaced: Rulebook, active: Rulebook) -> None:
        await sent.wait()

    books = [policy(tmp_path, RULE).require()]
    index = ref(books[0].index, lambda _: threads.append(threading.current_thread()))
    flusher = cast(DigestFlusher, SimpleNamespace(flush_removed=flush))
    gc.disable()
    try:
        flushing = asyncio.create_task(flush_removed_digests(flusher, books[0], cast(Rulebook, None)))
        await asyncio.sleep(0)
        await run_in_thread(free_gradually, [books.pop()])
        assert index() is not None
        sent.set()
        await flushing
    finally:
        gc.enable()
    assert [thread is threading.main_thread() for thread in threads] == [False]
