"""Email over SMTP, with spare servers.

The next server is tried only if the previous one has definitely not accepted the mail.
"""

from __future__ import annotations

import ipaddress
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
from .smtp import Envelope, SmtpPool, SmtpServer, Tls

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
    """A channel that sends each delivery as one mail over the first server that accepts it."""

    def __init__(self, spec: ChannelSpec, resources: ChannelResources) -> None:
        self._settings = read_settings(spec)
        self._pools = [
            SmtpPool(server, timeout=spec.timeout, keep=spec.concurrency) for server in self._settings.mtas
        ]

    async def send(self, delivery: Delivery) -> str:
        to = _recipients(delivery)
        deferred: list[Deferred] = []
        failures: list[str] = []
        for pool in self._pools:
            name = pool.server.name
            try:
                self._check_breaker(pool)
                return f"{name}: {await pool.send(self._envelope(delivery, to, pool.server))}"
            except Refused as error:
                failures.append(f"{name}: {error}")
            except Deferred as error:
                if error.remaining:
                    remaining = _remaining(delivery, error)
                    raise Deferred(f"{name}: {error}", remaining=remaining) from error
                deferred.append(error)
                failures.append(f"{name}: {error}")
        if not deferred:
            raise Refused("; ".join(failures))
        raise Deferred("; ".join(failures), of_recipient=any(each.of_recipient for each in deferred))

    def _check_breaker(self, pool: SmtpPool) -> None:
        """Skip a server that keeps failing, except for probes: each mail would wait for its time-out."""
        if len(self._pools) > 1 and (wait := pool.breaker.wait(time.monotonic())) > 0:
            raise Deferred(f"skipped for {wait:.0f} s, because it keeps failing")

    async def close(self) -> None:
        for pool in self._pools:
            await pool.close()

    def _envelope(self, delivery: Delivery, to: tuple[Mailbox, ...], server: SmtpServer) -> Envelope:
        """Return the mail for ``server``: the addresses of its settings are in no other server's mail."""
        sender = self._settings.sender
        mail = MailMessage(
            id=delivery.id,
            domain=self._settings.message_id_domain,
            created=delivery.created,
            sender=sender,
            to=to[0],
            cc=tuple(dict.fromkeys(to[1:] + server.cc)),
            reply_to=server.reply_to or self._settings.reply_to,
            subject=with_prefix(self._settings.subject_prefix, delivery.message.title),
            message=delivery.message,
        )
        return Envelope(
            sender=sender.address,
            recipients=tuple(dict.fromkeys(mailbox.address for mailbox in to)),
            copies=tuple(mailbox.address for mailbox in server.cc + server.bcc),
            message=compose(mail),
            international=not all(
                mailbox.address.isascii()
                for mailbox in (sender, *to, *server.cc, *server.bcc, *mail.reply_to)
            ),
        )


open_channel = EmailChannel


def _recipients(delivery: Delivery) -> tuple[Mailbox, ...]:
    found = []
    for text in delivery.to:
        mailbox = parse_mailbox(text)
        if mailbox is None:
            raise Refused(f"{text!r} is not a mail address")
        found.append(mailbox.in_ascii)
    if not found:
        raise Refused("the delivery has no address")
    return tuple(found)


def _remaining(delivery: Delivery, error: Deferred) -> tuple[str, ...]:
    """Return the addresses without the mail, as the delivery writes them."""
    return tuple(
        text
        for text in delivery.to
        if (mailbox := parse_mailbox(text)) and mailbox.in_ascii.address in error.remaining
    )


def read_settings(spec: ChannelSpec) -> EmailSettings:
    options = spec.options
    sender = _mailbox(spec, options["from"])
    return EmailSettings(
        sender=sender,
        subject_prefix=options.get("subject_prefix", ""),
        reply_to=_mailboxes(spec, options.get("reply_to")),
        message_id_domain=_domain(spec, options.get("message_id_domain")) or sender.domain,
        mtas=tuple(_server(spec, each) for each in options["mtas"]),
    )


def _server(spec: ChannelSpec, options: Mapping[str, Any]) -> SmtpServer:
    """Read the settings of a server.

    Without ``tls``, the port decides. Unencrypted mail goes to this machine only, unless ``tls: none`` says
    otherwise.
    """
    given = _port(spec, options)
    host = options["host"].removeprefix("[").removesuffix("]")
    local = _is_loopback(host)
    default: Tls = "none" if local and not options.get("ca") else "starttls"
    tls: Tls = options.get("tls") or ("implicit" if given == _PORTS["implicit"] else default)
    if not host.isprintable() or " " in host:
        raise unusable(spec, f"{host!r} is not a host name")
    server = SmtpServer(
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
    if server.user and server.tls == "none" and not local:
        raise unusable(spec, f"mail server {server.name}: a password is not sent without TLS")
    return server


def _is_loopback(host: str) -> bool:
    """Return whether ``host`` is the name or an address of this machine: no one can listen in between."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


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
        raise unusable(spec, f"{options['port']!r} is not a port")
    return port


def _context(spec: ChannelSpec, ca: str | None) -> ssl.SSLContext:
    """Return a context that verifies certificates; ``ca`` replaces the authorities of the system."""
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
        raise unusable(spec, f"{text!r} is not a mail address")
    return mailbox.in_ascii
