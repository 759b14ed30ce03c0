"""A stream reader that the broker does not answer: a server tries again every few seconds."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import nats.errors
import pytest

from engine.broker import Connection
from engine.broker.reader import StreamReader
from engine.model.errors import BrokerError


class FakeClient:
    """A NATS client whose requests fail with ``error``."""

    is_closed = False

    def __init__(self, error: BaseException) -> None:
        self.subscribed = 0
        self._error = error

    def new_inbox(self) -> str:
        return "inbox"

    async def subscribe(self, _: str, **__: Any) -> FakeClient:
        self.subscribed += 1
        return self

    async def unsubscribe(self) -> None:
        self.subscribed -= 1

    async def request(self, *_: Any, **__: Any) -> None:
        raise self._error


@pytest.mark.parametrize("error", [nats.errors.TimeoutError(), asyncio.CancelledError()])
async def test_a_reader_that_cannot_start_leaves_no_subscription(error: BaseException) -> None:
    client = FakeClient(error)
    connection = SimpleNamespace(client=client, violations=[], require_open=lambda: None)
    with pytest.raises((BrokerError, asyncio.CancelledError)):
        await StreamReader(cast(Connection, connection), "S", "s.>").__aenter__()
    assert client.subscribed == 0
