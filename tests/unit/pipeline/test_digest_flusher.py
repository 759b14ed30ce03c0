"""Messages that a digest flusher cannot use are acknowledged: to redeliver them would not help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from support.policy_builders import policy

from engine.broker import Broker, PendingAck
from engine.metrics import Metrics
from engine.pipeline.digests import DigestFlusher
from engine.pipeline.operator_notices import OperatorNotifier
from engine.planning.planner import Plan
from engine.planning.recipients import ChoicesOf, no_preferences
from engine.preferences.cache import PreferenceCache

RULE = "rules: [{id: r, event: notice.login.abnormal, notify: [terminal], template: t}]\n"
REDRIVEN = {"Mss-Dead-Letter": "1-1", "Mss-Redriven-At": "1", "Mss-Received": "1"}
REPLY = "$JS.ACK.S.C.1.1.1.1700000000000000000.0"


@pytest.mark.parametrize("rule", ["r", "removed"])
@pytest.mark.parametrize(
    ("headers", "batch"),
    [
        ({}, "{}"),
        (REDRIVEN, '{"number": 1}'),
        (REDRIVEN, '{"number": 1, "at": 1, "ids": ["a"]}'),
        (REDRIVEN, '{"number": 1, "at": 1, "ids": ["a"], "events": [], "more": 1}'),
    ],
    ids=["not-a-timer", "not-a-batch", "no-events", "empty-events"],
)
async def test_a_message_without_a_digest_is_acknowledged(
    headers: dict[str, str], batch: str, rule: str, tmp_path: Path
) -> None:
    rulebook = policy(tmp_path, RULE).require()

    async def plan(make: Callable[[ChoicesOf], Plan]) -> Plan:
        return make(no_preferences)

    flusher = DigestFlusher(
        broker=cast(Broker, None),
        notifier=cast(OperatorNotifier, None),
        rulebook=lambda: rulebook,
        preferences=cast(PreferenceCache, SimpleNamespace(with_choices=plan)),
        metrics=Metrics(),
        clock=lambda: 1,
    )
    data = f'{{"key": "digest.r.k", "rule": "{rule}", "batch": {batch}}}'.encode()
    msg = Msg(Client(), subject="mss.due.digest.k", reply=REPLY, data=data, headers=headers)
    assert await flusher.handle(msg) == PendingAck()
