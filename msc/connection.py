"""A connection that reconnects, with a bounded outbox for the time without a broker.

Messages that are published during an outage wait in the outbox. They get their time when they are sent. A
message on the wire is lost if the broker fails, as with any NATS client that does not ask for confirmation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import nats.errors
from nats.aio.msg import Msg

from .errors import (
    BufferFull,
    ConnectError,
    MessageTooLarge,
    NoResponders,
    NotConnected,
    PermissionDenied,
    RequestTimeout,
)
from .messages import ClientMessage, clock
from .nats_client import Listener, NatsClient, NatsErrors, error_text, open_client
from .options import ConnectOptions

log = logging.getLogger(__name__)

_BATCH = 256 * 1024  # bytes of the outbox between two flushes
_COMMAND = 128  # bytes that the NATS protocol adds to a message, at most
_REBUILD_WAIT = 2.0  # seconds between two attempts to replace a closed client


class ReconnectingConnection:
    """A connection that reconnects, for one event loop."""

    def __init__(self, options: ConnectOptions, *, connect_timeout: float, buffer: int) -> None:
        self._options = options
        self._limit = connect_timeout  # seconds
        self._outbox = Outbox(buffer)
        self._emptied = asyncio.Event()  # the outbox is empty
        self._emptied.set()
        self._up = asyncio.Event()  # connected; cleared by the first call that notices an outage
        self._work = asyncio.Event()  # for `_maintain`
        self._client: NatsClient | None = None
        self._maintenance: asyncio.Task[None] | None = None
        self._closed = False
        self._errors = NatsErrors()

    async def open(self) -> None:
        """Connect. Raises ConnectError."""
        if self._closed or self._client is not None:
            raise NotConnected("the client is closed" if self._closed else "the client is open already")
        self._client = await self._connect()
        self._up.set()
        self._maintenance = asyncio.create_task(self._maintain(), name="msc-maintenance")

    async def publish(self, message: ClientMessage, *, timeout: float) -> None:
        """Send ``message``, or put it into the outbox during an outage.

        Waits up to ``timeout`` seconds for a slow broker. Raises BufferFull, NotConnected, MessageTooLarge or
        PermissionDenied; the message was not accepted then.
        """
        deadline = _now() + timeout
        while True:
            client = self._require_open()
            client.require_fits(message)
            if not self._is_up and self._errors.refusal:
                raise NotConnected(f"the broker refuses the login: {self._errors.refusal}")
            must_wait = not self._is_up or bool(self._outbox)
            if must_wait and self._outbox.has_room(message):
                self._outbox.append(message)
                self._emptied.clear()
                self._work.set()
                return
            if not must_wait and self._has_room(client, message):
                await self._send(client, message, deadline)
                return
            if not self._is_up or _now() >= deadline:
                raise BufferFull(
                    f"{len(self._outbox)} messages, {self._outbox.size} of {self._outbox.limit} bytes, "
                    f"already wait for the broker; the one for {message.subject} was not accepted"
                )
            await client.flush(deadline - _now())

    async def request(
        self,
        message: ClientMessage,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
        resend_headers: Mapping[str, str] | None = None,
    ) -> Msg:
        """Send ``message``, and return the first answer within ``timeout`` seconds.

        Waits for the broker during an outage. If the connection drops before the answer, a message with
        ``resend_headers`` is sent again with these headers: its stream must drop a second copy. Raises
        NotConnected if it was not sent, RequestTimeout, NoResponders, MessageTooLarge or PermissionDenied.
        """
        deadline, sent = _now() + timeout, False
        while True:
            try:
                client = await self._wait_until_up(deadline)
            except TimeoutError:
                if sent:
                    raise RequestTimeout(
                        f"the connection was lost and not back within {timeout:g} s"
                    ) from None
                raise NotConnected(
                    f"the broker was away for {timeout:g} s; the message was not sent"
                ) from None
            if self._errors.inbox:
                raise PermissionDenied(self._errors.inbox)
            client.require_fits(message, resend_headers or headers)
            if self._has_room(client, message):
                answer = await request_once(
                    client,
                    self._errors,
                    message,
                    limit=deadline - _now(),
                    headers=headers,
                    resend=resend_headers is not None,
                )
                if answer is not None:
                    return answer
                sent, headers = True, resend_headers
            elif _now() < deadline:
                await client.flush(deadline - _now())
            else:
                raise RequestTimeout(f"the broker did not take the request within {timeout:g} s")

    async def close(self, timeout: float) -> None:
        """Send the messages in the outbox within ``timeout`` seconds, and close.

        Raises NotConnected, with the reqids, if messages could not be sent. Raises PermissionDenied or
        MessageTooLarge for a message that was refused after its call.
        """
        if self._closed or self._client is None or self._maintenance is None:
            self._closed = True
            return
        self._closed = True
        flushed = None  # no attempt
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._emptied.wait()
                    if self._is_up:
                        flushed = False
                        flushed = await self._client.flush()
        finally:
            self._maintenance.cancel()
            await asyncio.gather(self._maintenance, return_exceptions=True)
            await self._client.close()
            self._up.set()  # calls that wait for a connection notice that it is closed
        if self._outbox:
            subjects = ", ".join(sorted({message.subject for message in self._outbox})[:3])
            raise NotConnected(
                f"closed with {len(self._outbox)} messages unsent, {self._outbox.size} bytes, for {subjects}",
                unsent=tuple(message.reqid for message in self._outbox),
            )
        self._errors.raise_unreported()
        if flushed is False:
            raise NotConnected("the broker did not confirm the last messages; they may be lost")

    # Sending

    async def _send(self, client: NatsClient, message: ClientMessage, deadline: float) -> None:
        denied = self._errors.pop_denial(message.subject)
        # This cannot be cancelled halfway: there is room, so nats-py does not wait.
        await client.nats.publish(message.subject, message.body(clock()))
        if denied:
            # Refused before: from now on, each call waits until the broker accepts or refuses it.
            flushed = await client.flush(max(0.0, deadline - _now()))
            new_denial = self._errors.pop_denial(message.subject)
            if new_denial or not flushed:
                raise self._errors.denial(message.subject, new_denial or denied)
        if client.nats.pending_data_size > _BATCH:
            await asyncio.sleep(0)  # nats-py does not yield by itself: let it write

    async def _wait_until_up(self, deadline: float) -> NatsClient:
        while True:
            client = self._require_open()
            if self._is_up:
                return client
            if self._errors.refusal:
                raise NotConnected(f"the broker refuses the login: {self._errors.refusal}")
            async with asyncio.timeout(max(0.0, deadline - _now())):
                await self._up.wait()

    @property
    def _is_up(self) -> bool:
        if self._client is None or not self._client.is_up:
            self._up.clear()
        return self._up.is_set()

    def _require_open(self) -> NatsClient:
        if self._client is None or self._closed:
            raise NotConnected("the client is closed" if self._closed else "the client is not open yet")
        return self._client

    def _has_room(self, client: NatsClient, message: ClientMessage) -> bool:
        """Return whether the message keeps the buffer of nats-py within the limit."""
        pending = client.nats.pending_data_size
        return pending == 0 or pending + message.size + _COMMAND <= self._outbox.limit

    # Keeping the connection

    async def _connect(self) -> NatsClient:
        listener = Listener(
            errored=self._errored,
            disconnected=self._disconnected,
            reconnected=self._reconnected,
            closed=self._client_closed,
        )
        return await open_client(self._options.to_nats(), limit=self._limit, listener=listener)

    async def _maintain(self) -> None:
        """Send the outbox after each reconnect, and replace a client that is closed."""
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                if self._client is not None and self._client.nats.is_closed:
                    await self._rebuild()
                await self._empty_outbox()
            except nats.errors.Error:
                continue  # dropped again: `_reconnected` starts the next attempt
            except Exception:
                log.exception("bug in the client; the messages in the outbox keep waiting")

    async def _rebuild(self) -> None:
        while True:
            try:
                self._client = await self._connect()
            except ConnectError as error:
                log.warning("%s", error)
                await asyncio.sleep(_REBUILD_WAIT)
            else:
                self._reconnected()
                return

    async def _empty_outbox(self) -> None:
        while self._outbox and self._is_up and (client := self._client) is not None:
            batch = self._outbox.peek(_BATCH)
            for message in batch:
                try:
                    client.require_fits(message)
                except MessageTooLarge as error:  # this broker has a lower limit than the last one
                    log.error("not sent: %s", error)  # noqa: TRY400 -- the message says it all
                    self._errors.record_unreported(message.subject, error)
                else:
                    await client.nats.publish(message.subject, message.body(clock()))
            # Dropped only when the broker has them: after another outage they are sent again.
            if await client.flush():
                self._outbox.drop(len(batch))
        if not self._outbox:
            self._emptied.set()

    def _errored(self, reason: str) -> None:
        self._errors.record(reason)
        log.log(logging.WARNING if "permissions violation" in reason else logging.DEBUG, "nats: %s", reason)

    def _disconnected(self) -> None:
        self._up.clear()
        self._errors.disconnected()
        if not self._closed:
            log.warning("nats: the connection is lost")

    def _reconnected(self) -> None:
        self._errors.connected()
        self._up.set()
        self._work.set()
        log.info("nats: connected again")

    def _client_closed(self) -> None:
        self._up.clear()
        self._errors.closed()
        self._work.set()


def _now() -> float:
    return time.monotonic()


async def request_once(
    client: NatsClient,
    errors: NatsErrors,
    message: ClientMessage,
    *,
    limit: float,
    headers: Mapping[str, str] | None,
    resend: bool,
) -> Msg | None:
    """Return the first answer within ``limit`` seconds, or None if the connection dropped with ``resend``.

    Raises NoResponders, RequestTimeout, NotConnected, and PermissionDenied.
    """
    with errors.request(message.subject) as failed:
        requesting = asyncio.create_task(
            client.nats.request(
                message.subject,
                message.body(clock()),
                timeout=limit,
                headers=dict(headers) if headers else None,
            ),
            name="msc-request",
        )
        dropped = asyncio.create_task(client.dropped.wait(), name="msc-dropped")
        watched: set[asyncio.Future[Any]] = {requesting, failed, dropped} if resend else {requesting, failed}
        try:
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if requesting.done():
                return requesting.result()
        except nats.errors.NoRespondersError:
            raise NoResponders(f"nobody serves {message.subject}") from None
        except TimeoutError:
            raise RequestTimeout(f"no answer from {message.subject} within {limit:.3g} s") from None
        except nats.errors.Error as error:
            raise NotConnected(error_text(error)) from error
        finally:
            requesting.cancel()
            dropped.cancel()
            await asyncio.gather(requesting, dropped, return_exceptions=True)
        if failed.done():
            raise failed.result()
    return None


class Outbox:
    """A queue of messages, bounded in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit  # bytes
        self.size = 0  # bytes
        self._messages: deque[ClientMessage] = deque()

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[ClientMessage]:
        return iter(self._messages)

    def has_room(self, message: ClientMessage) -> bool:
        return self.size + message.size <= self.limit

    def append(self, message: ClientMessage) -> None:
        self._messages.append(message)
        self.size += message.size

    def peek(self, size: int) -> list[ClientMessage]:
        """Return the first message, and those after it as long as all have at most ``size`` bytes."""
        batch = list(islice(self._messages, 1))
        total = sum(message.size for message in batch)
        for message in islice(self._messages, 1, None):
            total += message.size
            if total > size:
                break
            batch.append(message)
        return batch

    def drop(self, count: int) -> None:
        """Remove the first ``count`` messages."""
        for _ in range(count):
            self.size -= self._messages.popleft().size
