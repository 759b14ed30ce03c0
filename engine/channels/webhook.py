"""Send the event as JSON over HTTP POST, signed as Standard Webhooks specifies."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from asyncio import timeout
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from urllib.parse import urlsplit

import aiohttp

from ..model.errors import Deferred, Refused, Unknown
from ..model.messages import Delivery
from ..rules.rulebook import ChannelSpec
from . import ChannelResources, event_json, unusable

_MAX_RESPONSE_BYTES = 1024  # bytes of a response, for its words
_NOT_YET = (408, 425, 429)  # of 4xx, those that ask for another try
_MAX_RETRY_AFTER = 86400.0  # seconds; a Retry-After beyond it is a mistake


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """The options of a channel of type ``webhook``."""

    url: str = field(repr=False)  # may carry a token
    key: bytes = field(repr=False)  # of the signature; b"" signs nothing
    headers: Mapping[str, str] = field(repr=False)


class WebhookChannel:
    """Posts each delivery to one address."""

    def __init__(self, settings: WebhookSettings, *, timeout: float, concurrency: int) -> None:
        self._settings = settings
        self._timeout = timeout
        self._concurrency = concurrency
        self._session: aiohttp.ClientSession | None = None

    async def send(self, delivery: Delivery) -> str:
        body = event_json(delivery)
        progress = SimpleNamespace(sent=False)
        try:
            async with self._opened().post(
                self._settings.url,
                data=body,
                headers=self._headers(delivery, body),
                allow_redirects=False,
                trace_request_ctx=progress,
            ) as response:
                return await self._judge(response)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            words = f"{type(error).__name__}: {error}".rstrip(": ")
            if progress.sent:
                raise Unknown(f"{words}, after the request had gone out") from error
            raise Deferred(words) from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _judge(self, response: aiohttp.ClientResponse) -> str:
        """The note of a success; else raises what the status stands for."""
        status = response.status
        if 200 <= status < 300:
            return f"HTTP {status}"
        words = f"HTTP {status} {await self._response_text(response)}".rstrip()
        if 300 <= status < 400:
            raise Refused(f"{words} (a redirect, which is not followed)")
        if status >= 500 or status in _NOT_YET:
            raise Deferred(words, retry_after=_retry_after(response.headers.get("Retry-After")))
        raise Refused(words)

    async def _response_text(self, response: aiohttp.ClientResponse) -> str:
        """The start of the response, on one line; the library hangs up on whoever has more to say."""
        got = b""
        try:
            async with timeout(self._timeout):
                while len(got) < _MAX_RESPONSE_BYTES and (
                    part := await response.content.read(_MAX_RESPONSE_BYTES)
                ):
                    got += part
        except (aiohttp.ClientError, TimeoutError, OSError):
            pass  # the status is known, and decides
        return " ".join(got[:_MAX_RESPONSE_BYTES].decode("utf-8", "replace").split())

    def _headers(self, delivery: Delivery, body: bytes) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            **self._settings.headers,
        }
        now = str(int(time.time()))  # of this attempt: receivers refuse what is old
        headers["webhook-id"] = delivery.id
        headers["webhook-timestamp"] = now
        if self._settings.key:
            headers["webhook-signature"] = sign(self._settings.key, delivery.id, now, body)
        return headers

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(_note_sent)
            trace.on_request_chunk_sent.append(_note_sent)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._concurrency),
                timeout=aiohttp.ClientTimeout(
                    total=3 * self._timeout,
                    connect=self._timeout,
                    sock_connect=self._timeout,
                    sock_read=self._timeout,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "mss"},
                auto_decompress=False,  # a small response must not become a large one
                trace_configs=[trace],
            )
        return self._session


def open_channel(spec: ChannelSpec, resources: ChannelResources) -> WebhookChannel:
    return WebhookChannel(read_settings(spec), timeout=spec.timeout, concurrency=spec.concurrency)


def read_settings(spec: ChannelSpec) -> WebhookSettings:
    url = spec.options["url"]
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise unusable(spec, "url is no http or https address")
    headers = dict(spec.options.get("headers", {}))
    for name, value in headers.items():
        if not value.isprintable():
            raise unusable(spec, f"the header {name} is not text on one line")
    return WebhookSettings(url=url, key=_key(spec.options.get("secret", "")), headers=headers)


def sign(key: bytes, id_: str, timestamp: str, body: bytes) -> str:
    """The ``webhook-signature`` of a request."""
    digest = hmac.new(key, f"{id_}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def _key(secret: str) -> bytes:
    """The bytes that ``secret`` stands for: Base64 after ``whsec_``, else the text itself."""
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            pass
    return secret.encode()


def _retry_after(value: str | None) -> float | None:
    """Seconds, from either form of the header."""
    if not value:
        return None
    try:
        seconds = (
            float(value)
            if value.isascii() and value.isdecimal()
            else parsedate_to_datetime(value).timestamp() - time.time()
        )
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)


async def _note_sent(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
    """From here on the other side may have the request."""
    context.trace_request_ctx.sent = True
