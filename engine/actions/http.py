"""Handler: send the payload as JSON to a web service, whose JSON object is the reply."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from msc import errors, gojson, wire

from ..model.errors import PolicyError
from ..model.problems import Problem
from ..model.subjects import token
from ..rules.rulebook import ActionSpec
from . import NOT_BEGUN, OUTCOME_UNKNOWN, ActionRequest, ActionResponse, HandlerResources, failed, unusable

_MAX_ANSWER = 512 * 1024  # bytes
_UNREACHABLE = "not carried out: the service cannot be reached"
_TOO_LARGE = "the service's answer is too large"
_NO_OBJECT = "the service's answer is no JSON object"
_NOT_HELD = (aiohttp.ClientError, OSError, ValueError)


class HttpHandler:
    """Posts each request to one address."""

    def __init__(self, spec: ActionSpec) -> None:
        self._spec = spec
        self._url: str = spec.options["url"]
        self._headers: Mapping[str, str] = spec.options.get("headers", {})
        self._context = _context(spec)
        self._session: aiohttp.ClientSession | None = None

    async def handle(self, request: ActionRequest, deadline: float) -> ActionResponse:
        try:
            body = wire.encode_payload(request.payload)
        except errors.WireError as error:
            return failed(str(error))
        progress = SimpleNamespace(sent=False)
        # It says which request this is, so that the service can tell a repeat.
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Idempotency-Key": f'"{token(request.reqid)}"',
            **self._headers,
        }
        try:
            async with (
                asyncio.timeout_at(deadline),
                self._opened().post(
                    self._url, data=body, headers=headers, allow_redirects=False, trace_request_ctx=progress
                ) as response,
            ):
                status, data = response.status, await _read(response)
        except TimeoutError:
            return failed(OUTCOME_UNKNOWN if progress.sent else NOT_BEGUN, "the time was up")
        except _NOT_HELD as error:
            detail = f"{type(error).__name__}: {error}"
            return failed(OUTCOME_UNKNOWN if progress.sent else _UNREACHABLE, detail)
        return _judge(status, data)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(_note_sent)
            trace.on_request_chunk_sent.append(_note_sent)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._spec.concurrency, ssl=self._context),
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "mss"},
                auto_decompress=False,  # a small answer must not become a large one
                trace_configs=[trace],
            )
        return self._session


def _judge(status: int, data: bytes | None) -> ActionResponse:
    if not 200 <= status < 300:
        return failed(f"the service answers HTTP {status}", (data or b"")[:200].decode("utf-8", "replace"))
    if data is None:
        return failed(_TOO_LARGE)
    if not data.strip():
        return ActionResponse()
    try:
        # The names are of no field, so the object is only checked: depth, numbers, halves of characters.
        gojson.load_fields(data, frozenset())
        payload = wire.decode_request(b'{"payload":' + data + b"}").payload
    except errors.WireError as error:
        return failed(_NO_OBJECT, str(error))
    return ActionResponse(payload=payload)


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The whole body, or None when it is larger than it may be."""
    data = bytearray()
    async for part in response.content.iter_chunked(64 * 1024):
        data += part
        if len(data) > _MAX_ANSWER:
            return None
    return bytes(data)


def open_handler(spec: ActionSpec, resources: HandlerResources) -> HttpHandler:
    found = list(problems(spec))
    if found:
        raise PolicyError(found)
    return HttpHandler(spec)


def problems(spec: ActionSpec) -> Iterator[Problem]:
    try:
        parts = urlsplit(spec.options["url"])
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        yield unusable(spec, "url is no http or https address")
    for name, value in spec.options.get("headers", {}).items():
        if not value.isprintable():
            yield unusable(spec, f"the header {name} is not text on one line")
    try:
        _context(spec)
    except OSError as error:
        yield unusable(spec, f"the certificates in {spec.options['ca']} cannot be used: {error}")


def _context(spec: ActionSpec) -> ssl.SSLContext:
    """Certificates are verified, host names too; ``ca`` replaces the system's authorities."""
    ca: Any = spec.options.get("ca")
    return ssl.create_default_context(cafile=ca)


async def _note_sent(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
    """From here on the other side may have the request."""
    context.trace_request_ctx.sent = True
