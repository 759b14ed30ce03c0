"""How long the event loop stands still while a large policy is read, taken over, and the old one is let go.

    python tests/bench/reloading.py [--rules 10000] [--reloads 3] [--json]

A ticker on the loop asks to be woken every millisecond; what it is woken late is the lag. Each reload is
of a policy with one changed file, in the steps of the server's reloader, without a broker.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from check import COUNTRIES

from engine.policy.loader import load_policy
from engine.runtime import free_gradually, freeze_heap, heap_has_grown, run_in_thread
from engine.server.reload import MAX_RULES_TO_COLLECT


def write_policy(folder: Path, rules: int, revision: int) -> None:
    (folder / "templates" / "t").mkdir(parents=True, exist_ok=True)
    (folder / "templates" / "t" / "default.txt").write_text("Hello {{ payload.username }}\n")
    (folder / "channels.yaml").write_text("channels:\n  terminal: {type: console}\n")
    for first in range(0, rules, 100):
        lines = ["rules:"]
        for number in range(first, min(rules, first + 100)):
            lines += [
                f"  - id: rule-{number}",
                "    event: notice.login.abnormal",
                "    template: t",
                "    when:",
                f"      country: {COUNTRIES[number % len(COUNTRIES)]}",
                f"      userid: {{prefix: team{number}-{revision if not first else 0}-}}",
                f"      risk.score: {{gte: {number % 60}, lt: {60 + number % 40}}}",
                f"      reason: {{suffix: x{number % 97}}}",
                "    notify: [terminal]",
            ]
        (folder / f"rules-{first:06}.yaml").write_text("\n".join(lines) + "\n")


async def tick(lags: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        lags.append((time.perf_counter() - began - 0.001) * 1000)


async def measure(folder: Path, rules: int, reloads: int) -> dict[str, Any]:
    lags: dict[str, list[float]] = {"idle": [], "load": [], "settle": [], "dismantle": []}

    async def during(what: str, work: object) -> object:
        ticking = asyncio.create_task(tick(lags[what]))
        await asyncio.sleep(0.05)
        result = await work  # type: ignore[misc]
        await asyncio.sleep(0.05)
        ticking.cancel()
        return result

    async def settled() -> None:
        if heap_has_grown() and rules < MAX_RULES_TO_COLLECT:
            freeze_heap()

    write_policy(folder, rules, 0)
    rulebook = load_policy(folder, warn=False).require()
    freeze_heap()
    await during("idle", asyncio.sleep(2))
    began = time.perf_counter()
    for number in range(1, reloads + 1):
        write_policy(folder, rules, number)
        policy = await during("load", run_in_thread(load_policy, folder, warn=False))
        old, rulebook = rulebook, policy.require()  # type: ignore[attr-defined]
        del policy
        await during("settle", settled())
        box = [old]
        del old
        await during("dismantle", run_in_thread(free_gradually, box))
    gc.unfreeze()
    return {
        "garbage": gc.collect(),
        "rules": len(rulebook.rules),
        "seconds per reload": round((time.perf_counter() - began) / reloads, 1),
        **{
            f"{what}, ms late": {
                "p50": _share(found, 0.5),
                "p99": _share(found, 0.99),
                "at most": _share(found, 1),
            }
            for what, found in lags.items()
        },
    }


def _share(found: list[float], share: float) -> float:
    """What that share of ``found`` does not go beyond."""
    return round(sorted(found)[min(len(found) - 1, int(len(found) * share))], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rules", type=int, default=10_000)
    parser.add_argument("--reloads", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = asyncio.run(measure(Path(temporary), options.rules, options.reloads))
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:>24}  {value}")


if __name__ == "__main__":
    main()
