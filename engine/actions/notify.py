"""Tells somebody now, over the first of the action's channels that takes the message.

The next one is tried only after a definite failure: a message that may have gone out ends the action.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from msc.wire import WireError

from ..catalogue import mask
from ..channels import Channel
from ..errors import ChannelError, Deferred, Refused, TemplateError
from ..model import Delivery, Problem
from ..rulebook import ActionSpec, ChannelSpec
from . import NOT_BEGUN, OUTCOME_UNKNOWN, Answer, Request, Resources, failed
from .payloads import read_payload
from .shapes import ANY, SHAPES
from .telling import UnreachableError, tell

_REFUSED = "not delivered: the other side refuses it"
_DEFERRED = "not delivered: try again later"
_IN_PART = "not delivered to everybody"
_NO_WORDS = "not delivered: the message cannot be written"


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
        self._ways = [
            _Way(
                spec=channels[name],
                channel=resources.open_channel(channels[name]),
                slots=asyncio.Semaphore(channels[name].concurrency),
            )
            for name in spec.channels
        ]

    async def handle(self, request: Request, deadline: float) -> Answer:
        try:
            payload = read_payload(request.payload, SHAPES.get(self._spec.key, ANY))
        except WireError as error:
            return failed(str(error))
        rulebook = self._rulebook()
        said: list[str] = []
        answer = failed(NOT_BEGUN)
        for way in self._ways:
            try:
                delivery = tell(rulebook, self._spec, way.spec, request, payload)
            except UnreachableError as error:
                answer = failed(str(error))
                continue
            except TemplateError as error:
                answer = failed(_NO_WORDS)
                said.append(f"{way.spec.name}: {error}")
                continue
            answer, final = await self._send(way, delivery, deadline)
            if answer.detail:
                said.append(mask(f"{way.spec.name}: {answer.detail}", delivery.secrets))
            if final:
                break
        if answer.code == 0:
            return Answer()
        return failed(answer.message, "; ".join(said))

    async def close(self) -> None:
        await asyncio.gather(*(way.channel.close() for way in self._ways))

    async def _send(self, way: _Way, delivery: Delivery, deadline: float) -> tuple[Answer, bool]:
        """How it went, and whether that is the end of it."""
        begun = False
        try:
            async with asyncio.timeout_at(deadline), way.slots:
                begun = True
                await way.channel.send(delivery)
        except ChannelError as error:
            return _judged(error)
        except TimeoutError:
            words = (
                (OUTCOME_UNKNOWN, "the time was up") if begun else (NOT_BEGUN, "every connection was busy")
            )
            return failed(*words), True
        return Answer(), True


def _judged(error: ChannelError) -> tuple[Answer, bool]:
    """What the caller hears of a send that failed, and whether that is the end of it."""
    if isinstance(error, Refused):
        return failed(_REFUSED, str(error)), False
    if isinstance(error, Deferred):
        if error.remaining:  # the others have it: another channel would tell them twice
            return failed(_IN_PART, str(error)), True
        return failed(_DEFERRED, str(error)), False
    return failed(OUTCOME_UNKNOWN, str(error)), True


def open_handler(spec: ActionSpec, resources: Resources) -> Notify:
    return Notify(spec, resources)


def problems(spec: ActionSpec) -> Iterator[Problem]:
    """The compiler knows the channels and templates, and has looked at them."""
    yield from ()
