"""Waiting for a moment, all of those who do at the same time together."""

from __future__ import annotations

import asyncio


class FlushWindow:
    """Lets what several tasks write come together: each write to the broker costs a system call.

    Whoever comes first waits for ``seconds``, those who come meanwhile for what is left of them.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._over: asyncio.Event | None = None

    async def wait(self) -> None:
        """Return when the moment is over, in the same turn of the event loop as the others."""
        if self._over is None:
            self._over = asyncio.Event()
            asyncio.get_running_loop().call_later(self._seconds, self._end, self._over)
        await self._over.wait()

    def _end(self, over: asyncio.Event) -> None:
        self._over = None
        over.set()
