"""One client of nats-py: it connects within a limit, flushes safely, and keeps the errors of the broker.

Only public calls of nats-py are used, and none that may hang or lose messages. nats-py passes errors of the
broker to a callback; they are kept here until the call that caused them can raise them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.aio.client import Client

from .errors import ConnectError, MessageTooLarge, MscError, NotConnected, PermissionDenied
from .messages import ClientMessage

_STEP_LIMIT = 5  # seconds for each step of connecting in nats-py
_CLOSE_LIMIT = 2.0  # seconds
_PING_LIMIT = 120  # seconds; long after nats-py disconnects from a broker that does not answer
_RETRY_WAIT = 0.5  # seconds between two attempts at one server

_MAX_SUBJECTS = 1000  # with errors that are kept
_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Callbacks for the events of a client. They must not block."""

    errored: Callable[[str], None]
    disconnected: Callable[[], None]
    reconnected: Callable[[], None]
    closed: Callable[[], None]  # by nats-py or by us; it stays closed


class NatsClient:
    """A client of nats-py. ``open_client`` creates it."""

    def __init__(self, listener: Listener, *, servers: int) -> None:
        self.nats = Client()
        self.dropped = asyncio.Event()  # set while there is no connection
        self.refused = asyncio.Event()  # set when every server has refused the login
        self.reason = ""  # the last error
        self._listener = listener
        self._servers = servers
        self._refusals = 0
        self._pings: set[asyncio.Task[None]] = set()

    @property
    def is_up(self) -> bool:
        """True if nats-py is connected, and its callback has run."""
        if not self.nats.is_connected:
            self.dropped.set()  # the callback runs a little later
        return not self.dropped.is_set()

    async def connect(self, options: Mapping[str, Any]) -> bool:
        """Connect. Returns False if the broker hangs up at once, which is a success for nats-py."""
        await self.nats.connect(
            **options,
            error_cb=self._errored,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
            closed_cb=self._closed,
            connect_timeout=_STEP_LIMIT,
            reconnect_time_wait=_RETRY_WAIT,  # type: ignore[arg-type]  # a float works: it is passed to sleep
        )
        return await self.flush()

    async def flush(self, limit: float | None = None) -> bool:
        """Return whether the broker has answered a ping, and so has received all earlier messages.

        False after ``limit`` seconds, or if the connection drops.
        """
        if self.dropped.is_set():
            return False
        # If a flush times out or is cancelled, a late PONG silently ends the read loop of nats-py. So this
        # task is not cancelled: it ends with the connection.
        ping = asyncio.create_task(self.nats.flush(timeout=_PING_LIMIT), name="msc-ping")
        self._pings.add(ping)
        ping.add_done_callback(self._forget)
        dropped = asyncio.create_task(self.dropped.wait(), name="msc-dropped")
        try:
            await asyncio.wait({ping, dropped}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            dropped.cancel()
        return ping.done() and not ping.cancelled() and ping.exception() is None and self.nats.is_connected

    def require_fits(self, message: ClientMessage, headers: Mapping[str, str] | None = None) -> None:
        """Raise MessageTooLarge for a message at which the broker would close the connection."""
        # NATS/1.0 CRLF, then "key: value" CRLF each, then CRLF.
        extra = 12 + sum(len(key) + len(value) + 4 for key, value in headers.items()) if headers else 0
        size, limit = message.body_size + extra, self.nats.max_payload
        if size > limit:
            raise MessageTooLarge(f"{size} bytes for {message.subject}; the broker accepts {limit}")

    async def close(self) -> None:
        """Close the client. Messages that it has not sent are lost."""
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_LIMIT):
                await self.nats.close()
        for ping in self._pings:
            ping.cancel()
        await asyncio.gather(*self._pings, return_exceptions=True)

    def _forget(self, ping: asyncio.Task[None]) -> None:
        self._pings.discard(ping)
        if not ping.cancelled():
            ping.exception()  # otherwise asyncio logs that it was never retrieved

    # An exception in a callback, for example of a log handler, would silently end the read loop of nats-py.

    async def _errored(self, error: Exception) -> None:
        with contextlib.suppress(Exception):
            text = error_text(error)
            refusal = is_refusal(text) or isinstance(error, ssl.SSLError)
            self._refusals += refusal
            if self._refusals >= self._servers:
                self.refused.set()
            if refusal or not self._refusals:  # a refusal is often followed by "connection reset"
                self.reason = text
            self._listener.errored(text)

    async def _disconnected(self) -> None:
        self.dropped.set()
        with contextlib.suppress(Exception):
            self._listener.disconnected()

    async def _reconnected(self) -> None:
        self.dropped.clear()
        with contextlib.suppress(Exception):
            self._listener.reconnected()

    async def _closed(self) -> None:
        self.dropped.set()
        with contextlib.suppress(Exception):
            self._listener.closed()


