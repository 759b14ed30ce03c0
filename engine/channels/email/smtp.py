"""SMTP: connections that are kept for the next mail, commands in a pipeline, and the outcome of each step.

An error before the message body starts is definite: the server does not have the mail. After that only an
error reply is definite; silence or a lost connection leaves the outcome unknown.

The library connects, encrypts and logs in. It waits for each reply before the next command, which would
limit how many mails a process can send. So after the login the protocol here takes the connection over.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
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

_GO_AHEAD, _CLOSING = 354, 421  # codes of replies
_MAX_DETAIL_LENGTH = 300  # characters of a server's reply that go into a receipt

_MAX_REPLY_BYTES = 64 * 1024  # bytes; what sends more is no mail server
_LINE = re.compile(rb"([2-5][0-9]{2})([ -]?)([^\r\n]*)\r?\n")

_IDLE_LIMIT = 30.0  # seconds a connection is kept without a mail; servers wait longer than that


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by its very name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


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

    @property
    def on_loopback(self) -> bool:
        """Whether nobody else can listen on the way to it."""
        return is_loopback(self.host)


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What a server is asked to take."""

    sender: str
    recipients: tuple[str, ...]  # the delivery's own addresses
    copies: tuple[str, ...] = ()  # those that the server's settings add
    message: bytes
    international: bool = False  # some address is not ASCII: the server must offer SMTPUTF8


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedRecipients:
    """The recipients that a server did not take while it took others."""

    words: tuple[str, ...]  # the server's, for each
    for_now: tuple[str, ...]  # of the delivery's own addresses, those it may take later


async def connect(mta: SmtpServer, *, timeout: float, own_name: str) -> SmtpConnection:
    """A connection that is encrypted and logged in as the settings want it; else Deferred.

    ``timeout`` is in seconds and limits connecting, each command and the body; ``own_name`` is what
    EHLO says.
    """
    smtp = SMTP(
        hostname=mta.host,
        port=mta.port,
        timeout=timeout,
        use_tls=mta.tls == "implicit",
        start_tls=False,  # done below, where its absence can be told from its failure
        tls_context=mta.context,
        local_hostname=own_name,
    )
    try:
        await smtp.connect()
        await _greet(smtp)
        if mta.tls == "starttls":
            await _encrypt(smtp)
        if mta.user:
            await smtp.login(mta.user, mta.password)
        return SmtpConnection(smtp)
    except (SMTPException, OSError, ValueError) as error:
        smtp.close()
        # Even a 5xx: the server turns us away, it has not seen the mail.
        raise Deferred(_described(error)) from error
    except BaseException:
        smtp.close()
        raise


async def _encrypt(smtp: SMTP) -> None:
    if not smtp.supports_extension("starttls"):
        raise Deferred("the server offers no STARTTLS, and nothing is sent in the clear")
    await smtp.starttls()
    await _greet(smtp)


async def send_envelope(line: SmtpConnection, envelope: Envelope) -> RejectedRecipients:
    """Everything up to the server's "go ahead"; returns the recipients it does not take.

    Raises Refused or Deferred. Where the server goes ahead all the same, the line is no good any more.
    """
    recipients = tuple(dict.fromkeys(envelope.recipients + envelope.copies))
    sender, *receivers, data = await _ask(line, _commands(line, envelope, recipients))
    if not 200 <= sender.code < 300:
        raise _unwanted(line, data, _judged(sender))
    refused = {
        recipient: reply
        for recipient, reply in zip(recipients, receivers, strict=True)
        if not 200 <= reply.code < 300
    }
    words = [f"{recipient}: {_reply_text(reply)}" for recipient, reply in refused.items()]
    if all(recipient in refused for recipient in envelope.recipients):
        # A copy for the archive alone is no delivery.
        if min(refused[recipient].code for recipient in envelope.recipients) >= 500:
            raise _unwanted(line, data, Refused("; ".join(words)))
        raise _unwanted(line, data, Deferred("; ".join(words), of_recipient=True))
    if data.code != _GO_AHEAD:
        raise _judged(data)
    return RejectedRecipients(
        words=tuple(f"refused: {each}" for each in words),
        for_now=tuple(each for each in envelope.recipients if each in refused and refused[each].code < 500),
    )


async def _ask(line: SmtpConnection, commands: list[bytes]) -> list[SmtpReply]:
    """A reply to each command; commands that an earlier reply makes pointless share that reply."""
    replies: list[SmtpReply] = []
    together = "pipelining" in line.extensions
    try:
        if together:
            line.write(*commands)
        for command in commands:
            if not together and _is_settled(replies, len(commands)):
                replies.append(replies[-1])
                continue
            if not together:
                line.write(command)
            replies.append(await line.reply())
    except ConnectionLost as error:
        line.abort()
        raise _closing_error(replies) or Deferred(str(error)) from error
    if closing := _closing_error(replies):
        line.abort()
        raise closing
    return replies


def _is_settled(replies: list[SmtpReply], commands: int) -> bool:
    """Whether the server takes nothing, whatever else it is told."""
    if not replies:
        return False
    nobody = len(replies) == commands - 1 and all(reply.code >= 400 for reply in replies[1:])
    return replies[0].code >= 400 or replies[-1].code == _CLOSING or nobody


