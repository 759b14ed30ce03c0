"""Read a stream by subject, in order, and leave no trace on the broker.

Each read is an ephemeral consumer with one filter. The subject of the request that creates it contains the
filter, so the broker's permissions can allow a user to read notices and not audits.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar
from uuid import uuid4

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import RawStreamMsg

from ..model.errors import BrokerError, BrokerUnsupported, MessageNotFound, NotPermitted
from ..model.times import iso_time
from .connection import Connection

_ACK = "$JS.ACK."
_REQUEST_LIMIT = 10.0  # seconds for the broker to reply
_PERMISSION_CHECK_AFTER = 0.25  # seconds without a reply, after which missing permissions are checked
_HEARTBEAT = 2.0  # seconds between heartbeats while there are no messages
_SILENCE = 2.5 * _HEARTBEAT  # seconds without a heartbeat: the consumer is lost
_MAX_CONSUMERS = 5  # created in a row without a message in between
_IDLE = 30.0  # seconds after which the broker removes a consumer without a client
_NO_STREAM, _NO_MESSAGE, _JETSTREAM_OFF = 10059, (10037, 10057), (10039, 10076)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """One message of a stream."""

    subject: str
    sequence: int
    at: int  # when it was stored, microseconds since the epoch
    headers: Mapping[str, str]
    payload: bytes  # empty if only headers are read
    size: int  # bytes of the payload


class StreamReader:
    """Reads the messages of one stream on one subject, from the oldest; an async context manager.

    ``subject`` may have wildcards. ``start`` is a sequence, ``since`` microseconds since the epoch. With
    ``headers_only``, payloads are not sent. With ``latest``, only the last message of each subject is read;
    after a reconnect, earlier ones may come before it.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        subject: str,
        *,
        start: int = 1,
        since: int = 0,
        headers_only: bool = False,
        latest: bool = False,
    ) -> None:
        self.caught_up = False  # all messages that were stored at the start are returned
        self.pending = 0  # messages that were still to come when the last one was sent
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._start = start
        self._since = since
        self._headers_only = headers_only
        self._latest = latest
        self._arrived: asyncio.Queue[Msg] = asyncio.Queue()
        self._subscription: Subscription | None = None
        self._name = ""
        self._next = 1  # of the consumer's own count
        self._created = 0
        self._known_violations = 0  # violations that were there before

    async def __aenter__(self) -> StreamReader:
        """Raises NotPermitted, BrokerUnsupported if there is no such stream, and BrokerError."""
        try:
            await self._make()
        except BaseException:
            await self._stop_reading()
            raise
        self._connection.on_reconnect(self._renew)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.forget_reconnect(self._renew)
        await self._stop_reading()

    async def next_existing(self) -> StoredMessage | None:
        """Return the next message that is stored already; None if there are no more."""
        return None if self.caught_up else await self._next_or_none()

    async def read_batch(self, most: int) -> list[StoredMessage]:
        """Return the stored messages that have arrived, at least one; [] if there are no more."""
        found: list[StoredMessage] = []
        while len(found) < most and not (found and self._arrived.empty()):
            if (stored := await self.next_existing()) is None:
                break
            found.append(stored)
        return found

    async def next_message(self) -> StoredMessage:
        """Wait for the next message."""
        while True:
            if (found := await self._next_or_none()) is not None:
                return found

    async def _next_or_none(self) -> StoredMessage | None:
        """Return the next message, or None if there is none at this moment."""
        while True:
            try:
                if self._arrived.empty():
                    async with asyncio.timeout(_SILENCE):
                        msg = await self._arrived.get()
                else:  # a timer for each message would take most of the time
                    msg = self._arrived.get_nowait()
            except TimeoutError:
                await self._make()
            else:
                self._created = 0
                if msg.reply.startswith(_ACK):
                    if (found := await self._received(msg)) is not None:
                        return found
                elif msg.headers is None or "Status" not in msg.headers:
                    await self._make()  # from `_renew`: the client has reconnected
                else:
                    await self._status(msg)
            if self.caught_up and self._arrived.empty():
                return None

    async def _received(self, msg: Msg) -> StoredMessage | None:
        # $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<tries>.<sequence>.<count>.<time>.<waiting>
        parts = msg.reply.split(".")
        consumer, _, sequence, count, time, waiting = parts[3:9] if len(parts) == 9 else parts[5:11]
        if consumer != self._name:
            return None  # of an earlier consumer
        if int(count) != self._next:
            await self._make()  # a message was lost
            return None
        self._next += 1
        self._start, self._since = int(sequence) + 1, 0
        self.pending = int(waiting)
        self.caught_up = self.caught_up or not self.pending
        headers = msg.headers or {}
        return StoredMessage(
            subject=msg.subject,
            sequence=int(sequence),
            at=int(time) // 1000,
            headers=headers,
            payload=msg.data,
            size=int(headers.get("Nats-Msg-Size", len(msg.data))),
        )

    async def _status(self, msg: Msg) -> None:
        """Reply to a heartbeat or to a flow control request, if it asks for a reply."""
        headers = msg.headers or {}
        wanted = msg.reply or headers.get("Nats-Consumer-Stalled", "")
        if wanted:
            await self._connection.publish(wanted, b"")
        flow = f"$js.fc.{self._stream}.{self._name}".lower()
        for text in self._connection.violations[self._known_violations :]:
            if flow in text.lower():
                raise NotPermitted(text)

    async def _make(self) -> None:
        """Create a consumer that continues after the last message."""
        self._created += 1
        if self._created > _MAX_CONSUMERS:
            raise BrokerError(f"{self._stream}: the broker sends no heartbeats")
        await self._stop_reading()
        self._connection.require_open()
        self._known_violations = len(self._connection.violations)
        self._arrived = asyncio.Queue()
        self._name, self._next = f"mss-read-{uuid4().hex}", 1
        inbox = self._connection.client.new_inbox()
        arrived = self._arrived

        async def receive(msg: Msg) -> None:
            arrived.put_nowait(msg)

        self._subscription = await self._connection.client.subscribe(
            inbox, cb=receive, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        made = await request_jetstream(
            self._connection,
            f"$JS.API.CONSUMER.CREATE.{self._stream}.{self._name}.{self._subject}",
            {"stream_name": self._stream, "config": self._config(inbox)},
        )
        self.pending = int(made.get("num_pending") or 0)
        self.caught_up = self.caught_up or not self.pending

    def _config(self, inbox: str) -> dict[str, Any]:
        since = iso_time(self._since)
        where: dict[str, Any] = {"deliver_policy": "by_start_sequence", "opt_start_seq": self._start}
        if self._since:
            where = {"deliver_policy": "by_start_time", "opt_start_time": since}
        elif self._latest and self._start == 1:
            where = {"deliver_policy": "last_per_subject"}
        return {
            "name": self._name,
            "deliver_subject": inbox,
            "filter_subject": self._subject,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": True,  # else the broker drops a reader that is slower than itself
            "idle_heartbeat": int(_HEARTBEAT * 1e9),
            "inactive_threshold": int(_IDLE * 1e9),
            "mem_storage": True,
            "num_replicas": 1,
            "headers_only": self._headers_only,
            **where,
        }

    def _renew(self) -> None:
        """Wake the reader after a reconnect."""
        self._arrived.put_nowait(Msg(_client=self._connection.client))

    async def _stop_reading(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None and not self._connection.client.is_closed:
            await subscription.unsubscribe()


async def request_jetstream(connection: Connection, subject: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the reply of JetStream. Raises NotPermitted, MessageNotFound, BrokerUnsupported, BrokerError."""
    request = connection.client.request(subject, json.dumps(body).encode(), timeout=_REQUEST_LIMIT)
    try:
        msg = await await_permitted(connection, request, (subject,))
    except nats.errors.NoRespondersError as error:
        raise BrokerUnsupported("JetStream is not enabled on this nats-server or account") from error
    except nats.errors.Error as error:
        connection.require_open()
        raise BrokerError(f"NATS does not answer: {str(error) or 'time-out'}") from error
    answer: dict[str, Any] = json.loads(msg.data)
    if (refusal := answer.get("error")) is None:
        return answer
    if refusal.get("err_code") == _NO_STREAM:
        stream = subject.split(".")[4]
        raise BrokerUnsupported(
            f"there is no stream {stream} on this broker: no server has run here yet, or under another "
            "stream_prefix"
        )
    if refusal.get("err_code") in _JETSTREAM_OFF:
        raise BrokerUnsupported("JetStream is not enabled on this nats-server or account")
    if refusal.get("err_code") in _NO_MESSAGE:
        raise MessageNotFound("there is no such message")
    raise BrokerError(f"NATS: {refusal.get('description')} ({refusal.get('err_code')})")


async def await_permitted(connection: Connection, work: Awaitable[T], subjects: Collection[str]) -> T:
    """Await ``work``, which publishes on ``subjects`` and waits for replies. Raises NotPermitted.

    The broker never replies to a message that it does not permit; it reports the violation separately.
    """
    violations = ("subscription to", *(subject.lower() for subject in subjects))
    known = len(connection.violations)
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait((task,), timeout=_PERMISSION_CHECK_AFTER)
            for text in connection.violations[known:]:
                if not task.done() and any(part in text.lower() for part in violations):
                    raise NotPermitted(text)
        return await task
    finally:
        task.cancel()


async def messages_on(connection: Connection, stream: str, subject: str) -> AsyncIterator[RawStreamMsg]:
    """Yield the messages on ``subject``, the oldest first, with one round trip each. Raises BrokerError.

    The leader of the stream replies: a follower may not have the newest message yet.
    """
    sequence = 1
    while True:
        try:
            msg = await connection.js.get_msg(stream, seq=sequence, subject=subject, next=True)
        except nats.js.errors.NotFoundError:
            return
        except (nats.errors.Error, TimeoutError) as error:
            raise BrokerError(f"{stream} cannot be read: {error or 'no answer'}") from error
        yield msg
        sequence = (msg.seq or sequence) + 1
