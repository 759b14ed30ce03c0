"""The HTTP endpoints of a server: /metrics, /livez, /readyz."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from ..metrics import CONTENT_TYPE, Metrics


@asynccontextmanager
async def health_pages(
    listen: str, metrics: Metrics, ready: asyncio.Event, measure: Callable[[], Awaitable[None]]
) -> AsyncIterator[str]:
    """Serve ``/metrics``, ``/livez`` and ``/readyz`` on ``host:port``, and yield the address.

    ``measure`` runs before each response to ``/metrics``, for the values that only the broker knows.
    ``/readyz`` responds 503 while no events are consumed. Raises OSError if the address is in use.
    """

    async def show_metrics(_: web.Request) -> web.Response:
        await measure()
        return web.Response(body=metrics.page(), headers={"Content-Type": CONTENT_TYPE})

    async def show_liveness(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def show_readiness(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if ready.is_set() else web.Response(text="not ready\n", status=503)

    app = web.Application()
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/livez", show_liveness)
    app.router.add_get("/readyz", show_readiness)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        host, _, port = listen.rpartition(":")
        await web.TCPSite(runner, host.strip("[]") or None, int(port)).start()
        yield f"http://{listen}"
    finally:
        await runner.cleanup()
