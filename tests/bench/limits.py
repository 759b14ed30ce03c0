"""Measure the cost of each stage of a rule, from the event in the stream to stored deliveries.

    python tests/bench/pipeline.py --limits [--events 6000] [--json]

One server per policy, one after the other. The channels are paused; each event has two deliveries, and the
events are about 1,000 users in turn. Every event passes, so each policy leads to the same deliveries; the
state of each limit is read and written all the same. Only a digest passes nothing: its cost is that of
buffering, without deliveries. `all` has every stage but the digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
from engines import CONSOLE, serving

from engine.preferences.document import encode
from engine.preferences.store import token_of

PEOPLE = 1000
WITHOUT, ALL = "none", "all"


def hours_from_now() -> str:
    """Return a window that is closed for as long as the benchmark runs."""
    hour = datetime.now(UTC).hour
    return f"{(hour + 11) % 24:02}:00-{(hour + 13) % 24:02}:00"


@dataclass(frozen=True)
class Stage:
    """The settings of a policy with one stage."""

    rule: Mapping[str, Any] = field(default_factory=dict)
    sections: Mapping[str, Any] = field(default_factory=dict)  # of the policy, next to its rules
    has_preferences: bool = False  # every user has some


HOURS = {"time_intervals": {"night": {"times": [hours_from_now()]}}}
DEDUPE = {"dedupe": {"key": ["city"], "window": "10m"}}  # no two events have the same
THROTTLE = {"throttle": {"key": ["userid"], "limit": 1000, "per": "1h"}}
BUDGET = {"budget": "1000000/h"}
NIGHT = {"mute_time_intervals": ["night"]}
STAGES = {
    WITHOUT: Stage(),
    "preferences": Stage(has_preferences=True),
    "dedupe": Stage(rule=DEDUPE),
    "throttle": Stage(rule=THROTTLE),
    "digest": Stage(rule={"digest": {"key": ["userid"], "wait": "1h"}}),
    "time windows": Stage(rule=NIGHT, sections=HOURS),
    "budget": Stage(rule=BUDGET),
    ALL: Stage(rule=DEDUPE | THROTTLE | NIGHT | BUDGET, sections=HOURS, has_preferences=True),
}


async def choose(client: nats.NATS) -> None:
    """Store preferences of every user: a language, quiet hours and channels."""
    document = {"locale": "en", "quiet_hours": hours_from_now(), "default": list(CONSOLE)}
    bucket = await client.jetstream().key_value("MSS_PREFERENCES")
    for number in range(PEOPLE):
        user = f"u{number}"
        await bucket.put(f"user.{token_of(user)}", encode(user, document))


async def measure(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """Events/s and microseconds of processor time an event, by stage."""
    results: dict[str, dict[str, float]] = {}
    for name, stage in STAGES.items():
        policy = {"rule": stage.rule, "sections": stage.sections}
        async with serving(folder / name, CONSOLE, 1, listen=False, **policy) as bench:
            bench.people = PEOPLE
            if stage.has_preferences:
                await choose(bench.client)
            await bench.plan(2 * PEOPLE)  # fills the cache of preferences
            result = await bench.plan(count)
        without = results.get(WITHOUT, result)
        results[name] = {**result, "more_us": result["engine_us"] - without["engine_us"]}
    return results
