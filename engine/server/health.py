"""The health of a server: the HTTP endpoints /metrics, /livez and /readyz, and the backlog of events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import nats.errors
from aiohttp import web

from ..broker import Broker
from ..metrics import CONTENT_TYPE, Metrics
from ..model.messages import Kind

log = logging.getLogger(__name__)


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


async def measure_backlog(broker: Broker, kinds: Iterable[Kind], metrics: Metrics, now: int) -> None:
    """Measure the age of the oldest unplanned event of each kind, and warn of one that may be lost.

    Never raises. The stream removes an event after ``retention.archive``, planned or not. ``now`` is in
    microseconds since the epoch.
    """
    limit = broker.topology.archive_age
    for kind in kinds:
        try:
            stored_at = await broker.oldest_unplanned(kind)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            log.warning("backlog of %s events not measured: %s", kind, str(error) or "no answer")
            continue
        age = 0.0 if stored_at is None else max(0.0, now / 1e6 - stored_at)
        metrics.unplanned_age.labels(kind).set(age)
        if age > limit / 2:
            log.warning("unplanned %s event is %.0f s old: it is lost after %.0f s", kind, age, limit)
