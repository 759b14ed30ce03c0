"""Handler: send a message now, and reply with its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from ..channels import Channel
from ..model.errors import ChannelError, Deferred, Refused
from ..model.messages import Delivery, Outcome
from ..model.problems import Problem
from ..planning.requests import SendResult, delivery_steps, send_result
from ..rules.rulebook import ActionSpec, ChannelSpec
from . import NOT_BEGUN, ActionRequest, ActionResponse, HandlerResources, failed


@dataclass(frozen=True, slots=True, kw_only=True)
class _ActionChannel:
    """A channel of this action's own: what waits for deliveries does not hold up a request."""

    spec: ChannelSpec
    channel: Channel
    slots: asyncio.Semaphore  # sends at the same time


class NotifyHandler:
    """Sends one message for each request."""

    def __init__(self, spec: ActionSpec, resources: HandlerResources) -> None:
        self._spec = spec
        self._rulebook = resources.rulebook
        channels = resources.rulebook().channels
        self._ways = {
            name: _ActionChannel(
                spec=channels[name],
                channel=resources.open_channel(channels[name]),
                slots=asyncio.Semaphore(channels[name].concurrency),
            )
            for name in spec.channels
        }

    async def handle(self, request: ActionRequest, deadline: float) -> ActionResponse:
        asked = delivery_steps(
            self._rulebook(), self._spec, [way.spec for way in self._ways.values()], request
        )
        try:
            delivery = next(asked)
            while True:
                ended = await self._send(self._ways[delivery.channel], delivery, deadline)
                delivery = asked.send(ended)
        except StopIteration as end:
            answer: ActionResponse = end.value
            return answer

    async def close(self) -> None:
        await asyncio.gather(*(way.channel.close() for way in self._ways.values()))

    async def _send(self, way: _ActionChannel, delivery: Delivery, deadline: float) -> SendResult:
        begun = False
        try:
            async with asyncio.timeout_at(deadline), way.slots:
                begun = True
                await way.channel.send(delivery)
        except ChannelError as error:
            return _judged(error)
        except TimeoutError:
            if begun:
                return send_result(Outcome.UNKNOWN, "the time was up")
            return SendResult(answer=failed(NOT_BEGUN, "every connection was busy"), is_last=True)
        return send_result(Outcome.SENT)


def _judged(error: ChannelError) -> SendResult:
    if isinstance(error, Refused):
        return send_result(Outcome.REFUSED, str(error))
    if isinstance(error, Deferred):
        return send_result(Outcome.DEFERRED, str(error), in_part=bool(error.remaining))
    return send_result(Outcome.UNKNOWN, str(error))


def open_handler(spec: ActionSpec, resources: HandlerResources) -> NotifyHandler:
    return NotifyHandler(spec, resources)


def problems(spec: ActionSpec) -> Iterator[Problem]:
    """The compiler knows the channels and templates, and has looked at them."""
    yield from ()
