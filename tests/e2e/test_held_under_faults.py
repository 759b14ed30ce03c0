"""A held message survives kills: it is sent once, and not before its time.

Windows end at whole minutes, so this takes up to one: with MSS_SOAK=1.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import nats
import pytest
from contract.channels.sides import World
from support.in_process_server import ask
from support.load_generator import SOAK
from support.processes import Engine, NatsServer, client_options, unfinished, write_config
from support.waiting import until
from support.wire_messages import envelope

_MINUTE = 60
_EARLIEST = 15  # seconds from now that the window lasts at least: both kills have to lie in it

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(not SOAK, reason="it waits for the next minute to begin"),
]


def window(end: float) -> str:
    """Return the window of the ten minutes before ``end``, in UTC."""
    return "-".join(f"{datetime.fromtimestamp(at, UTC):%H:%M}" for at in (end - 10 * _MINUTE, end))


async def test_muted_and_quiet_messages_survive_kills_of_engine_and_broker(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        sides = World(stack)
        muted, quiet = await sides.web(), await sides.web()
        broker = NatsServer(tmp_path / "nats")
        await broker.start()
        stack.push_async_callback(broker.kill)
        end = (time.time() + _EARLIEST) // _MINUTE * _MINUTE + _MINUTE
        hooks = {"muted": muted, "quiet": quiet}
        policy = {
            "channels": {
                name: {"type": "webhook", "url": f"http://127.0.0.1:{hook.port}/"}
                for name, hook in hooks.items()
            },
            "time_intervals": {"now": [{"times": [window(end)], "time_zone": "UTC"}]},
            "actions": {"preferences.set": {"handler": "preferences.set"}},
            "rules": [
                {
                    "id": "muted", "event": "notice.tips.new", "notify": ["muted"],
                    "mute_time_intervals": ["now"], "on_muted": "defer",
                },
                {"id": "quiet", "event": "notice.tips.new", "notify": ["quiet"], "to": {"user": "userid"}},
            ],
        }  # fmt: skip
        (tmp_path / "rules").mkdir()
        (tmp_path / "rules" / "policy.yaml").write_text(json.dumps(policy))
        config = write_config(tmp_path, broker.address, tmp_path / "rules")
        engine = Engine(config=config, environment={})
        stack.push_async_callback(engine.end, signal.SIGKILL)
        await engine.start()
        client = await nats.connect(**client_options(broker))  # type: ignore[arg-type]
        stack.push_async_callback(client.close)
        js = client.jetstream()

        async def stored(stream: str) -> int:
            return await unfinished(js, stream)

        chosen = {"quiet_hours": window(end), "time_zone": "UTC"}
        reply = await ask(client, "preferences.set", {"userid": "u1", "preferences": chosen})
        assert reply["code"] == 0, reply
        await client.publish("kiam.console.notice.tips.new", envelope({"userid": "u1"}))

        async def both_wait() -> bool:
            return await stored("MSS_TIMER") == 2 and not await stored("MSS_NOTICE")

        await until(both_wait, what="two held messages")
        await asyncio.gather(engine.end(signal.SIGKILL), broker.kill())
        await broker.start()
        await engine.start()
        await engine.end(signal.SIGKILL)
        await engine.start()
        assert time.time() < end, "the machine is too slow for this test"
        assert not muted.requests and not quiet.requests

        async def nothing_waits() -> bool:
            return not any([await stored(name) for name in ("MSS_TIMER", "MSS_DELIVERY")])

        await asyncio.sleep(end - time.time())
        await until(nothing_waits, what="both messages sent")
        for hook in (muted, quiet):
            ((headers, _),) = hook.requests
            assert int(headers["webhook-timestamp"]) >= end
