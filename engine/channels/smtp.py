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

Tls = Literal["none", "starttls", "implicit"]

_LONGEST_WORDS = 300  # characters of a server's reply that go into a receipt


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by its very name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mta:
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
class Turned:
    """The recipients that a server did not take while it took others."""

    words: tuple[str, ...]  # the server's, for each
    for_now: tuple[str, ...]  # of the delivery's own addresses, those it may take later


async def open_session(mta: Mta, *, timeout: float, own_name: str) -> SMTP:
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
    except (SMTPException, OSError, ValueError) as error:
        smtp.close()
        # Even a 5xx: the server turns us away, it has not seen the mail.
        raise Deferred(_described(error)) from error
    except BaseException:
        smtp.close()
        raise
    return smtp


async def _encrypt(smtp: SMTP) -> None:
    if not smtp.supports_extension("starttls"):
        raise Deferred("the server offers no STARTTLS, and nothing is sent in the clear")
    await smtp.starttls()
    await _greet(smtp)


async def offer(smtp: SMTP, envelope: Envelope) -> Turned:
    """Everything up to the server's "go ahead"; returns the recipients it does not take."""
    options, encoding = _mail_options(smtp, envelope)
    refused: dict[str, SMTPResponseException] = {}
    try:
        await smtp.mail(envelope.sender, options=options, encoding=encoding)
        for recipient in dict.fromkeys(envelope.recipients + envelope.copies):
            try:
                await smtp.rcpt(recipient, encoding=encoding)
            except aiosmtplib.SMTPRecipientRefused as error:
                if not smtp.is_connected:  # 421: it takes nobody any more
                    raise
                refused[recipient] = error
        words = [f"{recipient}: {_said(error)}" for recipient, error in refused.items()]
        if all(recipient in refused for recipient in envelope.recipients):
            # A copy for the archive alone is no delivery.
            codes = [refused[recipient].code for recipient in envelope.recipients]
            if min(codes) >= 500:
                raise Refused("; ".join(words))
            raise Deferred("; ".join(words), of_recipient=True)
        reply = await smtp.execute_command(b"DATA")
        if reply.code != 354:
            raise aiosmtplib.SMTPDataError(reply.code, reply.message)
    except SMTPResponseException as error:
        raise _judged(error) from error
    except (SMTPException, OSError, ValueError) as error:
        smtp.close()
        raise Deferred(_described(error)) from error
    return Turned(
        words=tuple(f"refused: {each}" for each in words),
        for_now=tuple(each for each in envelope.recipients if each in refused and refused[each].code < 500),
    )


async def hand_over(smtp: SMTP, message: bytes) -> str:
    """The message itself, and what the server says to it."""
    protocol = smtp.protocol
    if protocol is None:
        raise Deferred("the server closed the connection before the message")
    try:
        # The library's own data() joins this to the DATA command, whose silence is harmless.
        protocol.write(message.replace(b"\n.", b"\n..") + b".\r\n")
        reply = await protocol.read_response(timeout=smtp.timeout)
    except (SMTPException, OSError) as error:
        raise Unknown(f"{_described(error)}, after the message had gone out") from error
    if 200 <= reply.code < 300:
        return _said(reply)
    if 400 <= reply.code < 600:
        raise _judged(reply)
    raise Unknown(f"the server answered {_said(reply)} to the message")


async def reset(smtp: SMTP) -> bool:
    """Forget the mail that was not taken; whether the connection can serve another one."""
    if not smtp.is_connected:
        return False
    try:
        await smtp.rset()
    except (SMTPException, OSError):
        return False
    return True


async def _greet(smtp: SMTP) -> None:
    try:
        await smtp.ehlo()
    except aiosmtplib.SMTPHeloError:
        await smtp.helo()


def _mail_options(smtp: SMTP, envelope: Envelope) -> tuple[list[str], str]:
    """What MAIL FROM says of the mail, and how addresses are encoded; Refused where it cannot be."""
    options = []
    if smtp.supports_extension("size"):
        limit = smtp.esmtp_extensions["size"]
        size = len(envelope.message)
        if limit.isdecimal() and 0 < int(limit) < size:
            raise Refused(f"the mail has {size} bytes, and the server takes {limit}")
        options.append(f"SIZE={size}")
    if not envelope.international:
        return options, "ascii"
    if not smtp.supports_extension("smtputf8"):
        raise Refused("an address is not ASCII, and the server does not offer SMTPUTF8")
    options.append("SMTPUTF8")
    if smtp.supports_extension("8bitmime"):
        options.append("BODY=8BITMIME")
    return options, "utf-8"


def _judged(reply: SMTPResponseException | aiosmtplib.SMTPResponse) -> ChannelError:
    return (Refused if 500 <= reply.code < 600 else Deferred)(_said(reply))


def _said(reply: SMTPResponseException | aiosmtplib.SMTPResponse) -> str:
    """A reply's code and words on one line."""
    words = " ".join(reply.message.split()).encode("utf-8", "replace").decode()
    return f"{reply.code} {words}"[:_LONGEST_WORDS]


def _described(error: Exception) -> str:
    """What happened, in the words of the library or the system."""
    if isinstance(error, SMTPResponseException):
        return _said(error)
    return " ".join(str(error).split())[:_LONGEST_WORDS] or type(error).__name__
