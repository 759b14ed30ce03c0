"""The world outside the engine: a broker and catchers; and engines as separate processes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client
from support.processes import Engine, unfinished

from engine.cli.demo import Caught

StartEngine = Callable[..., Awaitable[Engine]]


@dataclass
class World:
    """A broker, and the messages that arrived at the catchers."""

    address: str  # of the broker
    client: Client
    caught: Caught
    environment: dict[str, str]  # for the references in the example policy

    async def stored(self, stream: str) -> int:
        """Return the number of messages in a stream."""
        return int((await self.client.jetstream().stream_info(stream)).state.messages)

    async def unfinished(self, stream: str) -> int:
        """Return how many messages of a stream still have to be planned, forwarded or delivered."""
        return await unfinished(self.client.jetstream(), stream)

    async def messages(self, stream: str) -> list[Any]:
        """Return all messages of a stream, the oldest first."""
        js = self.client.jetstream()
        state = (await js.stream_info(stream)).state
        if not state.messages:
            return []
        return [await js.get_msg(stream, seq) for seq in range(state.first_seq, state.last_seq + 1)]
