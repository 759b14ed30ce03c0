"""A task notices its cancellation although a library has swallowed it."""

from __future__ import annotations

import asyncio
import contextlib

from engine.runtime import is_cancelled


async def test_a_swallowed_cancellation_is_noticed() -> None:
    begun, seen = asyncio.Event(), list[bool]()

    async def work() -> None:
        seen.append(is_cancelled())
        begun.set()
        # As wait_for of Python 3.11 does, if the result arrives at the same time.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        seen.append(is_cancelled())

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    await task
    assert seen == [False, True]
