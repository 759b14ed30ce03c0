"""An action that is being served, and its requests in hand."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from nats.aio.subscription import Subscription
from prometheus_client import Counter, Histogram

from ..rulebook import ActionSpec, ChannelSpec
from . import Lookup
from .once import Once
from .visibility import Endpoint


@dataclass(slots=True, kw_only=True)
class Served:
    """An action that is being served."""

    spec: ActionSpec
    channels: tuple[ChannelSpec, ...]  # as the handler was opened with
    handler: Lookup | Once  # at once, or once only
    endpoint: Endpoint
    latency: Histogram
    counters: dict[str, Counter] = field(default_factory=dict)  # by code
    subscription: Subscription | None = None
    in_hand: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def room(self) -> int:
        """Requests that may be in hand."""
        return self.spec.concurrency + self.spec.queue

    async def close(self) -> None:
        while self.in_hand:
            await asyncio.wait(list(self.in_hand))
        await (self.handler.handler if isinstance(self.handler, Once) else self.handler).close()
