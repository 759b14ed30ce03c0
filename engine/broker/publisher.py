"""Publish to streams: many messages in flight, each known to be stored.

``js.publish`` makes one request at a time, and ``publish_async`` of nats-py never resolves when the server
replies with an error. Here one inbox receives all acknowledgements. A message that is not acknowledged in
time is sent again with the same message id, and the stream drops the copy.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import nats.errors
from msgspec import Struct
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from msc.wire import RESENT_HEADER

from ..model.errors import BrokerError, NotStored
from .connection import Connection

log = logging.getLogger(__name__)

_RESEND_AFTER = 3.0  # seconds without an acknowledgement
_GIVE_UP_AFTER = 30.0  # seconds; then the caller gets NotStored
_NO_RESPONDERS = "503"
_WRONG_LAST_SEQUENCE = (10071, 10164)
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class OutgoingMessage(Struct, frozen=True, kw_only=True, gc=False):
    """One message for a stream, which drops a second one with the same ``id`` within its window.

    Without an ``id`` it drops none.

    A Struct, because each event makes several: a frozen dataclass takes twenty times as long.
    """

    subject: str
    payload: bytes
    id: str
    headers: Mapping[str, str] = {}


OnStored = Callable[[BrokerError | None], Awaitable[None]]


class _MessageGroup(Struct):
    """Messages that are stored together: ``then`` is called after the last one, or the first failure."""

    waiting: int
    then: OnStored
    is_known: bool = False  # a stream has one of them already

    async def stored(self, *, is_known: bool) -> None:
        self.waiting -= 1
        self.is_known = self.is_known or is_known
        if self.waiting == 0:
            await self.then(None)

    async def acknowledged(self, message: OutgoingMessage, data: bytes) -> None:
        if b'"error"' in data:
            await self.failed(_refusal(message, _answer(data)))
        else:
            await self.stored(is_known=b'"duplicate"' in data)

    async def failed(self, error: BrokerError) -> None:
        if self.waiting > 0:
            self.waiting = 0
            await self.then(error)


class _Write(Struct):
    """One message whose sequence the caller waits for."""

    sequence: asyncio.Future[int]

    async def acknowledged(self, message: OutgoingMessage, data: bytes) -> None:
        answer = _answer(data)
        if "error" not in answer:
            self._resolve(int(answer["seq"]))
        elif answer["error"].get("err_code") in _WRONG_LAST_SEQUENCE:
            self._resolve(0)
        else:
            await self.failed(_refusal(message, answer))

    async def failed(self, error: BrokerError) -> None:
        if not self.sequence.done():
            self.sequence.set_exception(error)

    def _resolve(self, sequence: int) -> None:
        if not self.sequence.done():
            self.sequence.set_result(sequence)


class _InFlight(Struct):
    message: OutgoingMessage
    group: _MessageGroup | _Write
    first_sent: float  # monotonic seconds
    last_sent: float


class Publisher:
    """A window of unacknowledged publishes over one connection."""

    def __init__(
        self, connection: Connection, *, window: int = 4096, give_up_after: float = _GIVE_UP_AFTER
    ) -> None:
        self._connection = connection
        self._window = window
        self._give_up_after = give_up_after  # seconds
        self._room = asyncio.Event()  # set when a part of the window is free
        self._flights: dict[str, _InFlight] = {}
        self._tokens = itertools.count()
        self._inbox = connection.client.new_inbox()
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        self._subscription = await self._connection.client.subscribe(
            f"{self._inbox}.*", cb=self._acknowledged, pending_msgs_limit=-1, pending_bytes_limit=-1
        )

    async def store(self, *messages: OutgoingMessage) -> None:
        """Publish ``messages`` and return when all are stored.

        Waits while the window is full. Raises BrokerError if one is not stored. Others may be stored then;
        it is safe to store all of them again.
        """
        await self._store(messages)

    async def store_if_new(self, message: OutgoingMessage) -> bool:
        """Publish ``message``. Return False if the stream has a message with its id. Raises BrokerError.

        That may be this message itself, if the acknowledgement of its first copy was lost.
        """
        return not (await self._store((message,))).is_known

    async def _store(self, messages: Sequence[OutgoingMessage]) -> _MessageGroup:
        result: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def then(error: BrokerError | None) -> None:
            if not result.done():
                if error is None:
                    result.set_result(None)
                else:
                    result.set_exception(error)

        group = _MessageGroup(len(messages), then)
        await self._send_all(messages, group)
        await result
        return group

    async def send(self, messages: Sequence[OutgoingMessage], then: OnStored) -> None:
        """Publish ``messages`` and return; ``then`` is awaited when all are stored.

        It gets the error if one is not stored, and must not raise. The reader of the acknowledgements
        awaits it, and reads no others in between. Waits while the window is full.
        """
        await self._send_all(messages, _MessageGroup(len(messages), then))

    async def write(
        self, subject: str, payload: bytes, headers: Mapping[str, str] = NO_HEADERS
    ) -> asyncio.Future[int]:
        """Send one message, and return the future of its sequence in the stream.

        The sequence is 0 if the stream is not at the sequence that the headers expect: a copy that was sent
        again may find the first one there. The future raises BrokerError if the message is not stored.
        """
        result: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        message = OutgoingMessage(subject=subject, payload=payload, id="", headers=headers)
        token, flight = self._begin(message, _Write(result))
        while not (await self._send(token, flight) or result.done()):
            await asyncio.wait((result,), timeout=_RESEND_AFTER)  # the broker is away, and the buffer is full
        return result

    async def _send_all(self, messages: Sequence[OutgoingMessage], group: _MessageGroup) -> None:
        if not messages:
            await group.then(None)
        for message in messages:
            while len(self._flights) >= self._window:
                self._room.clear()
                await self._room.wait()
            if group.waiting <= 0:  # one of them failed in between
                return
            await self._send(*self._begin(message, group))

    def _begin(self, message: OutgoingMessage, group: _MessageGroup | _Write) -> tuple[str, _InFlight]:
        now, token = time.monotonic(), str(next(self._tokens))
        self._flights[token] = flight = _InFlight(message, group, now, now)
        return token, flight

    async def run(self) -> None:
        """Send unacknowledged messages again, until cancelled."""
        while True:
            await asyncio.sleep(_RESEND_AFTER / 6)
            now = time.monotonic()
            for token, flight in list(self._flights.items()):
                if now - flight.first_sent > self._give_up_after:
                    await self._fail(token, NotStored(f"no stream acknowledged {flight.message.subject}"))
                elif now - flight.last_sent > _RESEND_AFTER and token in self._flights:
                    flight.last_sent = now
                    await self._send(token, flight)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the publisher, resend unacknowledged messages, and close it at the end."""
        await self.start()
        resending = asyncio.create_task(self.run(), name="publisher")
        try:
            yield
        finally:
            resending.cancel()
            await self.close()

    async def close(self) -> None:
        """Receive no more acknowledgements; every message in flight fails."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None and not self._connection.client.is_closed:
            await subscription.unsubscribe()
        for token in list(self._flights):
            await self._fail(token, NotStored("the publisher was closed"))

    async def _send(self, token: str, flight: _InFlight) -> bool:
        """Publish one message; return False if the client has no room for it. ``run`` sends it again then."""
        message = flight.message
        headers = {**message.headers, "Nats-Msg-Id": message.id} if message.id else dict(message.headers)
        if flight.last_sent > flight.first_sent:
            headers[RESENT_HEADER] = "1"
        try:
            await self._connection.publish(
                message.subject, message.payload, reply=f"{self._inbox}.{token}", headers=headers
            )
        except nats.errors.OutboundBufferLimitError:
            return False
        except BrokerError as error:
            await self._fail(token, error)
        return True

    async def _acknowledged(self, msg: Msg) -> None:
        token = msg.subject.rpartition(".")[2]
        flight = self._flights.get(token)
        if flight is None:
            return  # the reply to a copy
        if msg.headers and msg.headers.get("Status") == _NO_RESPONDERS:
            return  # no stream now, perhaps an election: run() sends it again until the limit
        self._land(token)
        await flight.group.acknowledged(flight.message, msg.data)

    def _land(self, token: str) -> _InFlight | None:
        flight = self._flights.pop(token, None)
        # All waiting senders wake up at once, and not for each free place.
        if len(self._flights) <= self._window * 3 // 4:
            self._room.set()
        return flight

    async def _fail(self, token: str, error: BrokerError) -> None:
        if flight := self._land(token):
            await flight.group.failed(error)


class PendingAck(Struct, frozen=True, kw_only=True):
    """The messages to store before a message is acknowledged."""

    messages: Sequence[OutgoingMessage] = ()
    settled: Callable[[], None] | None = None  # called once the message is acknowledged


def _answer(data: bytes) -> dict[str, Any]:
    """Return an acknowledgement as a mapping, with ``error`` if it is not one."""
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    is_mapping = isinstance(answer, dict)
    if is_mapping and (isinstance(answer.get("error"), dict) or isinstance(answer.get("seq"), int)):
        return dict(answer)
    return {"error": {"description": "the acknowledgement cannot be read", "err_code": 0}}


def _refusal(message: OutgoingMessage, answer: dict[str, Any]) -> NotStored:
    error = answer["error"]
    return NotStored(f"{message.subject}: {error.get('description')} ({error.get('err_code')})")
