"""Wait for a condition, with a limit."""

from __future__ import annotations

import asyncio
from typing import Any

LIMIT = 60.0  # seconds that anything may take; reached only when it is broken


async def until(condition: Any, *, what: str) -> None:
    """Wait until ``condition()`` holds, looking every few milliseconds, with a limit."""
    try:
        async with asyncio.timeout(LIMIT):
            while not (await condition() if asyncio.iscoroutinefunction(condition) else condition()):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"never: {what}") from None
