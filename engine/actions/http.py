"""Handler: send the payload as JSON to a web service, whose JSON object is the reply."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Mapping
from types import SimpleNamespace

import aiohttp

from msc import errors, gojson, wire

from ..channels.http_client import FAILURES, HttpClient, setting_problems
from ..model.errors import PolicyError
from ..model.problems import Problem
from ..model.subjects import token
from ..planning.requests import NOT_BEGUN, OUTCOME_UNKNOWN, ActionRequest, ActionResponse, failed
from ..rules.rulebook import ActionSpec
from . import HandlerResources, unusable

_MAX_RESPONSE_BYTES = 512 * 1024
_UNREACHABLE = "not carried out: the service cannot be reached"
_TOO_LARGE = "the service's answer is too large"
_NO_OBJECT = "the service's answer is not a JSON object"


class HttpHandler:
    """A handler that posts each request to one URL."""

    def __init__(self, spec: ActionSpec, resources: HandlerResources) -> None:
        if found := list(problems(spec)):
            raise PolicyError(found)
        self._headers: Mapping[str, str] = spec.options.get("headers", {})
        self._client = HttpClient(
            spec.options["url"],
            limit=spec.concurrency,
            timeout=aiohttp.ClientTimeout(total=None),  # the deadline of the request limits it
            tls=_context(spec),
        )
        self.close = self._client.close

    async def handle(self, request: ActionRequest, deadline: float) -> ActionResponse:
        try:
            body = wire.encode_payload(request.payload)
        except errors.WireError as error:
            return failed(str(error))
        progress = SimpleNamespace(sent=False)
        headers = {
            "Accept": "application/json",
            "Idempotency-Key": f'"{token(request.reqid)}"',  # the service can detect a repeat by it
            **self._headers,
        }
        try:
            async with (
                asyncio.timeout_at(deadline),
                self._client.post(body, headers, progress) as response,
            ):
                status, data = response.status, await _read(response)
        except TimeoutError:
            return failed(OUTCOME_UNKNOWN if progress.sent else NOT_BEGUN, "the time was up")
        except FAILURES as error:
            detail = f"{type(error).__name__}: {error}"
            return failed(OUTCOME_UNKNOWN if progress.sent else _UNREACHABLE, detail)
        return _judge(status, data)


def _judge(status: int, data: bytes | None) -> ActionResponse:
    if not 200 <= status < 300:
        return failed(f"the service answers HTTP {status}", (data or b"")[:200].decode("utf-8", "replace"))
    if data is None:
        return failed(_TOO_LARGE)
    if not data.strip():
        return ActionResponse()
    try:
        # No field is decoded, the object is only checked: depth, numbers, lone surrogates.
        gojson.load_fields(data, frozenset())
        payload = wire.decode_request(b'{"payload":' + data + b"}").payload
    except errors.WireError as error:
        return failed(_NO_OBJECT, str(error))
    return ActionResponse(payload=payload)


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """Return the whole body, or None if it is too large."""
    data = bytearray()
    async for part in response.content.iter_chunked(64 * 1024):
        data += part
        if len(data) > _MAX_RESPONSE_BYTES:
            return None
    return bytes(data)


open_handler = HttpHandler


def problems(spec: ActionSpec) -> Iterator[Problem]:
    for problem in setting_problems(spec.options):
        yield unusable(spec, problem)
    try:
        _context(spec)
    except OSError as error:
        yield unusable(spec, f"the certificates in {spec.options['ca']} cannot be used: {error}")


def _context(spec: ActionSpec) -> ssl.SSLContext:
    """Return a context that verifies certificates; ``ca`` replaces the authorities of the system."""
    return ssl.create_default_context(cafile=spec.options.get("ca"))
