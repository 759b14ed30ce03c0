"""A policy that is freed leaves no garbage, so no collection has to stop the process for it.

With MSS_SOAK=1 at full size, 20 reloads of 2,000 rules.
"""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.locations import ROOT
from support.policy_builders import CHANNELS, write

from engine import runtime
from engine.policy.loader import load_policy
from engine.policy.testing.runner import run_case
from engine.runtime import free_gradually

SOAK = os.environ.get("MSS_SOAK") == "1"
RULES = 2000 if SOAK else 300
RELOADS = 20 if SOAK else 6


@contextmanager
def collected() -> Iterator[list[object]]:
    """Yield a list that contains, at the end, the garbage of the objects made inside."""
    found: list[object] = []
    gc.unfreeze()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.unfreeze()
        gc.collect()
        found += gc.garbage
    finally:
        gc.garbage.clear()
        gc.set_debug(0)
        gc.enable()


def load_test_and_free(folder: Path) -> None:
    policy = load_policy(folder, environment={})
    rulebook = policy.require()
    assert all(run_case(rulebook, case).ok for case in policy.cases)
    things: list[object] = [policy]
    del policy, rulebook
    free_gradually(things)


def many_rules(folder: Path) -> Path:
    """Write rules with conditions and templates that extend one layout; every tenth rule has a test."""
    rules = [
        f"- {{id: r{n}, event: notice.login.abnormal, notify: [terminal], template: t{n % 20},"
        f" vars: {{about: {{n: {n}}}}}, when: {{userid: {{prefix: u{n}-}}, any: [{{city: c{n % 7}}}, {{ip: 10.0.0.0/8}}]}}}}\n"
        for n in range(RULES)
    ]
    tests = [
        f"- {{name: n{n}, given: {{event: notice.login.abnormal, payload: {{userid: u{n}-x, city: c{n % 7}}}}},"
        f" expect: {{deliveries: [{{rule: r{n}}}]}}}}\n"
        for n in range(0, RULES, 10)
    ]
    files: dict[str, str | bytes] = {
        "channels.yaml": CHANNELS,
        "templates/_parts/layout.txt": "{% block inside %}{% endblock %}, {{ site.name }}",
        "rules.yaml": "defaults: {site: {name: S}}\nrules:\n" + "".join(rules) + "tests:\n" + "".join(tests),
    }
    for n in range(20):
        files[f"templates/t{n}/default.txt"] = (
            '{% extends "_parts/layout.txt" %}{% block inside %}{{ vars.about.n }}{{ super() }}{% endblock %}'
        )
    return write(folder, files)


@pytest.mark.parametrize("make", [lambda _: ROOT / "rules", many_rules], ids=["example", "many"])
def test_nothing_of_a_policy_is_garbage(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path)
    load_test_and_free(folder)  # imports modules and fills caches
    with collected() as found:
        load_test_and_free(folder)
    assert not Counter(type(each).__qualname__ for each in found)


@pytest.mark.timeout(600 if SOAK else 120)
def test_memory_does_not_grow_with_reloads(tmp_path: Path) -> None:
    folder = many_rules(tmp_path)
    load_test_and_free(folder)
    load_test_and_free(folder)
    before = sys.getallocatedblocks()
    for _ in range(RELOADS):
        load_test_and_free(folder)
    gc.unfreeze()
    # A leak of one object per rule and reload would be RULES * RELOADS.
    assert sys.getallocatedblocks() - before < RULES


def test_the_heap_has_grown_once_much_more_memory_is_in_use() -> None:
    runtime.freeze_heap()
    assert not runtime.heap_has_grown()
    many = [[number] for number in range(sys.getallocatedblocks())]
    assert runtime.heap_has_grown()
    runtime.freeze_heap()
    assert many and not runtime.heap_has_grown()
    gc.unfreeze()
