"""Send the event as JSON over HTTP POST, signed as Standard Webhooks specifies."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from types import SimpleNamespace

import aiohttp

from ..model.errors import Deferred, Refused, Unknown
from ..model.messages import Delivery
from ..rules.rulebook import ChannelSpec
from . import ChannelResources, event_json, unusable
from .http_client import FAILURES, HttpClient, setting_problems

_MAX_RESPONSE_BYTES = 1024  # of a response that go into a receipt
_RETRYABLE = (408, 425, 429)  # the 4xx that ask for another try
_MAX_RETRY_AFTER = 86400.0  # seconds; a Retry-After beyond it is a mistake


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """The options of a channel of type ``webhook``."""

    url: str = field(repr=False)  # may carry a token
    key: bytes = field(repr=False)  # of the signature; b"" signs nothing
    headers: Mapping[str, str] = field(repr=False)


class WebhookChannel:
    """A channel that posts each delivery to one URL."""

    def __init__(self, spec: ChannelSpec, resources: ChannelResources) -> None:
        self._settings = read_settings(spec)
        self._timeout = timeout = spec.timeout
        limits = aiohttp.ClientTimeout(
            total=3 * timeout, connect=timeout, sock_connect=timeout, sock_read=timeout
        )
        self._client = HttpClient(self._settings.url, limit=spec.concurrency, timeout=limits)
        self.close = self._client.close

    async def send(self, delivery: Delivery) -> str:
        body = event_json(delivery)
        progress = SimpleNamespace(sent=False)
        try:
            async with self._client.post(body, self._headers(delivery, body), progress) as response:
                return await self._judge(response)
        except FAILURES as error:
            detail = f"{type(error).__name__}: {error}".rstrip(": ")
            if progress.sent:
                raise Unknown(f"{detail}, after the request was sent") from error
            raise Deferred(detail) from error

    async def _judge(self, response: aiohttp.ClientResponse) -> str:
        """Return the note of a success; raise the error that the status stands for."""
        status = response.status
        if 200 <= status < 300:
            return f"HTTP {status}"
        detail = f"HTTP {status} {await self._response_text(response)}".rstrip()
        if 300 <= status < 400:
            raise Refused(f"{detail} (a redirect, which is not followed)")
        if status >= 500 or status in _RETRYABLE:
            raise Deferred(detail, retry_after=_retry_after(response.headers.get("Retry-After")))
        raise Refused(detail)

    async def _response_text(self, response: aiohttp.ClientResponse) -> str:
        """Return the start of the response on one line; the client closes the connection if more follows."""
        data = b""
        try:
            async with asyncio.timeout(self._timeout):
                while len(data) < _MAX_RESPONSE_BYTES and (
                    part := await response.content.read(_MAX_RESPONSE_BYTES)
                ):
                    data += part
        except (aiohttp.ClientError, OSError):
            pass  # the status is known, and decides
        return " ".join(data[:_MAX_RESPONSE_BYTES].decode("utf-8", "replace").split())

    def _headers(self, delivery: Delivery, body: bytes) -> dict[str, str]:
        now = str(int(time.time()))  # of this attempt: receivers refuse an old request
        headers = {**self._settings.headers, "webhook-id": delivery.id, "webhook-timestamp": now}
        if self._settings.key:
            headers["webhook-signature"] = sign(self._settings.key, delivery.id, now, body)
        return headers


open_channel = WebhookChannel


def read_settings(spec: ChannelSpec) -> WebhookSettings:
    options = spec.options
    for problem in setting_problems(options):
        raise unusable(spec, problem)
    key = _key(options.get("secret", ""))
    return WebhookSettings(url=options["url"], key=key, headers=options.get("headers", {}))


def sign(key: bytes, id_: str, timestamp: str, body: bytes) -> str:
    """Return the ``webhook-signature`` of a request."""
    digest = hmac.new(key, f"{id_}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def _key(secret: str) -> bytes:
    """Return the bytes of ``secret``: decoded Base64 after ``whsec_``, else the text itself."""
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            pass
    return secret.encode()


def _retry_after(value: str | None) -> float | None:
    """Return the seconds of either form of the header, None if it has neither."""
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
