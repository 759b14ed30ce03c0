"""The asynchronous client: publish notices, audits and logs, and request actions."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import errors, wire
from .connection import ReconnectingConnection
from .errors import ActionFailed, MscError, NoResponders, NotConfirmed, ReplyInvalid, RequestTimeout
from .messages import ClientMessage, IPLocation, compose, require_key
from .options import BUFFER, DEFAULT_SERVER, TLS, ConnectOptions

log = logging.getLogger(__name__)

PREFIX = "kiam.console"
_FLUSH_LIMIT = 5.0  # seconds to send buffered messages at the end
_MAX_PAYLOAD_BYTES = 64 * 1024 * 1024  # bytes: the highest max_payload of a broker
_RETRY_WAIT = 0.25  # seconds; a broker that just started may not have its streams yet


def connect(
    servers: str | Sequence[str] = DEFAULT_SERVER,
    *,
    prefix: str = PREFIX,
    user: str | None = None,
    password: str | None = None,
    token: str | None = None,
    nkey: str | Path | None = None,
    credentials: str | Path | None = None,
    tls: TLS | Mapping[str, Any] | ssl.SSLContext | bool | None = None,
    name: str | None = None,
    inbox_prefix: str = "_INBOX",
    buffer: int = BUFFER,
    connect_timeout: float = 10.0,
) -> Client:
    """Return a client. Use it with ``async with``, which connects and closes it.

    See ``ConnectOptions`` for the ways to log in. Every subject starts with ``prefix``, the subjects of
    replies with ``inbox_prefix``. ``buffer`` is the maximum size in bytes of the messages that wait during a
    broker outage. After ``connect_timeout`` seconds without a connection, ConnectError is raised.
    """
    options = ConnectOptions(
        servers=servers,
        name=name,
        user=user,
        password=password,
        token=token,
        nkey=nkey,
        credentials=credentials,
        tls=tls,
        inbox_prefix=inbox_prefix,
        # Our outbox has the limit. At the limit of nats-py, a call would wait without end.
        pending_size=buffer + _MAX_PAYLOAD_BYTES,
    )
    return Client(options, prefix=prefix, buffer=buffer, connect_timeout=connect_timeout)


class Client:
    """A client of MSS for one event loop. ``connect`` creates it."""

    def __init__(self, options: ConnectOptions, *, prefix: str, buffer: int, connect_timeout: float) -> None:
        self._prefix = require_key(prefix, "prefix")
        self._connection = ReconnectingConnection(options, connect_timeout=connect_timeout, buffer=buffer)

    async def open(self) -> Self:
        """Connect. ``async with`` does so too. Raises ConnectError."""
        await self._connection.open()
        return self

    async def close(self, timeout: float = _FLUSH_LIMIT) -> None:
        """Send the buffered messages within ``timeout`` seconds, and close.

        Raises NotConnected if messages could not be sent; ``unsent`` has their reqids. Raises
        PermissionDenied or MessageTooLarge for a message that was refused after its call.
        """
        await self._connection.close(timeout)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except MscError as lost:
            if error is None:
                raise
            # The error of the block must not be hidden by this one. Neither is lost.
            log.error("%s", lost)  # noqa: TRY400 -- the message says it all
            error.add_note(str(lost))

    def __await__(self) -> Generator[Any, None, Self]:
        return self.open().__await__()

    async def notice(
        self,
        key: str,
        payload: Mapping[str, Any] | None,
        *,
        confirm: bool = False,
        reqid: str | None = None,
        timeout: float = 5.0,
    ) -> str:
        """Publish a notice, and return its reqid, by which it can be traced.

        ``payload`` is a JSON object. During a broker outage, the message waits in the buffer. If the buffer
        is full, BufferFull is raised, and the message was not accepted. With ``confirm``, the call returns
        when a stream has stored the message. It waits up to ``timeout`` seconds, also for the broker. Raises
        NotConfirmed if no stream has stored the message; a repeat with the same ``reqid`` is safe. Also
        raises NotConnected, MessageTooLarge, InvalidMessage and PermissionDenied. The last comes at the next
        call, because the broker reports it late.
        """
        return await self._publish("notice", key, payload, confirm=confirm, reqid=reqid, timeout=timeout)

    async def audit(
        self,
        key: str,
        payload: Mapping[str, Any] | None,
        *,
        confirm: bool = False,
        reqid: str | None = None,
        timeout: float = 5.0,
    ) -> str:
        """Publish an audit, which fewer users may read. See ``notice``."""
        return await self._publish("audit", key, payload, confirm=confirm, reqid=reqid, timeout=timeout)

    async def log(
        self,
        payload: Mapping[str, Any] | None,
        key: str = "",
        *,
        confirm: bool = False,
        reqid: str | None = None,
        timeout: float = 5.0,
    ) -> str:
        """Publish a log record. ``key`` is optional. See ``notice``."""
        return await self._publish("log", key, payload, confirm=confirm, reqid=reqid, timeout=timeout)

    async def request(
        self, key: str, payload: Mapping[str, Any] | None, timeout: float = 60.0
    ) -> dict[str, Any] | None:
        """Request the action ``key``, and return the payload of its reply.

        Waits up to ``timeout`` seconds, also for the broker. Raises ActionFailed if the action failed,
        NoResponders if it did not run, and RequestTimeout or ReplyInvalid if it may have run. Also raises
        NotConnected, PermissionDenied, MessageTooLarge and InvalidMessage.
        """
        message = compose(self._prefix, "action", key, payload)
        answer = await self._connection.request(message, timeout=timeout)
        try:
            reply = wire.decode_reply(answer.data)
        except errors.WireError as error:
            hint = "; a stream has this subject, and answered instead" if _is_ack(answer.data) else ""
            raise ReplyInvalid(f"{message.subject}: {error}{hint}") from error
        if reply.reqid != message.reqid:
            raise ReplyInvalid(f"{message.subject}: the reply is to another request")
        if reply.code != errors.Code.OK:
            raise ActionFailed(reply.code, reply.message, message.reqid)
        return reply.payload

    async def iplocation(self, ipaddr: str, locale: str = "", *, timeout: float = 60.0) -> IPLocation:
        """Return the location of an IP address. Raises the errors of ``request``.

        ``locale`` is the language of names, for example ``zh-CN``; they are English by default.
        """
        payload = await self.request("iplocation", {"ipaddr": ipaddr, "locale": locale}, timeout)
        try:
            return IPLocation.from_payload(payload)
        except ValueError as error:
            raise ReplyInvalid(f"iplocation: {error}") from error

    async def sendverifyemail(
        self, *, subject: str, userid: str, to: str, href: str, locale: str = "", expire: str = "",
        timeout: float = 60.0,
    ) -> None:  # fmt: skip
        """Request a verification mail to ``to``. Raises the errors of ``request``.

        ``expire`` is a text such as "24 hours".
        """
        payload = {
            "subject": subject, "userid": userid, "to": to, "href": href, "locale": locale, "expire": expire,
        }  # fmt: skip
        await self.request("sendverifyemail", payload, timeout)

    async def accountaddemail(
        self, *, newemail: str, userid: str, httpurl: str = "", locale: str = "",
        mailto: Sequence[str] | None = None, subject: str = "",
        confirm: bool = False, reqid: str | None = None, timeout: float = 5.0,
    ) -> str:  # fmt: skip
        """Publish an audit: ``newemail`` was added to an account. Raises the errors of ``notice``.

        ``mailto`` are the addresses to notify.
        """
        if isinstance(mailto, str):
            raise TypeError("mailto is a list of addresses, not one")
        payload = {
            "newemail": newemail, "userid": userid, "httpurl": httpurl, "locale": locale,
            "mailto": None if mailto is None else list(mailto), "subject": subject,
        }  # fmt: skip
        return await self.audit("accountaddemail", payload, confirm=confirm, reqid=reqid, timeout=timeout)

    async def _publish(
        self,
        kind: str,
        key: str,
        payload: Mapping[str, Any] | None,
        *,
        confirm: bool,
        reqid: str | None,
        timeout: float,
    ) -> str:
        message = compose(self._prefix, kind, key, payload, reqid)
        if confirm:
            await self._confirmed(message, timeout)
        else:
            await self._connection.publish(message, timeout=timeout)
        return message.reqid

    async def _confirmed(self, message: ClientMessage, timeout: float) -> None:
        began, headers = time.monotonic(), {"Nats-Msg-Id": message.reqid}
        resend_headers = {**headers, wire.RESENT_HEADER: "1"}
        waited = False
        while True:
            left = began + timeout - time.monotonic()
            try:
                answer = await self._connection.request(
                    message, timeout=left, headers=headers, resend_headers=resend_headers
                )
                break
            except NoResponders:
                # A broker that just started may not have its streams yet.
                waited = waited or time.monotonic() - began > _RETRY_WAIT
                if not waited or left <= _RETRY_WAIT:
                    raise NotConfirmed(
                        f"no stream stores {message.subject}; the message is not stored"
                    ) from None
                await asyncio.sleep(_RETRY_WAIT)
                headers = resend_headers  # the stream may have an earlier copy
            except RequestTimeout as error:
                raise NotConfirmed(f"{error}; it may be stored") from None
        refused = _refusal(answer.data)
        if refused:
            raise NotConfirmed(f"{message.subject}: {refused}")


def _is_ack(data: bytes) -> bool:
    return _refusal(data) == ""


def _refusal(data: bytes) -> str:
    """Return why an answer is not the acknowledgement of a stream; "" if it is one."""
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        return str(answer["error"].get("description") or "the stream refused it")
    if (
        isinstance(answer, dict)
        and isinstance(answer.get("stream"), str)
        and isinstance(answer.get("seq"), int)
    ):
        return ""
    return "the answer is not from a stream"
