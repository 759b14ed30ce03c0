"""One connection to NATS: made with retries, monitored, and reported when it is closed for good.

The reply subject of a delivered message has its metadata, which is read here.
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

from msc.options import ConnectOptions
from msc.wire import RESENT_HEADER

from ..model.errors import BrokerError, BrokerLost, BrokerUnsupported, MaxPayloadExceeded
from ..runtime import is_cancelled
from ..settings import Settings

log = logging.getLogger(__name__)

MINIMUM_SERVER = (2, 12)  # message schedules
HEADER_ROOM = 4096  # bytes that are kept free for the headers of a message
_CONNECT_LIMIT = 10.0  # seconds for one try
_RETRY_WAIT = 2.0  # seconds between two tries
_CLOSE_LIMIT = 5.0  # seconds
_LATE = 0.25  # seconds in which the server may deliver messages that it had assigned before the unsubscribe
_PING_TIMEOUT = 120  # seconds; nats-py ends the connection to a silent broker long before
_LOGIN = re.compile(r"authorization|authentication", re.IGNORECASE)
_MAX_HEADER_BYTES = 16 * 1024  # bytes; the headers of MSS are far smaller
_MAX_UNSENT_BYTES = 4 * 1024 * 1024  # bytes, half of the buffer of nats-py
_ROOM_WAIT, _ROOM_TRIES = 0.005, 2000  # seconds, and how often: ten seconds in all

_SHORT = 9  # tokens of a reply subject that names neither domain nor account


class Connection:
    """A NATS client and its health.

    nats-py reports errors only through callbacks. Two kinds need more than a log line: a client
    that is closed for good (changed password, expired token), and a missing permission.
    """

    def __init__(self) -> None:
        self.client: Client = Client()
        self.js: JetStreamContext = JetStreamContext(self.client)
        self.lost = asyncio.Event()  # the client is closed for good
        self.reconnections = 0
        self.server_started_at = math.inf  # by the broker's clock, seconds since the epoch
        self._connected = asyncio.Event()  # connected, and the server start is not known yet
        self._connected.set()
        self._start_known = asyncio.Event()  # the server start is known
        self.last_error = ""  # of nats-py
        self.violations: list[str] = []  # "permissions violation" texts, lower-cased by nats-py
        self._on_reconnect: list[Callable[[], None]] = []
        self._closing = False
        self._bounded_waits: set[asyncio.Future[object]] = set()

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after each reconnect. It must not raise."""
        self._on_reconnect.append(callback)

    def forget_reconnect(self, callback: Callable[[], None]) -> None:
        """Stop calling ``callback``."""
        self._on_reconnect.remove(callback)

    def is_first_delivery_now(self, msg: Msg, metadata: MessageMetadata) -> bool:
        """Return whether it is certain now that ``msg`` was not delivered before.

        The broker counts the deliveries of a message. A broker that was killed has lost the last counts,
        so the count of a message that it stored before its start is not certain.
        """
        return (
            metadata.num_delivered == 1
            and self._start_known.is_set()
            and metadata.stored_at
            > self.server_started_at * 1e6 + 1  # ``since`` is a float: a microsecond may be lost
            and (msg.headers is None or RESENT_HEADER not in msg.headers)
        )

    async def is_first_delivery(self, msg: Msg, metadata: MessageMetadata) -> bool:
        """Return whether it is certain that ``msg`` was not delivered before.

        Waits for the server start, which ``track_server_start`` finds out.
        """
        if metadata.num_delivered == 1 and not self._start_known.is_set():
            await self._start_known.wait()
        return self.is_first_delivery_now(msg, metadata)

    async def track_server_start(self, epoch: Callable[[], Awaitable[float]]) -> None:
        """Ask when the server was started after each connect, until cancelled."""
        while not is_cancelled():
            await self._connected.wait()
            try:
                since = await epoch()
            except (nats.errors.Error, TimeoutError) as error:
                log.warning("nats: the start of the server is unknown: %s", error or "no answer")
                await asyncio.sleep(_RETRY_WAIT)
            else:
                self._connected.clear()
                self.server_started_at = since
                self._start_known.set()

    def require_permitted(self) -> None:
        """Raise BrokerUnsupported if the broker has refused a subject."""
        if self.violations:
            raise BrokerUnsupported(f"the broker's permissions are too narrow: {'; '.join(self.violations)}")

    def require_open(self) -> None:
        """Raise BrokerLost if the client is closed for good."""
        if self.client.is_closed:
            self.lost.set()
            raise BrokerLost("the connection to NATS is closed")

    @property
    def largest_payload(self) -> int:
        """Bytes that the broker accepts in one message, with room for headers."""
        return self.client.max_payload - HEADER_ROOM

    async def publish(
        self, subject: str, payload: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Pass one message to the client, which buffers it while the broker is not available.

        Raises MaxPayloadExceeded for a message that is too large (the server would close the
        connection for good), BrokerLost if the client is closed, and OutboundBufferLimitError
        (nats-py) if the buffer is full.
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
        """Publish, and return when the broker has read the message and not refused it.

        Raises BrokerError. The broker reports a missing permission late and separately: without the round
        trip, the message would be lost unnoticed.
        """
        known = len(self.violations)
        try:
            await self.publish(subject, payload, headers=headers)
        except nats.errors.Error as error:
            raise BrokerError(f"NATS did not take it: {error}") from error
        if not await self.flush(limit):
            raise BrokerError("NATS did not answer")
        if any(subject.lower() in text.lower() for text in self.violations[known:]):
            raise BrokerError(f"NATS does not permit {subject}")

    async def flush(self, limit: float) -> bool:
        """Return whether the broker has read all earlier messages within ``limit`` seconds."""
        return await self.wait_bounded(self.client.flush(timeout=_PING_TIMEOUT), limit)

    async def drain(self, subscription: Subscription, limit: float) -> bool:
        """Unsubscribe, and receive what is on its way. Return False after ``limit`` seconds.

        The server may deliver one more message after its reply to the next PING: it had assigned the
        message before it read the unsubscribe. nats-py's own drain has dropped the subscription by then,
        and loses the message. There is no public call that keeps the subscription for a moment.
        """
        await self.client._send_unsubscribe(subscription._id)  # noqa: SLF001
        heard = await self.flush(limit)
        await asyncio.sleep(_LATE)
        return await self.wait_bounded(subscription.drain(), limit) and heard  # type: ignore[no-untyped-call]

    async def wait_bounded(self, work: Coroutine[Any, Any, object], limit: float) -> bool:
        """Wait for a call of nats-py that waits for a PONG. Return False after ``limit`` seconds.

        The call then keeps running: if it were cancelled, the late PONG would end the read loop silently.
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
            task.exception()  # otherwise asyncio logs that it was never retrieved

    async def errored(self, error: Exception) -> None:
        """The error callback of nats-py. If it raised, the read loop would end silently."""
        text = str(error) or type(error).__name__
        if "permissions violation" in text.lower():
            self.violations.append(text)
        if not self.last_error or not _LOGIN.search(self.last_error):
            self.last_error = text  # a refused login is the reason for the disconnect that follows
        log.warning("nats: %s", text)

    async def closed(self) -> None:
        self.lost.set()

    async def reconnected(self) -> None:
        self.reconnections += 1
        self._start_known.clear()
        self._connected.set()
        log.info("nats: connected again")
        for callback in self._on_reconnect:
            callback()

    async def disconnected(self) -> None:
        if not self._closing:
            log.warning("nats: disconnected")


def connect_options(settings: Settings, name: str = "mss") -> dict[str, Any]:
    """Return the options of nats-py for the servers and the login in ``settings``. Raises ConnectError."""
    inbox = f"_INBOX_{settings.namespace}"
    return ConnectOptions(
        servers=settings.servers, name=name, inbox_prefix=inbox, **settings.access
    ).to_nats()


async def connect(options: Mapping[str, Any], *, is_patient: bool = True) -> Connection:
    """Connect, retry until it succeeds, and check the version of the server.

    ``options`` are those of nats-py. Raises BrokerUnsupported for a server that is too old, and
    BrokerError at the first failure unless ``is_patient``.
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
    """The metadata of one delivery of a stream message."""

    sequence: int  # in its stream
    num_delivered: int  # this delivery included
    stored_at: int  # microseconds since the epoch


def message_metadata(reply: str) -> MessageMetadata:
    """Read ``$JS.ACK.[domain.account.]stream.consumer.number.sequence.sequence.nanoseconds.pending``.

    ``metadata`` of nats-py has the same, with a datetime, and takes five times as long.
    """
    tokens = reply.split(".")
    at = 4 if len(tokens) == _SHORT else 6
    return MessageMetadata(int(tokens[at + 1]), int(tokens[at]), int(tokens[at + 3]) // 1000)
