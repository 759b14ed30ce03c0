"""Brokers for the tests of the client."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `msc_broker`

from msc_broker import Broker


@pytest.fixture
async def start_broker(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Return a function that starts a broker with settings."""
    brokers: list[Broker] = []

    async def start(settings: str = "", **more: Any) -> Broker:
        broker = Broker(folder=tmp_path / f"nats{len(brokers)}", settings=settings, **more)
        brokers.append(broker)
        await broker.start()
        return broker

    yield start
    for broker in brokers:
        await broker.kill()


@pytest.fixture
async def broker(start_broker: Callable[..., Any]) -> Broker:
    result: Broker = await start_broker()
    return result
