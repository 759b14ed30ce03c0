"""The first plan that is stored for an event is valid; a late plan of a claimed event is rejected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.policy_builders import event

from engine.broker import Broker, Connection, OutgoingMessage, Provisioner, Topology
from engine.history import entries
from engine.history.plan_store import PlanStore, RecordedPlan
from engine.model.errors import NotStored
from engine.model.messages import RedriveId, Suppressed
from engine.planning.planner import Plan

TOPOLOGY = Topology()
EVENT, OTHER = event({}), event({}, "notice.login.other")


@pytest.fixture
async def records(connection: Connection) -> AsyncIterator[PlanStore]:
    await Provisioner(TOPOLOGY, connection).provision()
    broker = Broker(connection, TOPOLOGY)
    async with broker.publisher.running():
        yield PlanStore(broker)


def plan_message(slot: str, reason: str, redrive: RedriveId | None = None) -> OutgoingMessage:
    suppressed = (Suppressed(rule="r", channel="c", reason=reason),)
    planned = Plan(event=EVENT, revision="x", suppressed=suppressed, redrive=redrive)
    return entries.plan_entry(TOPOLOGY, planned, at=1, id_=slot)


async def test_the_first_plan_is_valid(records: PlanStore) -> None:
    assert await records.find(EVENT, "e") == RecordedPlan()
    slot = await records.claim_slot(EVENT, "e", None, at=1)
    assert await records.broker.publisher.store_if_new(plan_message(slot, "dedupe"))
    assert not await records.broker.publisher.store_if_new(plan_message(slot, "throttle"))
    found = await records.find(EVENT, "e")
    assert found.plan is not None and found.plan.suppressed[0].reason == "dedupe" and found.is_known
    with pytest.raises(NotStored, match="another replica"):
        # As a replica that read the history before that plan was stored.
        await records.claim_slot(EVENT, "e", RecordedPlan(), at=1)


async def test_a_late_plan_of_a_claimed_event_is_rejected(records: PlanStore) -> None:
    late = await records.claim_slot(EVENT, "e", None, at=1)
    for claims in range(3):
        found = await records.find(EVENT, "e")
        assert found == RecordedPlan(claims=claims)
        slot = await records.claim_slot(EVENT, "e", found, at=1)
    assert not await records.broker.publisher.store_if_new(plan_message(late, "dedupe"))
    assert await records.broker.publisher.store_if_new(plan_message(slot, "throttle"))
    found = await records.find(EVENT, "e")
    assert found.plan is not None and found.plan.suppressed[0].reason == "throttle"


async def test_only_one_of_many_concurrent_claims_succeeds(records: PlanStore) -> None:
    found = await records.find(EVENT, "e")
    slots = await asyncio.gather(
        *(records.claim_slot(EVENT, "e", found, at=1) for _ in range(5)), return_exceptions=True
    )
    assert sorted(isinstance(each, NotStored) for each in slots) == [False] + [True] * 4


async def test_other_events_with_the_same_reqid_are_ignored(records: PlanStore) -> None:
    redrive = RedriveId(dead_letter="1-1", at=7)
    await records.broker.publisher.store(
        plan_message("e.0", "dedupe"), plan_message("e.7.0", "throttle", redrive)
    )
    await records.claim_slot(EVENT, "e", RecordedPlan(claims=5), at=1)
    found = await records.find(OTHER, "o")
    assert found == RecordedPlan(is_known=True)
    again = await records.find(EVENT, "e.7", redrive)
    assert again.plan is not None and again.plan.suppressed[0].reason == "throttle"
