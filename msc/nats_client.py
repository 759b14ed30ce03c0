"""One nats-py client: made within a time limit, flushed safely, and with the errors that the broker reports.

Only public calls of nats-py are used, and none that is known to hang or to lose messages. nats-py passes
errors of the broker to a callback; they are kept here until the call that caused them can raise them.
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

_STEP_LIMIT = 5  # seconds for each step of nats-py's connecting
_CLOSE_LIMIT = 2.0  # seconds
_PING_LIMIT = 120  # seconds; long after nats-py has given up on a broker that does not answer
_RETRY_WAIT = 0.5  # seconds between two tries at one server

_REMEMBERED = 1000  # subjects
_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """What to do when the client says something. None of these may wait."""

    errored: Callable[[str], None]
    disconnected: Callable[[], None]
    reconnected: Callable[[], None]
    closed: Callable[[], None]  # for good, by nats-py or by us


class NatsClient:
    """A nats-py client. Make one with ``open_session``."""

    def __init__(self, listener: Listener, *, servers: int) -> None:
        self.client = Client()
        self.dropped = asyncio.Event()  # set while there is no connection
        self.refused = asyncio.Event()  # set when every server has sent us away
        self.reason = ""  # the last thing that went wrong
        self._listener = listener
        self._servers = servers
        self._refusals = 0
        self._pings: set[asyncio.Task[None]] = set()

    @property
    def is_up(self) -> bool:
        """Whether nats-py is connected, and has told us so."""
        if not self.client.is_connected:
            self.dropped.set()  # the callback comes a little later
        return not self.dropped.is_set()

    async def connect(self, options: Mapping[str, Any]) -> bool:
        """Connect; False when the broker hangs up at once, which nats-py takes for success."""
        await self.client.connect(
            **options,
            error_cb=self._errored,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
            closed_cb=self._closed,
            connect_timeout=_STEP_LIMIT,
            reconnect_time_wait=_RETRY_WAIT,  # type: ignore[arg-type]  # it sleeps so long; a float will do
        )
        return await self.flush()

    async def flush(self, limit: float | None = None) -> bool:
        """Whether the broker has answered a ping, and so has read all that was sent before it.

        False after ``limit`` seconds, or when the connection drops.
        """
        if self.dropped.is_set():
            return False
        # A flush that times out or is cancelled leaves a future behind, at which a late PONG kills
        # nats-py's read loop without a sound. So it is left alone: it ends with the connection.
        ping = asyncio.create_task(self.client.flush(timeout=_PING_LIMIT), name="msc-ping")
        self._pings.add(ping)
        ping.add_done_callback(self._forget)
        dropped = asyncio.create_task(self.dropped.wait(), name="msc-dropped")
        try:
            await asyncio.wait({ping, dropped}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            dropped.cancel()
        return ping.done() and not ping.cancelled() and ping.exception() is None and self.client.is_connected

    def require_fits(self, message: ClientMessage, headers: Mapping[str, str] | None = None) -> None:
        """Raise MessageTooLarge for what would make the broker close the client for good."""
        # NATS/1.0 CRLF, then "key: value" CRLF each, then CRLF.
        extra = 12 + sum(len(key) + len(value) + 4 for key, value in headers.items()) if headers else 0
        size, most = message.body_size + extra, self.client.max_payload
        if size > most:
            raise MessageTooLarge(f"{size} bytes for {message.subject}; the broker takes {most}")

    async def close(self) -> None:
        """Close the client; what it has not sent is gone."""
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_LIMIT):
                await self.client.close()
        for ping in self._pings:
            ping.cancel()
        await asyncio.gather(*self._pings, return_exceptions=True)

    def _forget(self, ping: asyncio.Task[None]) -> None:
        self._pings.discard(ping)
        if not ping.cancelled():
            ping.exception()  # else asyncio complains that nobody looked

    # If a callback raised (a log handler might), nats-py's read loop would die in silence.

    async def _errored(self, error: Exception) -> None:
        with contextlib.suppress(Exception):
            said = error_text(error)
            refusal = is_refusal(said) or isinstance(error, ssl.SSLError)
            self._refusals += refusal
            if self._refusals >= self._servers:
                self.refused.set()
            if refusal or not self._refusals:  # a refusal is often followed by "connection reset"
                self.reason = said
            self._listener.errored(said)

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


async def open_session(options: Mapping[str, Any], *, limit: float, listener: Listener) -> NatsClient:
    """Connect within ``limit`` seconds; sooner when the broker refuses, as trying again is pointless.

    ``options`` are nats-py's. Raises ConnectError with the last reason.
    """
    session = NatsClient(listener, servers=len(options["servers"]))
    connecting = asyncio.create_task(session.connect(options), name="msc-connect")
    refused = asyncio.create_task(session.refused.wait(), name="msc-refused")
    connected = False
    try:
        await asyncio.wait({connecting, refused}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        connected = connecting.done() and await connecting
    except (nats.errors.Error, OSError, ValueError) as error:
        session.reason = session.reason or error_text(error)
    finally:
        refused.cancel()
        if not connected:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            await session.close()
    if not connected:
        reason = session.reason or f"no answer within {limit:g} s"
        raise ConnectError(f"no connection to {', '.join(options['servers'])}: {reason}")
    return session


def error_text(error: BaseException) -> str:
    """What an error of nats-py says, without its decoration."""
    return (str(error) or type(error).__name__).removeprefix("nats: ").strip("'")


class NatsErrors:
    """Complaints, by the subject that they are about. nats-py gives them in lower case."""

    def __init__(self) -> None:
        self.refusal = ""  # why the broker does not let us in, while it does not
        self.inbox = ""  # why no reply can reach us, while none can
        self._denied: dict[str, str] = {}  # subject: the broker's words
        self._unreported: dict[str, MscError] = {}  # subject: what befell a message after its call
        self._requests: dict[asyncio.Future[MscError], str] = {}  # those that wait for a reply

    def record(self, words: str) -> None:
        """Take in what the broker said."""
        if is_refusal(words):
            self.refusal = words
        match = _VIOLATION.search(words)
        if match is None:
            return
        if match[1].lower() == "subscription":
            self.inbox = words  # we subscribe to nothing else
            self.end_requests(PermissionDenied(words))
            return
        subject = match[2].lower()
        if len(self._denied) < _REMEMBERED or subject in self._denied:
            self._denied[subject] = words
        asked = [future for future, other in self._requests.items() if other == subject]
        for future in asked:
            _settle(future, PermissionDenied(words))
        if not asked:
            self.record_unreported(subject, PermissionDenied(words))

    def record_unreported(self, subject: str, error: MscError) -> None:
        """Remember what happened to a message whose caller has gone on."""
        if len(self._unreported) < _REMEMBERED:
            self._unreported.setdefault(subject.lower(), error)

    def pop_denial(self, subject: str) -> str:
        """The broker's words when it has refused ``subject``, which are then forgotten; else ""."""
        return self._denied.pop(subject.lower(), "")

    def denial(self, subject: str, words: str) -> PermissionDenied:
        """The error to raise for ``subject``; it tells of the earlier messages too."""
        self._denied[subject.lower()] = words
        self._unreported.pop(subject.lower(), None)
        return PermissionDenied(words)

    def raise_unreported(self) -> None:
        """Raise what happened to messages whose callers were not told."""
        for error in self._unreported.values():
            raise error

    @contextlib.contextmanager
    def request(self, subject: str) -> Iterator[asyncio.Future[MscError]]:
        """A future that gets the error which makes waiting for a reply pointless."""
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
        self.end_requests(NotConnected("the connection was closed; the request may have been served"))


def is_refusal(words: str) -> bool:
    """Whether the broker says that it does not let us in."""
    return "authorization" in words.lower() or "authentication" in words.lower()


def _settle(future: asyncio.Future[MscError], error: MscError) -> None:
    if not future.done():
        future.set_result(error)