def _closing_error(replies: list[SmtpReply]) -> ChannelError | None:
    return next((_judged(reply) for reply in replies if reply.code == _CLOSING), None)


def _unwanted(line: SmtpConnection, data: SmtpReply, error: ChannelError) -> ChannelError:
    """``error``, the line closed if the server waits for a mail that is not to come."""
    if data.code == _GO_AHEAD:
        line.abort()
    return error


async def send_data(line: SmtpConnection, message: bytes) -> str:
    """The message itself, and what the server says to it."""
    try:
        line.write(message.replace(b"\n.", b"\n.."), b".\r\n")
    except ConnectionLost as error:
        raise Deferred(f"{error}, before the message") from error
    try:
        reply = await line.reply()
    except ConnectionLost as error:
        line.abort()
        raise Unknown(f"{error}, after the message had gone out") from error
    if 200 <= reply.code < 300:
        return _reply_text(reply)
    if reply.code == _CLOSING:
        line.abort()
    if 400 <= reply.code < 600:
        raise _judged(reply)
    raise Unknown(f"the server answered {_reply_text(reply)} to the message")


async def reset(line: SmtpConnection) -> bool:
    """Forget the mail that was not taken; whether the line can serve another one."""
    try:
        line.write(b"RSET\r\n")
        reply = await line.reply()
    except ConnectionLost:
        return False
    return 200 <= reply.code < 300


async def _greet(smtp: SMTP) -> None:
    try:
        await smtp.ehlo()
    except aiosmtplib.SMTPHeloError:
        await smtp.helo()


def _commands(line: SmtpConnection, envelope: Envelope, recipients: tuple[str, ...]) -> list[bytes]:
    """MAIL, a RCPT for each recipient, DATA; Refused where the server could not take the mail."""
    options = ""
    size = len(envelope.message)
    limit = line.extensions.get("size")
    if limit is not None:
        if limit.isdecimal() and 0 < int(limit) < size:
            raise Refused(f"the mail has {size} bytes, and the server takes {limit}")
        options += f" SIZE={size}"
    if envelope.international:
        if "smtputf8" not in line.extensions:
            raise Refused("an address is not ASCII, and the server does not offer SMTPUTF8")
        options += " SMTPUTF8"
        if "8bitmime" in line.extensions:
            options += " BODY=8BITMIME"
    lines = [f"MAIL FROM:<{envelope.sender}>{options}", *(f"RCPT TO:<{each}>" for each in recipients), "DATA"]
    if any(not each.isprintable() for each in lines):
        raise Refused("an address has control characters in it")
    return [f"{each}\r\n".encode() for each in lines]


def _judged(reply: SmtpReply) -> ChannelError:
    return (Refused if 500 <= reply.code < 600 else Deferred)(_reply_text(reply))


def _reply_text(reply: SmtpReply | SMTPResponseException) -> str:
    """A reply's code and words on one line."""
    text = reply.text if isinstance(reply, SmtpReply) else reply.message
    words = " ".join(text.split()).encode("utf-8", "replace").decode()
    return f"{reply.code} {words}"[:_MAX_DETAIL_LENGTH]


def _described(error: Exception) -> str:
    """What happened, in the words of the library or the system."""
    if isinstance(error, SMTPResponseException):
        return _reply_text(error)
    return " ".join(str(error).split())[:_MAX_DETAIL_LENGTH] or type(error).__name__


class ConnectionLost(Exception):  # noqa: N818 -- what happened, for the caller to judge
    """The server hung up, fell silent or talks nonsense; the text says which."""


@dataclass(frozen=True, slots=True)
class SmtpReply:
    """What the server says to one command."""

    code: int
    text: str  # on one line

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


class SmtpConnection(asyncio.Protocol):
    """An open line to a mail server, greeted and logged in."""

    def __init__(self, smtp: SMTP) -> None:
        """Take over the connection of ``smtp``, which is not to be used any more."""
        self._loop = asyncio.get_running_loop()
        self._smtp = smtp  # kept: it would close the connection when it is collected
        self._transport = cast(asyncio.Transport, smtp.transport)
        self.extensions = {name.lower(): value for name, value in smtp.esmtp_extensions.items()}
        self._timeout = smtp.timeout
        self._buffer = b""
        self._text: list[str] = []  # of a reply of several lines that is not whole yet
        self._replies: deque[SmtpReply] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._lost = ""
        self._transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        return not self._lost and not self._transport.is_closing()

    @property
    def is_quiet(self) -> bool:
        """Whether the server has said nothing that nobody asked for: a line to keep."""
        return self.is_open and not self._replies and not self._buffer and not self._text

    def write(self, *commands: bytes) -> None:
        """Send ``commands``; each needs a ``reply``. Raises LineLost."""
        if not self.is_open:
            raise ConnectionLost(self._lost or "the server closed the connection")
        self._transport.write(b"".join(commands))

    async def reply(self) -> SmtpReply:
        """The next reply, within the time-out. Raises LineLost."""
        if not self._replies:
            await self._arrival()
        return self._replies.popleft()

    def close(self) -> None:
        """Hang up; what the transport has not sent yet may still go."""
        self._lost = self._lost or "closed"
        self._transport.close()

    def abort(self) -> None:
        """Hang up at once: a server that reads nothing would keep the rest of a message here for ever."""
        self._lost = self._lost or "closed"
        self._transport.abort()

    async def _arrival(self) -> None:
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
        if b"\n" in self._buffer or len(self._buffer) + sum(map(len, self._text)) > _MAX_REPLY_BYTES:
            said = " ".join(self._buffer[:100].decode("utf-8", "replace").split())
            self._fail(f"the server said {said!r}, which is no reply")
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


