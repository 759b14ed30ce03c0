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

from . import errors, messages, wire
from .connection import ReconnectingConnection
from .errors import ActionFailed, MscError, NoResponders, NotConfirmed, ReplyInvalid, RequestTimeout
from .messages import ClientMessage, IPLocation, compose, require_key
from .options import BUFFER, DEFAULT_SERVER, TLS, ConnectOptions

log = logging.getLogger(__name__)

PREFIX = "kiam.console"
_FLUSH_LIMIT = 5.0  # seconds that leaving ``async with`` may take
_MAX_PAYLOAD_BYTES = 64 * 1024 * 1024  # bytes that any broker takes in one message
_TRY_AGAIN = 0.25  # seconds between two tries at a stream that a starting broker may not have yet


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
    """A client, to be used with ``async with``, which connects and closes.

    For the ways to log in see ``ConnectOptions``. ``prefix`` begins every subject, ``inbox_prefix``
    those of replies. ``buffer`` is how many bytes of messages may wait while the broker is away,
    ``connect_timeout`` how many seconds to try before ConnectError.
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
        # The bound is kept by the link. At its own, nats-py would wait without limit.
        pending_size=buffer + _MAX_PAYLOAD_BYTES,
    )
    return Client(options, prefix=prefix, buffer=buffer, connect_timeout=connect_timeout)


class Client:
    """A client of MSS. Made by ``connect``; belongs to one event loop."""

    def __init__(self, options: ConnectOptions, *, prefix: str, buffer: int, connect_timeout: float) -> None:
        self._prefix = require_key(prefix, "prefix")
        self._link = ReconnectingConnection(options, connect_timeout=connect_timeout, buffer=buffer)

    async def open(self) -> Self:
        """Connect. Raises ConnectError. ``async with`` does it."""
        await self._link.open()
        return self

    async def close(self, timeout: float = _FLUSH_LIMIT) -> None:
        """Send what waits, within ``timeout`` seconds, and close for good.

        Raises NotConnected, whose ``unsent`` names the reqids, for what could not be sent, and
        PermissionDenied or MessageTooLarge for a message that was refused after its call.
        """
        await self._link.close(timeout)

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
            # The block's own error goes on; this one must not hide it, nor be hidden.
            log.error("%s", lost)  # noqa: TRY400 -- the words say it all
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
        """Announce that something happened; returns the reqid, under which it can be traced.

        ``payload`` is an object that JSON can carry. While the broker is away the message waits in
        the buffer: BufferFull, when that is full, means that it was not taken. With ``confirm`` the
        call returns when a stream has stored the message, waiting up to ``timeout`` seconds, also for
        a broker that is away; NotConfirmed when there is no stream. Doing it again with the same
        ``reqid`` stores nothing twice. Raises also NotConnected, MessageTooLarge, InvalidMessage,
        PermissionDenied (at the next call: the broker tells of it later).
        """
        return await self._announce("notice", key, payload, confirm=confirm, reqid=reqid, timeout=timeout)

    async def audit(
        self,
        key: str,
        payload: Mapping[str, Any] | None,
        *,
        confirm: bool = False,
        reqid: str | None = None,
        timeout: float = 5.0,
    ) -> str:
        """As ``notice``, for what not everybody may read."""
        return await self._announce("audit", key, payload, confirm=confirm, reqid=reqid, timeout=timeout)

    async def log(
        self,
        payload: Mapping[str, Any] | None,
        key: str = "",
        *,
        confirm: bool = False,
        reqid: str | None = None,
        timeout: float = 5.0,
    ) -> str:
        """As ``notice``, for a log record; ``key`` may be left out."""
        return await self._announce("log", key, payload, confirm=confirm, reqid=reqid, timeout=timeout)

    async def request(
        self, key: str, payload: Mapping[str, Any] | None, timeout: float = 60.0
    ) -> dict[str, Any] | None:
        """Have the action ``key`` done, and return what it answers.

        A broker that is away is waited for. Raises ActionFailed (the action says so), NoResponders
        (it did not run), RequestTimeout and ReplyInvalid (it may have run), NotConnected,
        PermissionDenied, MessageTooLarge, InvalidMessage.
        """
        message = compose(self._prefix, "action", key, payload)
        answer = await self._link.request(message, timeout=timeout)
        try:
            reply = wire.decode_reply(answer.data)
        except errors.WireError as error:
            hint = "; a stream covers the subject and answers for it" if _is_ack(answer.data) else ""
            raise ReplyInvalid(f"{message.subject}: {error}{hint}") from error
        if reply.reqid != message.reqid:
            raise ReplyInvalid(f"{message.subject}: the reply is to another request")
        if reply.code != errors.Code.OK:
            raise ActionFailed(reply.code, reply.message, message.reqid)
        return reply.payload

    async def iplocation(self, ipaddr: str, locale: str = "", *, timeout: float = 60.0) -> IPLocation:
        """Where an address is. Raises as ``request`` does."""
        payload = await self.request(messages.IPLOCATION, messages.iplocation(ipaddr, locale), timeout)
        try:
            return IPLocation.from_payload(payload)
        except ValueError as error:
            raise ReplyInvalid(f"{messages.IPLOCATION}: {error}") from error

    async def sendverifyemail(
        self, *, subject: str, userid: str, to: str, href: str, locale: str = "", expire: str = "",
        timeout: float = 60.0,
    ) -> None:  # fmt: skip
        """Have a verification mail sent to ``to``; raises as ``request`` does."""
        payload = messages.sendverifyemail(
            subject=subject, userid=userid, to=to, href=href, locale=locale, expire=expire
        )
        await self.request(messages.SENDVERIFYEMAIL, payload, timeout)

    async def accountaddemail(
        self, *, newemail: str, userid: str, httpurl: str = "", locale: str = "",
        mailto: Sequence[str] | None = None, subject: str = "",
        confirm: bool = False, reqid: str | None = None, timeout: float = 5.0,
    ) -> str:  # fmt: skip
        """Announce, as an audit, that an address was added to an account. Raises as ``notice`` does."""
        payload = messages.accountaddemail(
            newemail=newemail, userid=userid, httpurl=httpurl, locale=locale, mailto=mailto, subject=subject
        )
        return await self.audit(
            messages.ACCOUNTADDEMAIL, payload, confirm=confirm, reqid=reqid, timeout=timeout
        )

    async def _announce(
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
            await self._link.publish(message, timeout=timeout)
        return message.reqid

    async def _confirmed(self, message: ClientMessage, timeout: float) -> None:
        began, headers = time.monotonic(), {"Nats-Msg-Id": message.reqid}
        again = {**headers, wire.RESENT_HEADER: "1"}
        waited = False
        while True:
            left = began + timeout - time.monotonic()
            try:
                answer = await self._link.request(message, timeout=left, headers=headers, again=again)
                break
            except NoResponders:
                # A broker that has just come back may not have its streams yet.
                waited = waited or time.monotonic() - began > _TRY_AGAIN
                if not waited or left <= _TRY_AGAIN:
                    raise NotConfirmed(f"no stream keeps {message.subject}; it is not stored") from None
                await asyncio.sleep(_TRY_AGAIN)
                headers = again  # an earlier copy may have got through
            except RequestTimeout as error:
                raise NotConfirmed(f"{error}; it may be stored") from None
        refused = _refusal(answer.data)
        if refused:
            raise NotConfirmed(f"{message.subject}: {refused}")


def _is_ack(data: bytes) -> bool:
    return _refusal(data) == ""


def _refusal(data: bytes) -> str:
    """Why an answer is not a stream's word that it has stored the message; "" when it is."""
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
    return "the answer is not a stream's"
