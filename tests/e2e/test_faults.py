"""Faults under load: nothing is lost, and only deliveries with an unknown result are sent twice."""

from __future__ import annotations

import asyncio
import itertools
import signal
from pathlib import Path
from typing import Any

import pytest
from contract.channels.sides import DROP, SILENT
from support.load_generator import COUNT, SOAK, load
from support.waiting import until

pytestmark = pytest.mark.timeout(900 if SOAK else 120)


async def test_a_killed_engine_loses_nothing(tmp_path: Path) -> None:
    async with load(tmp_path) as run:
        publishing = asyncio.create_task(run.publish())
        for _ in range(20 if SOAK else 3):
            await asyncio.sleep(run.random.uniform(0.05, 0.5))
            await run.engine.end(signal.SIGKILL)
            await run.engine.start()
        await publishing
        await run.wait_until_delivered()
        await run.verdict()


async def test_a_broker_that_is_killed(tmp_path: Path) -> None:
    async with load(tmp_path) as run:
        publishing = asyncio.create_task(run.publish())
        for _ in range(5 if SOAK else 2):
            await asyncio.sleep(run.random.uniform(0.2, 0.6))
            await run.broker.kill()
            await run.broker.start()
        await publishing
        await run.wait_until_delivered()
        await run.verdict()


async def test_engine_and_broker_killed_together_lose_nothing(tmp_path: Path) -> None:
    """The broker loses its last delivery counts, and no replica is left that knows them."""
    async with load(tmp_path) as run:
        publishing = asyncio.create_task(run.publish())
        for _ in range(5 if SOAK else 1):
            await asyncio.sleep(run.random.uniform(0.3, 0.6))
            await asyncio.gather(run.broker.kill(), run.engine.end(signal.SIGKILL))
            await run.broker.start()
            await run.engine.start()
        await publishing
        await run.wait_until_delivered()
        await run.verdict()


async def test_a_long_outage_of_the_broker_loses_nothing(tmp_path: Path) -> None:
    async with load(tmp_path) as run:
        publishing = asyncio.create_task(run.publish())
        await asyncio.sleep(0.3)
        await run.broker.kill()
        await asyncio.sleep(30 if SOAK else 2)
        await run.broker.start()
        await publishing
        await run.wait_until_delivered()
        await run.verdict()


def sometimes(behaviour: str, every: int) -> Any:
    """Return ``behaviour`` for each ``every``-th command, and the usual reply for the others."""
    count = itertools.count(1)
    return lambda _command: behaviour if next(count) % every == 0 else ""


@pytest.mark.parametrize(
    ("stage", "behaviour", "again"),
    [
        ("greeting", "421 too many", False),
        ("MAIL", SILENT, False),
        ("RCPT", "451 later", False),
        ("body", "451 later", True),  # the sink keeps what it turns away
        ("body", DROP, True),
        ("body", SILENT, True),
        ("QUIT", DROP, False),
    ],
)
async def test_a_faulty_mail_server_loses_nothing(
    tmp_path: Path, stage: str, behaviour: str, again: bool
) -> None:
    answers = {stage: sometimes(behaviour, 10)}
    async with load(tmp_path, smtp=answers) as run:
        await run.publish(COUNT // 2)
        await run.wait_until_delivered()
        if behaviour.startswith("451") and stage == "body":
            # Turned away after the body: the sink has it twice, the recipient once.
            refused = COUNT // 2 // 10
            assert sum(run.mails.values()) >= COUNT // 2 + refused
            return
        await run.verdict()
        assert (max(run.mails.values()) > 1) == again


async def test_an_outage_of_the_mail_server_loses_nothing(tmp_path: Path) -> None:
    # As many as may be under way at once have begun before the first of them fails.
    async with load(tmp_path, smtp={"greeting": "554 no service"}, concurrency=COUNT // 10) as run:
        await run.publish()
        await until(lambda: len(run.hooks) == COUNT, what="the other channel is not held up")
        assert run.smtp.bodies == []
        assert run.smtp.connections < COUNT / 4  # the circuit breaker is open, and probes it now and then
        run.smtp.answers.clear()
        await run.wait_until_delivered()
        await run.verdict()


async def test_a_full_disk_of_the_broker_loses_nothing(tmp_path: Path) -> None:
    """Stored events are delivered when there is room again; the publisher gets an error for the others."""
    small = "jetstream {{ max_file_store: {} }}"
    async with load(tmp_path, broker_config=small.format("2MB"), smtp={"greeting": "554 not now"}) as run:
        publishing = asyncio.create_task(run.publish(filler=60_000))
        await until(lambda: run.refusals, what="the disk is full")
        await run.broker.kill(signal.SIGTERM)
        run.broker.config = small.format("1GB")
        run.smtp.answers.clear()
        await run.broker.start()
        await publishing
        await run.wait_until_delivered()
        await run.verdict()
