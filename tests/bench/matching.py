"""What finding the rules of an event costs, for ten rules and for a hundred thousand.

    python tests/bench/matching.py [--rules 10,100,1000,10000,100000] [--mode full|broad] [--json]
    python tests/bench/matching.py --load 10000

Side by side, in one process and on one core: the index; the same rules read one after the other
(plain); and the rules of a remembered trie of subjects, read one after the other (trie). Plain and
trie are measured on as many events as a few seconds allow, and everything found is compared. The
passes of the three take turns, throughput is by the processor's clock and is the best pass, and the
time of one event is the least of its passes: other programs on the machine hurt less so. Ratios are
what to compare between machines. ``--load`` measures instead how long a policy of so many rules takes
from YAML to a rulebook.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import resource
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

import msgspec  # noqa: E402
from workload import BenchRule, Workload  # noqa: E402 -- found beside this file

from engine.policy.loader import load_policy  # noqa: E402
from engine.rules.index.rule_index import RuleIndex  # noqa: E402
from engine.rules.index.subject_trie import SubjectIndex  # noqa: E402
from engine.runtime import freeze_heap  # noqa: E402

Event = tuple[str, dict[str, Any]]
Match = Callable[[str, dict[str, Any]], Sequence[BenchRule]]

PASSES = 5
PLAIN_TESTS, TRIE_TESTS = 400_000, 2_000_000  # rules read in one pass, by which events are sampled
COLUMNS = {
    "rules": "rules", "index_per_s": "index/s", "parsed_per_s": "+parse/s", "trie_per_s": "trie/s", "plain_per_s": "plain/s",
    "over_plain": "x plain", "over_trie": "x trie", "p50_us": "p50 us", "p99_us": "p99 us", "build_us": "build us/rule",
    "bytes": "bytes/rule", "matches": "matches", "candidates": "looked at", "differences": "wrong",
}  # fmt: skip


def measure(size: int, mode: str, count: int) -> dict[str, Any]:
    """One row of the table."""
    work = Workload(size, mode=mode)
    rules, events = work.rules(), work.events(count)
    entries = [(rule.patterns, rule.when, rule) for rule in rules]
    build_us = build(entries)
    held = memory(entries)
    index: RuleIndex[BenchRule] = RuleIndex(entries)
    trie = SubjectIndex((rule.patterns, rule) for rule in rules)
    freeze_heap()

    by_subject = functools.cache(trie.find)

    def by_trie(name: str, payload: dict[str, Any]) -> list[BenchRule]:
        return [rule for rule in by_subject(name) if rule.when.holds(payload)]

    def plain(name: str, payload: dict[str, Any]) -> list[BenchRule]:
        return [
            rule
            for rule in rules
            if any(pattern.matches(name) for pattern in rule.patterns) and rule.when.holds(payload)
        ]

    sampled = {plain: sample(events, PLAIN_TESTS // size), by_trie: sample(events, TRIE_TESTS // size)}
    differences = sum(
        [rule.number for rule in index.lookup(*event)] != [rule.number for rule in other(*event)]
        for other, some in sampled.items()
        for event in some
    )
    wire = [(name, msgspec.json.encode(payload)) for name, payload in events]
    times: dict[str, list[float]] = {"index": [], "parsed": [], "trie": [], "plain": []}
    each = [float("inf")] * len(events)
    for _ in range(PASSES):
        times["index"].append(one_pass(index.lookup, events))
        times["trie"].append(one_pass(by_trie, sampled[by_trie]))
        times["plain"].append(one_pass(plain, sampled[plain]))
        times["parsed"].append(
            one_pass(lambda name, data: index.lookup(name, msgspec.json.decode(data)), wire)
        )
        for n, (name, payload) in enumerate(events):
            began = time.perf_counter()
            index.lookup(name, payload)
            each[n] = min(each[n], time.perf_counter() - began)
    best = {name: min(taken) for name, taken in times.items()}
    each.sort()
    return {
        "rules": size,
        "index_per_s": round(1 / best["index"]),
        "parsed_per_s": round(1 / best["parsed"]),
        "trie_per_s": round(1 / best["trie"], 1),
        "plain_per_s": round(1 / best["plain"], 1),
        "over_plain": round(ratio(times["plain"], times["index"]), 1),
        "over_trie": round(ratio(times["trie"], times["index"]), 2),
        "p50_us": round(each[len(each) // 2] * 1e6, 1),
        "p99_us": round(each[len(each) * 99 // 100] * 1e6, 1),
        "build_us": round(build_us, 1),
        "bytes": round(held),
        "matches": round(statistics.fmean(len(index.lookup(*event)) for event in events), 1),
        "candidates": round(statistics.fmean(index.candidates(*event) for event in events), 1),
        "differences": differences,
    }


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median over the passes, the two of one pass having met the same noise."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def sample(events: list[Event], count: int) -> list[Event]:
    return events[: max(10, min(len(events), count))]


def one_pass(match: Callable[[str, Any], object], events: Sequence[tuple[str, Any]]) -> float:
    """Seconds of the processor for one event."""
    began = time.process_time()
    for name, payload in events:
        match(name, payload)
    return (time.process_time() - began) / len(events)


def build(entries: list[Any]) -> float:
    """Microseconds a rule to build the index, as in a load: with the garbage collector at rest."""
    taken = []
    for _ in range(3 if len(entries) <= 10_000 else 2):
        freeze_heap()
        gc.disable()
        began = time.process_time()
        index = RuleIndex(entries)
        taken.append(time.process_time() - began)
        gc.enable()
        del index
    return min(taken) / len(entries) * 1e6


def memory(entries: list[Any]) -> float:
    """Bytes a rule that the index adds to the compiled rules."""
    gc.collect()
    tracemalloc.start()
    index = RuleIndex(entries)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del index
    return held / len(entries)


def load(size: int) -> dict[str, Any]:
    """How long a policy takes from YAML to a rulebook: read, checked, compiled, indexed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "templates" / "t").mkdir(parents=True)
        (folder / "templates" / "t" / "default.txt").write_text("Hello")
        (folder / "channels.yaml").write_text("channels:\n  terminal: {type: console}\n")
        rules = Workload(size).rules()
        for start in range(0, size, 1_000):
            lines = [
                json.dumps({"id": f"r{rule.number}", **rule.source, "notify": ["terminal"], "template": "t"})
                for rule in rules[start : start + 1_000]
            ]
            (folder / f"rules-{start // 1_000:03}.yaml").write_text(
                "rules:\n" + "".join(f"  - {line}\n" for line in lines)
            )
        del rules
        began = time.process_time()
        policy = load_policy(folder)
        taken = time.process_time() - began
    errors = [str(problem) for problem in policy.problems if problem.severity == "error"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rules": size, "load_s": round(taken, 2), "peak_mb": round(peak), "errors": errors[:3]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rules", default="10,100,1000,10000,100000", help="sizes, with commas")
    parser.add_argument("--mode", choices=("full", "broad"), default="full")
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--load", type=int, metavar="RULES")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.load:
        row = load(arguments.load)
        print(json.dumps(row) if arguments.json else "\n".join(f"{key:8} {row[key]}" for key in row))
        return
    rows = []
    if not arguments.json:
        print("  ".join(f"{title:>10}" for title in COLUMNS.values()))
    for size in map(int, arguments.rules.split(",")):
        gc.unfreeze()
        rows.append(measure(size, arguments.mode, arguments.events))
        if not arguments.json:
            print("  ".join(f"{rows[-1][column]:>10}" for column in COLUMNS), flush=True)
    if arguments.json:
        print(json.dumps(rows, indent=2))
    if any(row["differences"] for row in rows):
        sys.exit("the index and plain evaluation have not found the same")


if __name__ == "__main__":
    main()
