"""An action that is being served, the subjects it is asked for on, and its requests in hand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from nats.aio.subscription import Subscription
from prometheus_client import Counter, Histogram

from ..rulebook import ActionSpec, ChannelSpec
from . import HANDLERS, Lookup
from .once import IdempotentHandler
from .visibility import Endpoint

QUEUE_GROUP = "mss-actions"


@dataclass(slots=True, kw_only=True)
class ActiveAction:
    """An action that is being served."""

    spec: ActionSpec
    channels: tuple[ChannelSpec, ...]  # as the handler was opened with
    handler: Lookup | IdempotentHandler  # at once, or once only
    latency: Histogram
    counters: dict[str, Counter] = field(default_factory=dict)  # by code
    in_flight: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def capacity(self) -> int:
        """Requests that may be in hand."""
        return self.spec.concurrency + self.spec.queue

    async def close(self) -> None:
        while self.in_flight:
            await asyncio.wait(list(self.in_flight))
        await (self.handler.handler if isinstance(self.handler, IdempotentHandler) else self.handler).close()


@dataclass(slots=True, kw_only=True)
class ActionSubscription:
    """One subject on which an action is asked for."""

    served: ActiveAction  # what carries the requests out; a reload puts another in its place
    endpoint: Endpoint
    subscription: Subscription | None = None

    def person(self, subject: str) -> str | None:
        """Whom a request on ``subject`` is about, as far as the subject says it."""
        return subject.rpartition(".")[2] if self.endpoint.subject.endswith(".*") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingReply:
    """A request's way back to its caller, and into the counters."""

    listening: ActionSubscription
    served: ActiveAction
    reply: str  # the subject
    began: float  # seconds, monotonic


def endpoints(spec: ActionSpec, prefix: str) -> Iterator[Endpoint]:
    """Where ``spec`` is asked for: on its key, and where it may be about one person, one token deeper."""
    subject = f"{prefix}.action.{spec.key}"
    yield Endpoint(name=spec.key, subject=subject, queue_group=QUEUE_GROUP)
    if HANDLERS[spec.handler].personal:
        yield Endpoint(name=f"{spec.key}.person", subject=f"{subject}.*", queue_group=QUEUE_GROUP)
