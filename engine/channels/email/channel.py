"""Email over SMTP, with spare servers.

The next server is tried only after the one before has definitely not taken the mail.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...model.addresses import Mailbox, parse_mailbox
from ...model.errors import Deferred, Refused
from ...model.messages import Delivery
from ...rules.rulebook import ChannelSpec
from .. import ChannelResources, unusable
from .message import MailMessage, compose, with_prefix
from .smtp import Envelope, SmtpPool, SmtpServer, Tls, is_loopback

_PORTS: dict[Tls, int] = {"implicit": 465, "starttls": 587, "none": 25}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailSettings:
    """The options of a channel of type ``email``."""

    sender: Mailbox
    subject_prefix: str
    reply_to: tuple[Mailbox, ...]
    message_id_domain: str
    mtas: tuple[SmtpServer, ...]


class EmailChannel:
    """Sends each delivery as one mail through the first server that takes it."""

    def __init__(self, settings: EmailSettings, servers: tuple[SmtpPool, ...]) -> None:
        self._settings = settings
        self._servers = servers

    async def send(self, delivery: Delivery) -> str:
        to = _recipients(delivery)
        failures: list[Refused | Deferred] = []
        said: list[str] = []
        for server in self._servers:
            try:
                self._spare(server)
                return f"{server.mta.name}: {await server.send(self._envelope(delivery, to, server.mta))}"
            except (Refused, Deferred) as error:
                if isinstance(error, Deferred) and error.remaining:
                    raise _partly(delivery, server.mta.name, error) from error
                failures.append(error)
                said.append(f"{server.mta.name}: {error}")
        deferred = [failure for failure in failures if isinstance(failure, Deferred)]
        if not deferred:
            raise Refused("; ".join(said))
        raise Deferred("; ".join(said), of_recipient=any(each.of_recipient for each in deferred))

    def _spare(self, server: SmtpPool) -> None:
        """Pass over a server that fails steadily, but for probes: each mail would wait for its time-out."""
        if len(self._servers) > 1 and (wait := server.breaker.wait(time.monotonic())) > 0:
            raise Deferred(f"left alone for {wait:.0f} s, as it fails steadily")

    async def close(self) -> None:
        for server in self._servers:
            await server.close()

    def _envelope(self, delivery: Delivery, to: tuple[Mailbox, ...], mta: SmtpServer) -> Envelope:
        """The mail as ``mta`` gets it: what its settings add is in no other server's mail."""
        sender = self._settings.sender
        letter = MailMessage(
            id=delivery.id,
            domain=self._settings.message_id_domain,
            created=delivery.created,
            sender=sender,
            to=to[0],
            cc=tuple(dict.fromkeys(to[1:] + mta.cc)),
            reply_to=mta.reply_to or self._settings.reply_to,
            subject=with_prefix(self._settings.subject_prefix, delivery.message.title),
            message=delivery.message,
        )
        shown = (sender, *to, *mta.cc, *letter.reply_to)
        return Envelope(
            sender=sender.address,
            recipients=tuple(dict.fromkeys(mailbox.address for mailbox in to)),
            copies=tuple(mailbox.address for mailbox in mta.cc + mta.bcc),
            message=compose(letter),
            international=not all(mailbox.address.isascii() for mailbox in shown + mta.bcc),
        )


def open_channel(spec: ChannelSpec, resources: ChannelResources) -> EmailChannel:
    settings = read_settings(spec)
    servers = tuple(SmtpPool(mta, timeout=spec.timeout, keep=spec.concurrency) for mta in settings.mtas)
    return EmailChannel(settings, servers)


def _recipients(delivery: Delivery) -> tuple[Mailbox, ...]:
    found = []
    for text in delivery.to:
        mailbox = parse_mailbox(text)
        if mailbox is None:
            raise Refused(f"{text!r} is no mail address")
        found.append(mailbox.in_ascii)
    if not found:
        raise Refused("the delivery has no address")
    return tuple(found)


def _partly(delivery: Delivery, server: str, error: Deferred) -> Deferred:
    """Some have the mail: the others come again alone, as the delivery spells them."""
    left = tuple(
        text
        for text in delivery.to
        if (mailbox := parse_mailbox(text)) and mailbox.in_ascii.address in error.remaining
    )
    return Deferred(f"{server}: {error}", remaining=left)


def read_settings(spec: ChannelSpec) -> EmailSettings:
    options = spec.options
    sender = _mailbox(spec, options["from"])
    return EmailSettings(
        sender=sender,
        subject_prefix=options.get("subject_prefix", ""),
        reply_to=_mailboxes(spec, options.get("reply_to")),
        message_id_domain=_domain(spec, options.get("message_id_domain")) or sender.domain,
        mtas=tuple(_mta(spec, each) for each in options["mtas"]),
    )


def _mta(spec: ChannelSpec, options: Mapping[str, Any]) -> SmtpServer:
    """Without ``tls``, what goes with the port; plain text to this machine only, unless it is asked for."""
    given = _port(spec, options)
    host = options["host"].removeprefix("[").removesuffix("]")
    usual: Tls = "none" if is_loopback(host) and not options.get("ca") else "starttls"
    tls: Tls = options.get("tls") or ("implicit" if given == _PORTS["implicit"] else usual)
    if not host.isprintable() or " " in host:
        raise unusable(spec, f"{host!r} is no host name")
    mta = SmtpServer(
        name=options.get("name") or host,
        host=host,
        port=given or _PORTS[tls],
        tls=tls,
        context=None if tls == "none" else _context(spec, options.get("ca")),
        user=options.get("user", ""),
        password=options.get("password", ""),
        cc=_mailboxes(spec, options.get("cc")),
        bcc=_mailboxes(spec, options.get("bcc")),
        reply_to=_mailboxes(spec, options.get("reply_to")),
    )
    if mta.user and mta.tls == "none" and not mta.on_loopback:
        raise unusable(spec, f"mail server {mta.name}: a password is not sent without TLS")
    return mta


def _domain(spec: ChannelSpec, text: str | None) -> str:
    return _mailbox(spec, f"x@{text}").domain if text else ""


def _port(spec: ChannelSpec, options: Mapping[str, Any]) -> int | None:
    if options.get("port") is None:
        return None
    try:
        port = int(options["port"])
    except ValueError:
        port = 0
    if not 0 < port < 65536:
        raise unusable(spec, f"{options['port']!r} is no port")
    return port


def _context(spec: ChannelSpec, ca: str | None) -> ssl.SSLContext:
    """Certificates are verified, host names too; ``ca`` replaces the system's authorities."""
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:  # ssl.SSLError is one
        raise unusable(spec, f"the certificates in {ca} cannot be used: {error}") from error


def _mailboxes(spec: ChannelSpec, given: str | list[str] | None) -> tuple[Mailbox, ...]:
    texts = [given] if isinstance(given, str) else given or []
    return tuple(_mailbox(spec, text) for text in texts)


def _mailbox(spec: ChannelSpec, text: str) -> Mailbox:
    mailbox = parse_mailbox(text)
    if mailbox is None:
        raise unusable(spec, f"{text!r} is no mail address")
    return mailbox.in_ascii
