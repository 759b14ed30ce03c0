"""Wait for a condition, with a limit."""

from __future__ import annotations

import asyncio
from typing import Any

LIMIT = 60.0  # seconds; only a failure takes longer


async def until(condition: Any, *, what: str) -> None:
    """Wait until ``condition()`` is true, at most LIMIT. Test it every 20 milliseconds."""
    try:
        async with asyncio.timeout(LIMIT):
            while not (await condition() if asyncio.iscoroutinefunction(condition) else condition()):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"never: {what}") from None
