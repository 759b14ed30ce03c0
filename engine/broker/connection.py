"""One connection to NATS: made with retries, monitored, and reported when it is closed for good.

The broker describes each message that it delivers in the reply subject; that metadata is read here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, cast

import nats
import nats.errors
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext

from msc.wire import RESENT_HEADER

from ..model.errors import BrokerError, BrokerLost, BrokerUnsupported, MaxPayloadExceeded

log = logging.getLogger(__name__)

MINIMUM_SERVER = (2, 12)  # message schedules
HEADER_ROOM = 4096  # bytes kept free beside a payload
_CONNECT_LIMIT = 10.0  # seconds for one try
_RETRY_WAIT = 2.0  # seconds between two tries
_CLOSE_LIMIT = 5.0  # seconds
_LATE = 0.25  # seconds in which the server hands out what it had decided before we left
_PING_TIMEOUT = 120  # seconds; long after nats-py has given up on a broker that does not answer
_LOGIN = re.compile(r"authorization|authentication", re.IGNORECASE)
_MAX_HEADER_BYTES = 16 * 1024  # bytes; ours are far fewer
_MAX_UNSENT_BYTES = 4 * 1024 * 1024  # bytes, half of what nats-py is given
_ROOM_WAIT, _ROOM_TRIES = 0.005, 2000  # seconds, and how often: ten seconds in all

_SHORT = 9  # tokens of a reply subject that names neither domain nor account


class Connection:
    """A NATS client and what is known of its health.

    nats-py reports trouble only through callbacks. Two kinds must not end as a log line: a client
    that closed for good (changed password, expired token), and a permission that is missing.
    """

    def __init__(self) -> None:
        self.client: Client = Client()
        self.js: JetStreamContext = JetStreamContext(self.client)
        self.lost = asyncio.Event()  # the client is closed and stays so
        self.reconnections = 0
        self.server_started_at = (
            math.inf
        )  # when the broker was started, by its clock, seconds since the epoch
        self._anew = asyncio.Event()  # the connection was made, and the broker not yet asked
        self._anew.set()
        self._asked = asyncio.Event()  # the opposite
        self.last_error = ""  # what nats-py last complained of
        self.violations: list[str] = []  # "permissions violation" texts, lower-cased by nats-py
        self._on_reconnect: list[Callable[[], None]] = []
        self._closing = False
        self._bounded_waits: set[asyncio.Future[object]] = set()

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after each reconnect. It must not raise."""
        self._on_reconnect.append(callback)

    def is_first_delivery_now(self, msg: Msg, handed: MessageMetadata) -> bool:
        """Whether it is known by now that nobody can have been handed ``msg`` before.

        The broker counts how often it hands a message out. One that was killed has lost the last
        counts: of what it stored before it was started nothing is certain.
        """
        return (
            handed.num_delivered == 1
            and self._asked.is_set()
            and handed.stored_at
            > self.server_started_at * 1e6 + 1  # ``since`` is a float: a microsecond may be lost
            and (msg.headers is None or RESENT_HEADER not in msg.headers)
        )

    async def is_first_delivery(self, msg: Msg, handed: MessageMetadata) -> bool:
        """Whether nobody can have been handed ``msg`` before. Needs ``track_server_start`` to be running."""
        if handed.num_delivered == 1 and not self._asked.is_set():
            await self._asked.wait()
        return self.is_first_delivery_now(msg, handed)

    async def track_server_start(self, epoch: Callable[[], Awaitable[float]]) -> None:
        """Ask for the broker's ``epoch`` after each connect; for ever, until cancelled."""
        while True:
            await self._anew.wait()
            try:
                since = await epoch()
            except (nats.errors.Error, TimeoutError) as error:
                log.warning("nats: when the broker was started cannot be asked: %s", error or "no answer")
                await asyncio.sleep(_RETRY_WAIT)
            else:
                self._anew.clear()
                self.server_started_at = since
                self._asked.set()

    def require_permitted(self) -> None:
        """Raise BrokerUnfit when the broker has refused us a subject."""
        if self.violations:
            raise BrokerUnsupported(f"the broker's permissions are too narrow: {'; '.join(self.violations)}")

    def require_open(self) -> None:
        """Raise BrokerLost when the client is closed for good."""
        if self.client.is_closed:
            self.lost.set()
            raise BrokerLost("the connection to NATS is closed")

    @property
    def largest_payload(self) -> int:
        """Bytes that the broker takes in one message, with room beside them for headers."""
        return self.client.max_payload - HEADER_ROOM

    async def publish(
        self, subject: str, payload: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Hand one message to the client; it waits in the client's buffer while the broker is away.

        Raises MessageTooLarge beyond max_payload (sent anyway, the server would close the
        connection for good), BrokerLost when the client is closed, OutboundBufferLimitError
        (nats-py) when the buffer is full.
        """
        most = self.client.max_payload
        size = len(payload) + _MAX_HEADER_BYTES  # counting them exactly takes a tenth of a publish
        if size > most > 0 and (size := len(payload) + _header_size(headers)) > most:
            raise MaxPayloadExceeded(f"{size} bytes for {subject}; the broker takes {most}")
        if self.client.pending_data_size >= _MAX_UNSENT_BYTES:
            await self._room()
        try:
            # nats-py only reads the headers; to copy them takes a tenth of a publish.
            await self.client.publish(
                subject, payload, reply, headers=cast("dict[str, str]", headers) or None
            )
        except nats.errors.ConnectionClosedError as error:
            self.lost.set()
            raise BrokerLost("the connection to NATS is closed") from error

    async def publish_confirmed(
        self, subject: str, payload: bytes, headers: Mapping[str, str], *, limit: float
    ) -> None:
        """Publish, and return once the broker has read it and said nothing against it.

        Raises BrokerError. A permission that is missing is told late and apart: without the round
        trip the message would be gone and nobody the wiser.
        """
        said = len(self.violations)
        try:
            await self.publish(subject, payload, headers=headers)
        except nats.errors.Error as error:
            raise BrokerError(f"NATS did not take it: {error}") from error
        if not await self.flush(limit):
            raise BrokerError("NATS did not answer")
        if any(subject.lower() in text.lower() for text in self.violations[said:]):
            raise BrokerError(f"NATS does not permit {subject}")

    async def flush(self, limit: float) -> bool:
        """Whether the broker has read, within ``limit`` seconds, all that was sent before."""
        return await self.wait_bounded(self.client.flush(timeout=_PING_TIMEOUT), limit)

    async def drain(self, subscription: Subscription, limit: float) -> bool:
        """Ask for no more, and take what is on its way; False when that took more than ``limit`` seconds.

        The server may hand one more message out after it has answered the PING that followed: it had
        chosen us before it read that we leave. nats-py's own drain forgets the subscription then, and
        the message with it. To go on taking for a moment there is no public call.
        """
        await self.client._send_unsubscribe(subscription._id)  # noqa: SLF001
        heard = await self.flush(limit)
        await asyncio.sleep(_LATE)
        return await self.wait_bounded(subscription.drain(), limit) and heard  # type: ignore[no-untyped-call]

    async def wait_bounded(self, work: Coroutine[Any, Any, object], limit: float) -> bool:
        """Wait for something of nats-py's that waits for a PONG; False after ``limit`` seconds.

        It is left running then: were it cancelled, the late PONG would kill the read loop in silence.
        """
        task = asyncio.ensure_future(work)
        self._bounded_waits.add(task)
        task.add_done_callback(self._forget)
        await asyncio.wait((task,), timeout=limit)
        return task.done() and not task.cancelled() and task.exception() is None

    async def close(self) -> None:
        """Send what is buffered, within a limit, and close."""
        self._closing = True
        if self.client.is_connected:
            await self.flush(_CLOSE_LIMIT)
        # RuntimeError is uvloop's, of a socket that the broker has closed.
        with contextlib.suppress(nats.errors.Error, OSError, RuntimeError):
            await self.client.close()
        for task in self._bounded_waits:
            task.cancel()

    async def _room(self) -> None:
        """Wait while much is unsent: nats-py's own waiting for room has no end and cannot be cancelled."""
        for _ in range(_ROOM_TRIES):
            if not self.client.is_connected or self.client.pending_data_size < _MAX_UNSENT_BYTES:
                return
            await asyncio.sleep(_ROOM_WAIT)
        raise nats.errors.OutboundBufferLimitError

    def _forget(self, task: asyncio.Future[object]) -> None:
        self._bounded_waits.discard(task)
        if not task.cancelled():
            task.exception()  # else asyncio complains that nobody looked

    async def errored(self, error: Exception) -> None:
        """nats-py's error callback: if this raised, the read loop would die in silence."""
        text = str(error) or type(error).__name__
        if "permissions violation" in text.lower():
            self.violations.append(text)
        if not self.last_error or not _LOGIN.search(self.last_error):
            self.last_error = text  # a login that was refused explains the connection that is cut then
        log.warning("nats: %s", text)

    async def closed(self) -> None:
        self.lost.set()

    async def reconnected(self) -> None:
        self.reconnections += 1
        self._asked.clear()
        self._anew.set()
        log.info("nats: connected again")
        for callback in self._on_reconnect:
            callback()

    async def disconnected(self) -> None:
        if not self._closing:
            log.warning("nats: disconnected")


async def connect(options: Mapping[str, Any], *, is_patient: bool = True) -> Connection:
    """Connect, trying again for as long as it takes, and check that the server is fit.

    ``options`` are nats-py's own. Raises BrokerUnfit for a server that is too old or has no
    JetStream; BrokerError at the first failure unless it ``is_patient``.
    """
    while True:
        connection = Connection()
        try:
            async with asyncio.timeout(_CONNECT_LIMIT if is_patient else _CONNECT_LIMIT / 2):
                await connection.client.connect(
                    **options,
                    error_cb=connection.errored,
                    closed_cb=connection.closed,
                    reconnected_cb=connection.reconnected,
                    disconnected_cb=connection.disconnected,
                )
            break
        except (nats.errors.Error, TimeoutError, OSError) as error:
            is_refused = bool(_LOGIN.search(connection.last_error))
            why = connection.last_error if is_refused else str(error) or connection.last_error or "no answer"
            await connection.close()
            if not is_patient:
                raise BrokerError(f"not connected: {why}") from error
            log.warning("nats: not connected yet: %s", why)
            await asyncio.sleep(_RETRY_WAIT)
    version = connection.client.connected_server_version
    if (version.major, version.minor) < MINIMUM_SERVER:
        await connection.close()
        raise BrokerUnsupported(f"nats-server {version} is too old; MSS needs 2.12 or later")
    return connection


def _header_size(headers: Mapping[str, str] | None) -> int:
    if not headers:
        return 0
    # NATS/1.0 CRLF, then "key: value" CRLF each, then CRLF.
    return 12 + sum(len(key.encode()) + len(value.encode()) + 4 for key, value in headers.items())


class MessageMetadata(Struct, frozen=True, gc=False):
    """One message of a stream, handed out once."""

    sequence: int  # in its stream
    num_delivered: int  # how often it was handed out, this time included
    stored_at: int  # when the broker took it, microseconds since the epoch


def message_metadata(reply: str) -> MessageMetadata:
    """Read ``$JS.ACK.[domain.account.]stream.consumer.number.sequence.sequence.nanoseconds.pending``.

    nats-py's ``metadata`` says the same, with a datetime and in five times the time.
    """
    tokens = reply.split(".")
    at = 4 if len(tokens) == _SHORT else 6
    return MessageMetadata(int(tokens[at + 1]), int(tokens[at]), int(tokens[at + 3]) // 1000)
