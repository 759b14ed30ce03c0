"""What a scrape shows of a server at work: deliveries in flight, circuit breakers, lag, waits for a rate."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from contract.channels.sides import World as Sides
from support.external_services import World
from support.in_process_server import serving
from support.processes import free_port
from support.waiting import until
from support.wire_messages import envelope, login

from engine.server.health import health_pages
from engine.server.server import Server

NOTICE = "kiam.console.notice.login.abnormal"


@pytest.fixture
async def sides() -> AsyncIterator[Sides]:
    async with AsyncExitStack() as stack:
        yield Sides(stack)


def write_policy(folder: Path, port: int) -> Path:
    channel: dict[str, Any] = {
        "type": "apprise",
        "url": f"json://127.0.0.1:{port}/",
        "retry": {"attempts": 100, "first": "50ms", "max": "50ms"},
        "rate": "200/s",
    }
    rule = {"id": "r", "event": "notice.login.abnormal", "template": "t", "notify": ["hook"]}
    (folder / "templates" / "t").mkdir(parents=True)
    (folder / "templates" / "t" / "default.txt").write_text("words")
    (folder / "policy.yaml").write_text(json.dumps({"channels": {"hook": channel}, "rules": [rule]}))
    return folder


def breaker(server: Server, state: str) -> bool:
    return bool(server.metrics.value("mss_channel_circuit_breaker_state", channel="hook", state=state))


async def test_a_failing_channel_shows_its_circuit_breaker_and_what_is_in_flight(
    world: World, sides: Sides, tmp_path: Path
) -> None:
    provider = await sides.web(status=503)
    async with serving(world.address, {}, rules=write_policy(tmp_path, provider.port)) as server:

        def in_flight() -> float:
            return server.metrics.value("mss_deliveries_in_flight", channel="hook")

        assert breaker(server, "closed") and in_flight() == 0
        await world.client.publish(NOTICE, envelope(login(1)))
        await until(lambda: breaker(server, "open"), what="the open circuit breaker")
        await until(lambda: in_flight() == 1, what="a delivery that waits for the circuit breaker")
        assert not breaker(server, "closed")
        provider.status = 200
        await until(lambda: breaker(server, "closed") and in_flight() == 0, what="the closed circuit breaker")
        assert server.metrics.value("mss_channel_rate_limiter_wait_seconds_count", channel="hook") >= 6


async def test_a_scrape_asks_the_broker_for_the_lag_and_not_at_every_scrape(
    world: World, sides: Sides, tmp_path: Path
) -> None:
    provider, port = await sides.web(), free_port()
    async with (
        serving(world.address, {}, rules=write_policy(tmp_path, provider.port)) as server,
        health_pages(f"127.0.0.1:{port}", server.metrics, server.ready, server.measure_lag) as address,
        ClientSession() as session,
    ):

        async def page() -> str:
            async with session.get(f"{address}/metrics") as answer:
                return await answer.text()

        questions = await world.client.subscribe("$JS.API.CONSUMER.INFO.MSS_NOTICE.mss-planner")
        await world.client.flush()
        for text in (*await asyncio.gather(page(), page()), await page()):
            for stream, consumer in (
                ("MSS_NOTICE", "mss-planner"),
                ("MSS_TIMER", "mss-due-digest"),
                ("MSS_DELIVERY", "mss-channel-hook"),
            ):
                sample = f'mss_consumer_pending_messages{{consumer="{consumer}",stream="{stream}"}} 0.0'
                assert sample in text
        await world.client.flush()
        assert questions.pending_msgs == 1
