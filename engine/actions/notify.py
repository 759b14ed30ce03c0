"""Handler: send a message now, and reply with its outcome."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ..channels import Channel
from ..model.errors import ChannelError, Deferred, Refused
from ..model.messages import Delivery, Outcome
from ..planning.requests import (
    NOT_BEGUN,
    ActionRequest,
    ActionResponse,
    SendResult,
    delivery_steps,
    failed,
    send_result,
)
from ..rules.rulebook import ActionSpec
from . import HandlerResources


@dataclass(frozen=True, slots=True, kw_only=True)
class _ActionChannel:
    """A channel that only this action uses: deliveries that wait do not delay a request."""

    channel: Channel
    slots: asyncio.Semaphore  # sends at the same time


class NotifyHandler:
    """A handler that sends one message for each request."""

    def __init__(self, spec: ActionSpec, resources: HandlerResources) -> None:
        self._spec = spec
        self._rulebook = resources.rulebook
        self._channels = {
            each.name: _ActionChannel(
                channel=resources.open_channel(each), slots=asyncio.Semaphore(each.concurrency)
            )
            for each in resources.channels
        }
        self._specs = resources.channels

    async def handle(self, request: ActionRequest, deadline: float) -> ActionResponse:
        steps = delivery_steps(self._rulebook(), self._spec, self._specs, request)
        try:
            delivery = next(steps)
            while True:
                delivery = steps.send(await self._send(delivery, deadline))
        except StopIteration as end:
            response: ActionResponse = end.value
            return response

    async def close(self) -> None:
        await asyncio.gather(*(each.channel.close() for each in self._channels.values()))

    async def _send(self, delivery: Delivery, deadline: float) -> SendResult:
        over = self._channels[delivery.channel]
        begun = False
        try:
            async with asyncio.timeout_at(deadline), over.slots:
                begun = True
                await over.channel.send(delivery)
        except Refused as error:
            return send_result(Outcome.REFUSED, str(error))
        except Deferred as error:
            return send_result(Outcome.DEFERRED, str(error), in_part=bool(error.remaining))
        except ChannelError as error:
            return send_result(Outcome.UNKNOWN, str(error))
        except TimeoutError:
            if begun:
                return send_result(Outcome.UNKNOWN, "the time was up")
            return SendResult(answer=failed(NOT_BEGUN, "every connection was busy"), is_last=True)
        return send_result(Outcome.SENT)


open_handler = NotifyHandler
