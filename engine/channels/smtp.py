"""A conversation with a mail server, in two halves.

Whatever goes wrong before the message body starts to go out is definite: the server does not have
the mail. From then on only an error reply is; silence and a dropped line leave it unknown.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from typing import Literal

import aiosmtplib
from aiosmtplib import SMTP, SMTPException, SMTPResponseException

from ..addresses import Mailbox
from ..errors import ChannelError, Deferred, Refused, Unknown
from .conversation import ConnectionLost, SmtpConnection, SmtpReply

Tls = Literal["none", "starttls", "implicit"]

_GO_AHEAD, _CLOSING = 354, 421  # codes of replies
_MAX_DETAIL_LENGTH = 300  # characters of a server's reply that go into a receipt


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
