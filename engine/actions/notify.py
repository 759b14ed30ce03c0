"""Tells somebody now: sends what ``telling`` hands out, and tells it how that ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from ..channels import Channel
from ..errors import ChannelError, Deferred, Refused
from ..model import Delivery, Outcome, Problem
from ..rulebook import ActionSpec, ChannelSpec
from ..telling import Ending, deliveries, ending
from . import NOT_BEGUN, Answer, Request, Resources, failed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """A channel of this action's own: what waits for deliveries does not hold up a request."""

    spec: ChannelSpec
    channel: Channel
    slots: asyncio.Semaphore  # sends at the same time


class Notify:
    """Sends one message for each request."""

    def __init__(self, spec: ActionSpec, resources: Resources) -> None:
        self._spec = spec
        self._rulebook = resources.rulebook
        channels = resources.rulebook().channels
        self._ways = {
            name: _Way(
                spec=channels[name],
                channel=resources.open_channel(channels[name]),
                slots=asyncio.Semaphore(channels[name].concurrency),
            )
            for name in spec.channels
        }

    async def handle(self, request: Request, deadline: float) -> Answer:
        asked = deliveries(self._rulebook(), self._spec, [way.spec for way in self._ways.values()], request)
        try:
            delivery = next(asked)
            while True:
                ended = await self._send(self._ways[delivery.channel], delivery, deadline)
                delivery = asked.send(ended)
        except StopIteration as end:
            answer: Answer = end.value
            return answer

    async def close(self) -> None:
        await asyncio.gather(*(way.channel.close() for way in self._ways.values()))

    async def _send(self, way: _Way, delivery: Delivery, deadline: float) -> Ending:
        begun = False
        try:
            async with asyncio.timeout_at(deadline), way.slots:
                begun = True
                await way.channel.send(delivery)
        except ChannelError as error:
            return _judged(error)
        except TimeoutError:
            if begun:
                return ending(Outcome.UNKNOWN, "the time was up")
            return Ending(answer=failed(NOT_BEGUN, "every connection was busy"), is_last=True)
        return ending(Outcome.SENT)


def _judged(error: ChannelError) -> Ending:
    if isinstance(error, Refused):
        return ending(Outcome.REFUSED, str(error))
    if isinstance(error, Deferred):
        return ending(Outcome.DEFERRED, str(error), in_part=bool(error.remaining))
    return ending(Outcome.UNKNOWN, str(error))


def open_handler(spec: ActionSpec, resources: Resources) -> Notify:
    return Notify(spec, resources)


def problems(spec: ActionSpec) -> Iterator[Problem]:
    """The compiler knows the channels and templates, and has looked at them."""
    yield from ()
