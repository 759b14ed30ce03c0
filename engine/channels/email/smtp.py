"""SMTP: connections that are kept for the next mail, commands in a pipeline, and the outcome of each step.

An error before the message body starts is definite: the server does not have the mail. After that, only an
error reply is definite. If the server is silent or the connection is lost, the outcome is unknown.

The library connects, encrypts and logs in. It waits for each reply before the next command, which would
limit how many mails a process can send. So after the login, the protocol here takes over the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Literal, cast

import aiosmtplib
from aiosmtplib import SMTP, SMTPException, SMTPResponseException

from ...model.addresses import Mailbox
from ...model.errors import ChannelError, Deferred, Refused, Unknown
from ..circuit_breaker import CircuitBreaker

Tls = Literal["none", "starttls", "implicit"]

_SEND_DATA, _CLOSING = 354, 421  # codes of replies
_MAX_DETAIL_LENGTH = 300  # characters of a server's reply that go into a receipt

_MAX_REPLY_BYTES = 64 * 1024  # no mail server sends more
_LINE = re.compile(rb"([2-5][0-9]{2})([ -]?)([^\r\n]*)\r?\n")

_IDLE_LIMIT = 30.0  # seconds a connection is kept without a mail; servers wait longer than that


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpServer:
    """A mail server as the channel's settings describe it."""

    name: str
    host: str
    port: int
    tls: Tls
    context: ssl.SSLContext | None = field(repr=False, default=None)  # none without TLS
    user: str = ""
    password: str = field(repr=False, default="")
    cc: tuple[Mailbox, ...] = ()
    bcc: tuple[Mailbox, ...] = ()
    reply_to: tuple[Mailbox, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A mail and its addresses, ready for a server."""

    sender: str
    recipients: tuple[str, ...]  # the delivery's own addresses
    copies: tuple[str, ...] = ()  # the addresses that the server's settings add
    message: bytes
    international: bool = False  # an address is not ASCII: the server must offer SMTPUTF8


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedRecipients:
    """The recipients that a server rejected while it accepted others."""

    replies: tuple[str, ...]  # the server's text for each
    for_now: tuple[str, ...]  # the delivery's own addresses that it may accept later


async def connect(server: SmtpServer, *, timeout: float, own_name: str) -> SmtpConnection:
    """Return a connection, encrypted and logged in as the settings of ``server`` say; else raise Deferred.

    ``timeout`` is in seconds and limits the connecting, each command and the body. ``own_name`` is the
    name for EHLO.
    """
    smtp = SMTP(
        hostname=server.host,
        port=server.port,
        timeout=timeout,
        use_tls=server.tls == "implicit",
        start_tls=False,  # done below, where a missing STARTTLS differs from a failed one
        tls_context=server.context,
        local_hostname=own_name,
    )
    try:
        await smtp.connect()
        await _greet(smtp)
        if server.tls == "starttls":
            await _encrypt(smtp)
        if server.user:
            await smtp.login(server.user, server.password)
        return SmtpConnection(smtp)
    except (SMTPException, OSError, ValueError) as error:
        smtp.close()
        # A 5xx too: the server rejects the connection, it has not seen the mail.
        raise Deferred(_describe(error)) from error
    except BaseException:
        smtp.close()
        raise


async def _encrypt(smtp: SMTP) -> None:
    if not smtp.supports_extension("starttls"):
        raise Deferred("the server offers no STARTTLS, and nothing is sent unencrypted")
    await smtp.starttls()
    await _greet(smtp)


async def send_envelope(connection: SmtpConnection, envelope: Envelope) -> RejectedRecipients:
    """Send the commands up to DATA; returns the recipients that the server rejects.

    Raises Refused or Deferred. If the server then waits for the mail, the connection is closed.
    """
    recipients = tuple(dict.fromkeys(envelope.recipients + envelope.copies))
    sender, *receivers, data = await _send_commands(connection, _commands(connection, envelope, recipients))
    rejected = {
        recipient: reply
        for recipient, reply in zip(recipients, receivers, strict=True)
        if not 200 <= reply.code < 300
    }
    texts = [f"{recipient}: {reply}" for recipient, reply in rejected.items()]
    own = [rejected[each] for each in envelope.recipients if each in rejected]
    error: ChannelError | None = None
    if not 200 <= sender.code < 300:
        error = _error_of(sender)
    elif len(own) == len(envelope.recipients):  # a mail to the copies alone delivers nothing
        text = "; ".join(texts)
        is_permanent = all(reply.code >= 500 for reply in own)
        error = Refused(text) if is_permanent else Deferred(text, of_recipient=True)
    elif data.code != _SEND_DATA:
        error = _error_of(data)
    if error is not None:
        if data.code == _SEND_DATA:
            connection.abort()  # the server waits for a mail that will not come
        raise error
    return RejectedRecipients(
        replies=tuple(f"refused: {each}" for each in texts),
        for_now=tuple(each for each in envelope.recipients if each in rejected and rejected[each].code < 500),
    )


async def _send_commands(connection: SmtpConnection, commands: list[bytes]) -> list[SmtpReply]:
    """Return a reply to each command; a command that an earlier reply makes pointless gets that reply."""
    replies: list[SmtpReply] = []
    pipelined = "pipelining" in connection.extensions
    try:
        if pipelined:
            connection.write(*commands)
        for command in commands:
            if not pipelined:
                if _is_settled(replies, len(commands)):
                    replies.append(replies[-1])
                    continue
                connection.write(command)
            replies.append(await connection.reply())
    except ConnectionLost as error:
        if not any(reply.code == _CLOSING for reply in replies):
            raise Deferred(str(error)) from error
    if closing := next((reply for reply in replies if reply.code == _CLOSING), None):
        raise _error_of(closing)
    return replies


def _is_settled(replies: list[SmtpReply], commands: int) -> bool:
    """Return whether the server accepts nothing, whatever command follows."""
    if not replies:
        return False
    no_recipient = len(replies) == commands - 1 and all(reply.code >= 400 for reply in replies[1:])
    return replies[0].code >= 400 or no_recipient


async def send_data(connection: SmtpConnection, message: bytes) -> str:
    """Send the message and return the server's reply. Raises ChannelError."""
    try:
        connection.write(message.replace(b"\n.", b"\n.."), b".\r\n")
    except ConnectionLost as error:
        raise Deferred(f"{error}, before the message") from error
    try:
        reply = await connection.reply()
    except ConnectionLost as error:
        raise Unknown(f"{error}, after the message was sent") from error
    if 200 <= reply.code < 300:
        return str(reply)
    if 400 <= reply.code < 600:
        raise _error_of(reply)
    raise Unknown(f"the server answered {reply} to the message")


async def reset(connection: SmtpConnection) -> bool:
    """Make the server forget a mail that it rejected; False if the connection can send no other mail."""
    try:
        connection.write(b"RSET\r\n")
        reply = await connection.reply()
    except ConnectionLost:
        return False
    return 200 <= reply.code < 300


async def _greet(smtp: SMTP) -> None:
    try:
        await smtp.ehlo()
    except aiosmtplib.SMTPHeloError:
        await smtp.helo()


def _commands(connection: SmtpConnection, envelope: Envelope, recipients: tuple[str, ...]) -> list[bytes]:
    """Return MAIL, a RCPT for each recipient, and DATA; Refused if the server cannot accept the mail."""
    options = ""
    size = len(envelope.message)
    limit = connection.extensions.get("size")
    if limit is not None:
        if limit.isdecimal() and 0 < int(limit) < size:
            raise Refused(f"the mail has {size} bytes, and the server accepts {limit}")
        options += f" SIZE={size}"
    if envelope.international:
        if "smtputf8" not in connection.extensions:
            raise Refused("an address is not ASCII, and the server does not offer SMTPUTF8")
        options += " SMTPUTF8"
        if "8bitmime" in connection.extensions:
            options += " BODY=8BITMIME"
    lines = [f"MAIL FROM:<{envelope.sender}>{options}", *(f"RCPT TO:<{each}>" for each in recipients), "DATA"]
    if any(not each.isprintable() for each in lines):
        raise Refused("an address has control characters in it")
    return [f"{each}\r\n".encode() for each in lines]


def _error_of(reply: SmtpReply) -> ChannelError:
    return (Refused if 500 <= reply.code < 600 else Deferred)(str(reply))


def _describe(error: Exception) -> str:
    """Return the text of the library, the system or the server on one line."""
    text = f"{error.code} {error.message}" if isinstance(error, SMTPResponseException) else str(error)
    text = " ".join(text.split()).encode("utf-8", "replace").decode()
    return text[:_MAX_DETAIL_LENGTH] or type(error).__name__


class ConnectionLost(Exception):  # noqa: N818 -- a state; the caller decides which error it is
    """The server closed the connection, is silent or does not speak SMTP; the text says which."""


@dataclass(frozen=True, slots=True)
class SmtpReply:
    """The server's reply to one command."""

    code: int
    text: str  # on one line

    def __str__(self) -> str:
        return f"{self.code} {self.text}"[:_MAX_DETAIL_LENGTH]


class SmtpConnection(asyncio.Protocol):
    """A connection to a mail server, greeted and logged in."""

    idle_since = 0.0  # seconds of the loop's clock, while the pool keeps it

    def __init__(self, smtp: SMTP) -> None:
        """Take over the connection of ``smtp``, which must not be used any more."""
        self._loop = asyncio.get_running_loop()
        self._smtp = smtp  # kept: it would close the connection when it is collected
        self._transport = cast(asyncio.Transport, smtp.transport)
        self.extensions = {name.lower(): value for name, value in smtp.esmtp_extensions.items()}
        self._timeout = smtp.timeout
        self._buffer = b""
        self._text: list[str] = []  # of a reply of several lines that is not complete yet
        self._replies: deque[SmtpReply] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._lost = ""
        self._transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        return not self._lost and not self._transport.is_closing()

    @property
    def is_quiet(self) -> bool:
        """True if the server has sent nothing unasked: a connection to keep."""
        return self.is_open and not self._replies and not self._buffer and not self._text

    def write(self, *commands: bytes) -> None:
        """Send ``commands``; each needs a ``reply``. Raises ConnectionLost."""
        if not self.is_open:
            raise ConnectionLost(self._lost or "the server closed the connection")
        self._transport.write(b"".join(commands))

    async def reply(self) -> SmtpReply:
        """Return the next reply, within the time-out. Raises ConnectionLost."""
        if not self._replies:
            await self._wait_for_reply()
        return self._replies.popleft()

    def close(self) -> None:
        """Close the connection after the rest of the buffer is sent."""
        self._lost = self._lost or "closed"
        self._transport.close()

    def quit(self) -> None:
        """Send QUIT without waiting for the reply, which changes nothing, and close."""
        with contextlib.suppress(ConnectionLost):
            self.write(b"QUIT\r\n")
        self.close()

    def abort(self) -> None:
        """Close at once: a server that reads nothing would keep the buffer here for ever."""
        self._lost = self._lost or "closed"
        self._transport.abort()

    async def _wait_for_reply(self) -> None:
        if self._lost:
            raise ConnectionLost(self._lost)
        self._waiter = self._loop.create_future()
        limit = self._loop.call_later(self._timeout or 60.0, self._expire, self._waiter)
        try:
            await self._waiter
        finally:
            limit.cancel()
            self._waiter = None
        if not self._replies:
            raise ConnectionLost(self._lost)

    def _expire(self, waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            self._lost = f"no answer within {self._timeout:g} s"
            waiter.set_result(None)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # asyncio calls these

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while found := _LINE.match(self._buffer):
            self._buffer = self._buffer[found.end() :]
            self._text.append(found[3].decode("utf-8", "replace"))
            if found[2] != b"-":
                self._replies.append(SmtpReply(int(found[1]), " ".join(" ".join(self._text).split())))
                self._text.clear()
                if self._replies[-1].code == _CLOSING:
                    self._lost = self._lost or str(self._replies[-1])
        if b"\n" in self._buffer or len(self._buffer) + sum(map(len, self._text)) > _MAX_REPLY_BYTES:
            line = " ".join(self._buffer[:100].decode("utf-8", "replace").split())
            self._fail(f"the server said {line!r}, which is not a reply")
            self._transport.abort()
        elif self._replies:
            self._wake()

    def eof_received(self) -> bool:
        self._fail("the server closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was lost: {exc}" if exc else "the server closed the connection")

    def _fail(self, reason: str) -> None:
        self._lost = self._lost or reason
        self._wake()


class SmtpPool:
    """The connections to one server; the one used last is used first."""

    def __init__(self, server: SmtpServer, *, timeout: float, keep: int) -> None:
        self.server = server
        self.breaker = CircuitBreaker()
        self._timeout = timeout  # seconds for connecting, for each command and for the body
        self._max_idle = keep
        self._idle: list[SmtpConnection] = []  # the one used last is last
        self._closed = False
        self._reaper: asyncio.TimerHandle | None = None
        self._own_name = ""

    async def send(self, envelope: Envelope) -> str:
        """Send the mail and return the server's reply; raises as ``Channel.send`` does."""
        works = False
        try:
            note = await self._send(envelope)
            works = True
        except (Refused, Deferred) as error:
            works = isinstance(error, Refused) or error.provider_works
            raise
        finally:
            if works:
                self.breaker.record_success()
            else:
                self.breaker.record_failure(time.monotonic())
        return note

    async def _send(self, envelope: Envelope) -> str:
        idle = self._acquire()
        if idle is not None:
            try:
                return await self._send_over(idle, envelope)
            except Deferred as error:
                if idle.is_open or error.remaining:
                    raise
                # The server had closed it in the meantime, and does not have the mail.
        return await self._send_over(await self._connect(), envelope)

    async def close(self) -> None:
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        idle, self._idle = self._idle, []
        await asyncio.gather(*(self._quit(each) for each in idle))

    async def _quit(self, connection: SmtpConnection) -> None:
        try:
            async with asyncio.timeout(min(self._timeout, 2.0)):
                connection.write(b"QUIT\r\n")
                await connection.reply()
        except (ConnectionLost, TimeoutError):
            pass  # every mail on it was acknowledged
        finally:
            connection.close()

    async def _send_over(self, connection: SmtpConnection, envelope: Envelope) -> str:
        keep = False
        try:
            rejected = await send_envelope(connection, envelope)
            note = await send_data(connection, envelope.message)
            keep = True
        except (Refused, Deferred):
            keep = connection.is_open and await reset(connection)
            raise
        finally:
            if keep:
                self._release(connection)
            else:
                connection.abort()
        text = "; ".join([note, *rejected.replies])
        if rejected.for_now:
            raise Deferred(text, remaining=rejected.for_now)
        return text

    async def _connect(self) -> SmtpConnection:
        return await connect(self.server, timeout=self._timeout, own_name=await self._ehlo_name())

    async def _ehlo_name(self) -> str:
        """Return this machine's name for EHLO. The DNS look-up is slow if DNS is broken, so it is limited."""
        if not self._own_name:
            try:
                name = await asyncio.wait_for(asyncio.to_thread(socket.getfqdn), self._timeout)
            except (OSError, UnicodeError):
                name = ""
            usable = "." in name and name.isascii() and name.isprintable() and " " not in name
            self._own_name = name if usable else "[127.0.0.1]"
        return self._own_name

    def _acquire(self) -> SmtpConnection | None:
        """Return the connection that was used last, if it still looks usable."""
        self._reap()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_quiet:
                return connection
            connection.abort()
        return None

    def _release(self, connection: SmtpConnection) -> None:
        if self._closed or not connection.is_quiet or len(self._idle) >= self._max_idle:
            connection.quit()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._reaper is None:
            self._reaper = loop.call_later(_IDLE_LIMIT, self._reap)

    def _reap(self) -> None:
        """Close the connections that were idle for too long, and schedule the next check."""
        loop = asyncio.get_running_loop()
        while self._idle and not (
            self._idle[0].is_quiet and loop.time() - self._idle[0].idle_since < _IDLE_LIMIT
        ):
            self._idle.pop(0).quit()
        if self._reaper is not None:
            self._reaper.cancel()
        next_check = self._idle[0].idle_since + _IDLE_LIMIT if self._idle else None
        self._reaper = None if next_check is None else loop.call_at(next_check, self._reap)