@dataclass(frozen=True, slots=True)
class _IdleConnection:
    line: SmtpConnection
    since: float  # the loop's clock, seconds


class SmtpPool:
    """The connections to one MTA; the one used last is used first."""

    def __init__(self, mta: SmtpServer, *, timeout: float, keep: int) -> None:
        self.mta = mta
        self.breaker = CircuitBreaker()
        self._timeout = timeout  # seconds for connecting, for each command and for the body
        self._keep_at_most = keep
        self._kept: list[_IdleConnection] = []
        self._closed = False
        self._reaper: asyncio.TimerHandle | None = None
        self._own_name = ""

    async def send(self, envelope: Envelope) -> str:
        """Hand the mail over and return the server's words; raises as ``Channel.send`` does."""
        works = False
        try:
            words = await self._send(envelope)
            works = True
        except Refused:
            works = True
            raise
        except Deferred as error:
            works = error.provider_works
            raise
        finally:
            if works:
                self.breaker.record_success()
            else:
                self.breaker.record_failure(time.monotonic())
        return words

    async def _send(self, envelope: Envelope) -> str:
        kept = self._acquire()
        if kept is not None:
            try:
                return await self._send_over(kept, envelope)
            except Deferred as error:
                if kept.is_open or error.remaining:
                    raise
                # The server had closed it meanwhile, and does not have the mail.
        return await self._send_over(await self._connect(), envelope)

    async def close(self) -> None:
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        kept, self._kept = self._kept, []
        await asyncio.gather(*(self._quit(each.line) for each in kept))

    async def _quit(self, line: SmtpConnection) -> None:
        try:
            async with asyncio.timeout(min(self._timeout, 2.0)):
                line.write(b"QUIT\r\n")
                await line.reply()
        except (ConnectionLost, TimeoutError):
            pass  # every mail on it has been acknowledged
        finally:
            line.close()

    async def _send_over(self, line: SmtpConnection, envelope: Envelope) -> str:
        keep = False
        try:
            turned = await send_envelope(line, envelope)
            note = await send_data(line, envelope.message)
            keep = True
        except (Refused, Deferred):
            keep = line.is_open and await reset(line)
            raise
        finally:
            if keep:
                self._release(line)
            else:
                line.abort()
        words = "; ".join([note, *turned.words])
        if turned.for_now:
            raise Deferred(words, remaining=turned.for_now)
        return words

    async def _connect(self) -> SmtpConnection:
        return await connect(self.mta, timeout=self._timeout, own_name=await self._introduction())

    async def _introduction(self) -> str:
        """This machine's name for EHLO; asking DNS for it takes long where DNS is broken."""
        if not self._own_name:
            try:
                name = await asyncio.wait_for(asyncio.to_thread(socket.getfqdn), self._timeout)
            except (OSError, UnicodeError):
                name = ""
            usable = "." in name and name.isascii() and name.isprintable() and " " not in name
            self._own_name = name if usable else "[127.0.0.1]"
        return self._own_name

    def _acquire(self) -> SmtpConnection | None:
        """The connection that was used last, if it is still good as far as can be seen."""
        self._reap()
        while self._kept:
            line = self._kept.pop().line
            if line.is_quiet:
                return line
            line.abort()
        return None

    def _release(self, line: SmtpConnection) -> None:
        if self._closed or not line.is_quiet or len(self._kept) >= self._keep_at_most:
            _quit_without_reply(line)
            return
        loop = asyncio.get_running_loop()
        self._kept.append(_IdleConnection(line, loop.time()))
        if self._reaper is None:
            self._reaper = loop.call_later(_IDLE_LIMIT, self._reap)

    def _reap(self) -> None:
        """Hang up what has been idle for too long, and come back for the rest."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._kept and (now - self._kept[0].since >= _IDLE_LIMIT or not self._kept[0].line.is_quiet):
            _quit_without_reply(self._kept.pop(0).line)
        if self._reaper is not None:
            self._reaper.cancel()
        oldest = self._kept[0].since if self._kept else None
        self._reaper = None if oldest is None else loop.call_at(oldest + _IDLE_LIMIT, self._reap)


def _quit_without_reply(line: SmtpConnection) -> None:
    """Say QUIT without waiting for the answer, which changes nothing."""
    with contextlib.suppress(ConnectionLost):
        line.write(b"QUIT\r\n")
    line.close()
