"""A real broker, catchers, and engines that run beside the test."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest
from support.external_services import StartEngine, World
from support.locations import ROOT
from support.processes import Engine, write_config

from engine.broker.embedded import embedded_broker
from engine.cli.demo import Caught, sms_catcher, smtp_catcher


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    caught = Caught()
    async with (
        embedded_broker(tmp_path / "nats") as address,
        smtp_catcher(caught) as smtp,
        sms_catcher(caught) as sms,
    ):
        client = await nats.connect(address)
        yield World(
            address=address,
            client=client,
            caught=caught,
            environment={
                "SMTP_HOST": "127.0.0.1",
                "SMTP_PORT": str(smtp),
                "SMS_GATEWAY": f"127.0.0.1:{sms}",
            },
        )
        await client.close()


@pytest.fixture
async def start_engine(world: World, tmp_path: Path) -> AsyncIterator[StartEngine]:
    engines: list[Engine] = []

    async def start(rules: Path = ROOT / "rules", **settings: Any) -> Engine:
        config = write_config(tmp_path, world.address, rules, **settings)
        engine = Engine(config=config, environment=world.environment)
        engines.append(engine)
        await engine.start()
        return engine

    yield start
    for engine in engines:
        with contextlib.suppress(ProcessLookupError):
            await engine.end(signal.SIGKILL)
