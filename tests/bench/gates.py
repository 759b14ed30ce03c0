"""What each gate costs an event on its way from the stream to stored deliveries.

    python tests/bench/pipeline.py --gates [--events 6000] [--json]

One engine a policy, one after the other; the channels are at rest, two deliveries an event, events about
1,000 people in turn. Every event passes, so that each policy leads to the same deliveries: what each gate
remembers is asked for and written all the same. Only a digest lets nothing through: what it costs is to
gather, without deliveries. `all` has every gate but that one.
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
    """A window that is over, or to come, for as long as the benchmark runs."""
    hour = datetime.now(UTC).hour
    return f"{(hour + 11) % 24:02}:00-{(hour + 13) % 24:02}:00"


@dataclass(frozen=True)
class Gate:
    """What a policy says so that events have to pass it."""

    rule: Mapping[str, Any] = field(default_factory=dict)
    sections: Mapping[str, Any] = field(default_factory=dict)  # beside the rules
    of_people: bool = False  # everybody has chosen something


HOURS = {"time_intervals": {"night": {"times": [hours_from_now()]}}}
DEDUPE = {"dedupe": {"key": ["city"], "window": "10m"}}  # no two events have the same
THROTTLE = {"throttle": {"key": ["userid"], "limit": 1000, "per": "1h"}}
BUDGET = {"budget": "1000000/h"}
NIGHT = {"mute_time_intervals": ["night"]}
GATES = {
    WITHOUT: Gate(),
    "preferences": Gate(of_people=True),
    "dedupe": Gate(rule=DEDUPE),
    "throttle": Gate(rule=THROTTLE),
    "digest": Gate(rule={"digest": {"key": ["userid"], "wait": "1h"}}),
    "time windows": Gate(rule=NIGHT, sections=HOURS),
    "budget": Gate(rule=BUDGET),
    ALL: Gate(rule=DEDUPE | THROTTLE | NIGHT | BUDGET, sections=HOURS, of_people=True),
}


async def choose(client: nats.NATS) -> None:
    """Have everybody choose a language, quiet hours and channels."""
    document = {"locale": "en", "quiet_hours": hours_from_now(), "default": list(CONSOLE)}
    bucket = await client.jetstream().key_value("MSS_PREFERENCES")
    for number in range(PEOPLE):
        user = f"u{number}"
        await bucket.put(f"user.{token_of(user)}", encode(user, document))


async def measure(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """Events/s and microseconds of processor time an event, by gate."""
    results: dict[str, dict[str, float]] = {}
    for name, gate in GATES.items():
        policy = {"rule": gate.rule, "sections": gate.sections}
        async with serving(folder / name, CONSOLE, 1, listen=False, **policy) as bench:
            bench.people = PEOPLE
            if gate.of_people:
                await choose(bench.client)
            await bench.plan(
                2 * PEOPLE
            )  # so that everybody is at hand, and nothing is done for the first time
            result = await bench.plan(count)
        without = results.get(WITHOUT, result)
        results[name] = {**result, "more_us": result["engine_us"] - without["engine_us"]}
    return results
