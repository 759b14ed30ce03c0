"""Threads take short turns while a worker thread runs, and turns of the usual length afterwards."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from weakref import ref

import pytest

from engine.runtime import run_in_thread


async def test_turns_are_short_until_the_last_worker_ends() -> None:
    usual = sys.getswitchinterval()
    go = {1: threading.Event(), 2: threading.Event()}

    def work(number: int) -> float:
        go[number].wait()
        return sys.getswitchinterval()

    tasks = {number: asyncio.create_task(run_in_thread(work, number)) for number in go}
    while sys.getswitchinterval() == usual:
        await asyncio.sleep(0.001)
    go[1].set()
    assert await tasks[1] < usual / 5
    assert sys.getswitchinterval() < usual / 5
    go[2].set()
    assert await tasks[2] < usual / 5
    assert sys.getswitchinterval() == usual


async def test_a_failed_or_cancelled_call_restores_the_usual_turns() -> None:
    usual, go = sys.getswitchinterval(), threading.Event()
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(divmod, 1, 0)
    assert sys.getswitchinterval() == usual
    task = asyncio.create_task(run_in_thread(go.wait))
    while sys.getswitchinterval() == usual:
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.wait((task,))
    assert sys.getswitchinterval() < usual / 5  # the thread still runs
    go.set()
    while sys.getswitchinterval() != usual:
        await asyncio.sleep(0.001)


async def test_a_thread_keeps_neither_the_arguments_nor_the_result() -> None:
    kept: list[object] = []

    class LateExecutor(ThreadPoolExecutor):
        """Keeps what a worker thread of a busy machine still refers to when the caller has its result."""

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            future = super().submit(fn, *args, **kwargs)
            kept.append((fn, args, kwargs, future))
            return future

    asyncio.get_running_loop().set_default_executor(LateExecutor(1))
    argument: set[int] = {1}
    result = await run_in_thread(frozenset.union, frozenset({2}), argument)
    assert kept and result == {1, 2}
    watched = [ref(argument), ref(result)]
    del argument, result
    assert [each() for each in watched] == [None, None]
