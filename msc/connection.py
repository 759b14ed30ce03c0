"""A connection that reconnects, with a bounded outbox for the time without a broker.

A message that is published meanwhile waits in the outbox, and is timestamped when it is sent. A message
that is on its way when the broker dies is lost, as with any NATS client that does not ask for confirmation.
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
from .nats_client import Listener, NatsClient, NatsErrors, error_text, open_session
from .options import ConnectOptions

log = logging.getLogger(__name__)

_BATCH = 256 * 1024  # bytes sent from the outbox between two round trips
_COMMAND = 128  # bytes of the protocol around a message, at most
_REBUILD_WAIT = 2.0  # seconds between two tries after the client was closed for good


class ReconnectingConnection:
    """A connection that comes back. Use it from one event loop."""

    def __init__(self, options: ConnectOptions, *, connect_timeout: float, buffer: int) -> None:
        self._options = options
        self._limit = connect_timeout  # seconds
        self._outbox = Outbox(buffer)
        self._emptied = asyncio.Event()  # the outbox is empty
        self._emptied.set()
        self._up = asyncio.Event()  # there is a connection; cleared by whoever finds it untrue
        self._work = asyncio.Event()  # for the keeper
        self._session: NatsClient | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False
        self._troubles = NatsErrors()

    async def open(self) -> None:
        """Connect. Raises ConnectError."""
        if self._closed or self._session is not None:
            raise NotConnected("the client is closed" if self._closed else "the client is open already")
        self._session = await self._connect()
        self._up.set()
        self._keeper = asyncio.create_task(self._maintain(), name="msc-keeper")

    async def publish(self, message: ClientMessage, *, timeout: float) -> None:
        """Send ``message``, or hold it back until the broker is there again.

        Waits up to ``timeout`` seconds for a broker that is slow. Raises BufferFull, NotConnected,
        MessageTooLarge, PermissionDenied; the message was then not taken.
        """
        deadline = _now() + timeout
        while True:
            session = self._require_open()
            session.require_fits(message)
            if not self._is_up and self._troubles.refusal:
                raise NotConnected(f"the broker does not let us in: {self._troubles.refusal}")
            waits = not self._is_up or bool(self._outbox)
            if waits and self._outbox.has_room(message):
                self._outbox.append(message)
                self._emptied.clear()
                self._work.set()
                return
            if not waits and self._has_room(session, message):
                await self._send(session, message, deadline)
                return
            if not self._is_up or _now() >= deadline:
                raise BufferFull(
                    f"{len(self._outbox)} messages, {self._outbox.size} bytes of {self._outbox.limit}, wait "
                    f"for the broker already; the one for {message.subject} was not taken"
                )
            await session.flush(deadline - _now())

    async def request(
        self,
        message: ClientMessage,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
        again: Mapping[str, str] | None = None,
    ) -> Msg:
        """Send ``message`` and return the first answer, within ``timeout`` seconds.

        Waits for a broker that is away. With ``again`` it is sent again, with these headers, when
        the connection drops meanwhile; only what is deduplicated bears that. Raises NotConnected
        (not sent), RequestTimeout, NoResponders, MessageTooLarge, PermissionDenied.
        """
        deadline, sent = _now() + timeout, False
        while True:
            try:
                session = await self._wait_until_up(deadline)
            except TimeoutError:
                if sent:
                    raise RequestTimeout(
                        f"the connection was lost and not back within {timeout:g} s"
                    ) from None
                raise NotConnected(f"the broker was away for {timeout:g} s; nothing was sent") from None
            if self._troubles.inbox:
                raise PermissionDenied(self._troubles.inbox)
            session.require_fits(message, again or headers)
            if self._has_room(session, message):
                answer = await request_once(
                    session,
                    self._troubles,
                    message,
                    limit=deadline - _now(),
                    headers=headers,
                    resend=again is not None,
                )
                if answer is not None:
                    return answer
                sent, headers = True, again
            elif _now() < deadline:
                await session.flush(deadline - _now())
            else:
                raise RequestTimeout(f"the broker did not take the request within {timeout:g} s")

    async def close(self, timeout: float) -> None:
        """Send what waits, within ``timeout`` seconds, and close.

        Raises NotConnected, with the reqids, for what could not be sent; PermissionDenied and
        MessageTooLarge for a message that came to grief after its call.
        """
        if self._closed or self._session is None or self._keeper is None:
            self._closed = True
            return
        self._closed = True
        flushed = None  # not tried
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._emptied.wait()
                    if self._is_up:
                        flushed = False
                        flushed = await self._session.flush()
        finally:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            await self._session.close()
            self._up.set()  # whoever waits for a connection finds that there will be none
        if self._outbox:
            subjects = ", ".join(sorted({message.subject for message in self._outbox})[:3])
            raise NotConnected(
                f"closed with {len(self._outbox)} messages unsent, {self._outbox.size} bytes, for {subjects}",
                unsent=tuple(message.reqid for message in self._outbox),
            )
        self._troubles.raise_unreported()
        if flushed is False:
            raise NotConnected("the broker did not say that it has taken the last messages; they may be lost")

    # Sending

    async def _send(self, session: NatsClient, message: ClientMessage, deadline: float) -> None:
        denied = self._troubles.pop_denial(message.subject)
        # Nothing is awaited in here that could be cancelled: there is room, so nats-py does not flush.
        await session.client.publish(message.subject, message.body(clock()))
        if denied:
            # Refused once: from now on each call waits to hear whether it still is.
            heard = await session.flush(max(0.0, deadline - _now()))
            again = self._troubles.pop_denial(message.subject)
            if again or not heard:
                raise self._troubles.denial(message.subject, again or denied)
        if session.client.pending_data_size > _BATCH:
            await asyncio.sleep(0)  # nats-py never yields by itself: let it write

    async def _wait_until_up(self, deadline: float) -> NatsClient:
        while True:
            session = self._require_open()
            if self._is_up:
                return session
            if self._troubles.refusal:
                raise NotConnected(f"the broker does not let us in: {self._troubles.refusal}")
            async with asyncio.timeout(max(0.0, deadline - _now())):
                await self._up.wait()

    @property
    def _is_up(self) -> bool:
        if self._session is None or not self._session.is_up:
            self._up.clear()
        return self._up.is_set()

    def _require_open(self) -> NatsClient:
        if self._session is None or self._closed:
            raise NotConnected("the client is closed" if self._closed else "the client is not open yet")
        return self._session

    def _has_room(self, session: NatsClient, message: ClientMessage) -> bool:
        """Whether nats-py may take the message without holding back more than the bound."""
        pending = session.client.pending_data_size
        return pending == 0 or pending + message.size + _COMMAND <= self._outbox.limit

    # Keeping the connection

    async def _connect(self) -> NatsClient:
        listener = Listener(
            errored=self._errored,
            disconnected=self._disconnected,
            reconnected=self._reconnected,
            closed=self._client_closed,
        )
        return await open_session(self._options.to_nats(), limit=self._limit, listener=listener)

    async def _maintain(self) -> None:
        """Empty the outbox whenever there is a connection; make a new one when it is closed for good."""
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                if self._session is not None and self._session.client.is_closed:
                    await self._rebuild()
                await self._empty_outbox()
            except nats.errors.Error:
                continue  # dropped again: the next connection wakes us
            except Exception:
                log.exception("a bug in the client; what waits for the broker goes on waiting")

    async def _rebuild(self) -> None:
        while True:
            try:
                self._session = await self._connect()
            except ConnectError as error:
                log.warning("%s", error)
                await asyncio.sleep(_REBUILD_WAIT)
            else:
                self._reconnected()
                return

    async def _empty_outbox(self) -> None:
        while self._outbox and self._is_up and (session := self._session) is not None:
            batch = self._outbox.peek(_BATCH)
            for message in batch:
                try:
                    session.require_fits(message)
                except MessageTooLarge as error:  # this broker takes less than the one before
                    log.error("not sent: %s", error)  # noqa: TRY400 -- the words say it all
                    self._troubles.record_unreported(message.subject, error)
                else:
                    await session.client.publish(message.subject, message.body(clock()))
            # Forgotten only when the broker has them: if it goes away again they are sent again.
            if await session.flush():
                self._outbox.drop(len(batch))
        if not self._outbox:
            self._emptied.set()

    def _errored(self, reason: str) -> None:
        self._troubles.record(reason)
        log.log(logging.WARNING if "permissions violation" in reason else logging.DEBUG, "nats: %s", reason)

    def _disconnected(self) -> None:
        self._up.clear()
        self._troubles.disconnected()
        if not self._closed:
            log.warning("nats: the connection is lost")

    def _reconnected(self) -> None:
        self._troubles.connected()
        self._up.set()
        self._work.set()
        log.info("nats: connected again")

    def _client_closed(self) -> None:
        self._up.clear()
        self._troubles.closed()
        self._work.set()


def _now() -> float:
    return time.monotonic()


async def request_once(
    session: NatsClient,
    troubles: NatsErrors,
    message: ClientMessage,
    *,
    limit: float,
    headers: Mapping[str, str] | None,
    resend: bool,
) -> Msg | None:
    """The first answer within ``limit`` seconds; None when the connection dropped and ``resend`` is set.

    Raises NoResponders, RequestTimeout, NotConnected, and what the broker has against it.
    """
    with troubles.request(message.subject) as failed:
        asking = asyncio.create_task(
            session.client.request(
                message.subject,
                message.body(clock()),
                timeout=limit,
                headers=dict(headers) if headers else None,
            ),
            name="msc-request",
        )
        dropped = asyncio.create_task(session.dropped.wait(), name="msc-dropped")
        watched: set[asyncio.Future[Any]] = {asking, failed, dropped} if resend else {asking, failed}
        try:
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                return asking.result()
        except nats.errors.NoRespondersError:
            raise NoResponders(f"nobody serves {message.subject}") from None
        except TimeoutError:
            raise RequestTimeout(f"no answer from {message.subject} within {limit:.3g} s") from None
        except nats.errors.Error as error:
            raise NotConnected(error_text(error)) from error
        finally:
            asking.cancel()
            dropped.cancel()
            await asyncio.gather(asking, dropped, return_exceptions=True)
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
        """The first message, and those after it as long as all are at most ``size`` bytes."""
        batch = list(islice(self._messages, 1))
        total = sum(message.size for message in batch)
        for message in islice(self._messages, 1, None):
            total += message.size
            if total > size:
                break
            batch.append(message)
        return batch

    def drop(self, count: int) -> None:
        """Forget the first ``count`` messages."""
        for _ in range(count):
            self.size -= self._messages.popleft().size