async def open_client(options: Mapping[str, Any], *, limit: float, listener: Listener) -> NatsClient:
    """Connect within ``limit`` seconds. ``options`` are those of nats-py.

    Raises ConnectError with the last reason, at once if every server refuses the login.
    """
    client = NatsClient(listener, servers=len(options["servers"]))
    connecting = asyncio.create_task(client.connect(options), name="msc-connect")
    refused = asyncio.create_task(client.refused.wait(), name="msc-refused")
    connected = False
    try:
        await asyncio.wait({connecting, refused}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        connected = connecting.done() and await connecting
    except (nats.errors.Error, OSError, ValueError) as error:
        client.reason = client.reason or error_text(error)
    finally:
        refused.cancel()
        if not connected:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            await client.close()
    if not connected:
        reason = client.reason or f"no answer within {limit:g} s"
        raise ConnectError(f"no connection to {', '.join(options['servers'])}: {reason}")
    return client


def error_text(error: BaseException) -> str:
    """Return the text of an error of nats-py, without prefix and quotes."""
    return (str(error) or type(error).__name__).removeprefix("nats: ").strip("'")


class NatsErrors:
    """The errors that the broker reported, by subject. nats-py gives subjects in lower case."""

    def __init__(self) -> None:
        self.refusal = ""  # why the broker refuses the login; "" if it does not
        self.inbox = ""  # why no reply can be received; "" if they can
        self._denied: dict[str, str] = {}  # subject: text of the broker
        self._unreported: dict[str, MscError] = {}  # subject: error of a message after its call
        self._requests: dict[
            asyncio.Future[MscError], str
        ] = {}  # subject of each request that waits for a reply

    def record(self, text: str) -> None:
        """Record an error that the broker reported."""
        if is_refusal(text):
            self.refusal = text
        match = _VIOLATION.search(text)
        if match is None:
            return
        if match[1].lower() == "subscription":
            self.inbox = text  # this client has no other subscription
            self.end_requests(PermissionDenied(text))
            return
        subject = match[2].lower()
        if len(self._denied) < _MAX_SUBJECTS or subject in self._denied:
            self._denied[subject] = text
        waiting = [future for future, other in self._requests.items() if other == subject]
        for future in waiting:
            _settle(future, PermissionDenied(text))
        if not waiting:
            self.record_unreported(subject, PermissionDenied(text))

    def record_unreported(self, subject: str, error: MscError) -> None:
        """Record an error of a message whose call has returned."""
        if len(self._unreported) < _MAX_SUBJECTS:
            self._unreported.setdefault(subject.lower(), error)

    def pop_denial(self, subject: str) -> str:
        """Remove and return the error with which the broker refused ``subject``; "" if it did not."""
        return self._denied.pop(subject.lower(), "")

    def denial(self, subject: str, text: str) -> PermissionDenied:
        """Return the error to raise for ``subject``. It also reports the earlier messages."""
        self._denied[subject.lower()] = text
        self._unreported.pop(subject.lower(), None)
        return PermissionDenied(text)

    def raise_unreported(self) -> None:
        """Raise the first error that no call has raised so far."""
        for error in self._unreported.values():
            raise error

    @contextlib.contextmanager
    def request(self, subject: str) -> Iterator[asyncio.Future[MscError]]:
        """Yield a future that gets the error after which no reply can come."""
        future: asyncio.Future[MscError] = asyncio.get_running_loop().create_future()
        self._requests[future] = subject.lower()
        try:
            yield future
        finally:
            del self._requests[future]
            future.cancel()

    def end_requests(self, error: MscError) -> None:
        for future in self._requests:
            _settle(future, error)

    def connected(self) -> None:
        self.refusal = ""

    def disconnected(self) -> None:
        self.inbox = ""  # the next connection subscribes again

    def closed(self) -> None:
        self.end_requests(NotConnected("the connection was closed; the action may have run"))


def is_refusal(text: str) -> bool:
    """Return whether the broker refuses the login."""
    return "authorization" in text.lower() or "authentication" in text.lower()


def _settle(future: asyncio.Future[MscError], error: MscError) -> None:
    if not future.done():
        future.set_result(error)
