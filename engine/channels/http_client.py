"""The HTTP client of webhook channels and ``http`` actions: neither follows a redirect nor keeps a cookie."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import aiohttp

FAILURES = (aiohttp.ClientError, OSError, ValueError)  # of a request; TimeoutError is an OSError


def setting_problems(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the options ``url`` and ``headers``."""
    try:
        parts = urlsplit(options["url"])
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        yield "url is not an http or https address"
    for name, value in options.get("headers", {}).items():
        if not value.isprintable():
            yield f"the header {name} is not text on one line"


class HttpClient:
    """Posts to one URL over connections that are kept."""

    def __init__(
        self, url: str, *, limit: int, timeout: aiohttp.ClientTimeout, tls: ssl.SSLContext | bool = True
    ) -> None:
        """``limit`` is the number of connections."""
        self._url = url
        self._limit, self._timeout, self._tls = limit, timeout, tls
        self._session: aiohttp.ClientSession | None = None

    def post(self, body: bytes, headers: Mapping[str, str], progress: SimpleNamespace) -> Any:
        """Return the request, to be used with ``async with``.

        ``progress.sent`` becomes True once the other side may have the request. Raises FAILURES.
        """
        # A client that is dropped before its first request has nothing to close.
        self._session = self._session or self._open()
        return self._session.post(
            self._url, data=body, headers=headers, allow_redirects=False, trace_request_ctx=progress
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_sent)
        trace.on_request_chunk_sent.append(_note_sent)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._limit, ssl=self._tls),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "mss", "Content-Type": "application/json", "Accept-Encoding": "identity"},
            auto_decompress=False,  # a small response must not become a large one
            trace_configs=[trace],
        )


async def _note_sent(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
    context.trace_request_ctx.sent = True
