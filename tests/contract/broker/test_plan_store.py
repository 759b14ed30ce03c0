"""Whose plan of an event counts: the first that is written, and never one that was on its way too long."""

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


def written(place: str, reason: str, revival: RedriveId | None = None) -> OutgoingMessage:
    suppressed = (Suppressed(rule="r", channel="c", reason=reason),)
    planned = Plan(event=EVENT, revision="x", suppressed=suppressed, redrive=revival)
    return entries.plan_entry(TOPOLOGY, planned, at=1, id_=place)


async def test_the_first_that_is_written_counts(records: PlanStore) -> None:
    assert await records.find(EVENT, "e") == RecordedPlan()
    place = await records.claim_slot(EVENT, "e", None, at=1)
    assert await records.broker.publisher.store_if_new(written(place, "dedupe"))
    assert not await records.broker.publisher.store_if_new(written(place, "throttle"))
    found = await records.find(EVENT, "e")
    assert found.plan is not None and found.plan.suppressed[0].reason == "dedupe" and found.is_known
    with pytest.raises(NotStored, match="another replica"):
        await records.claim_slot(EVENT, "e", RecordedPlan(), at=1)  # it looked before that was written


async def test_what_was_on_its_way_when_it_was_claimed_is_not_taken(records: PlanStore) -> None:
    late = await records.claim_slot(EVENT, "e", None, at=1)
    for claims in range(3):
        found = await records.find(EVENT, "e")
        assert found == RecordedPlan(claims=claims)
        place = await records.claim_slot(EVENT, "e", found, at=1)
    assert not await records.broker.publisher.store_if_new(written(late, "dedupe"))
    assert await records.broker.publisher.store_if_new(written(place, "throttle"))
    found = await records.find(EVENT, "e")
    assert found.plan is not None and found.plan.suppressed[0].reason == "throttle"


async def test_of_two_that_claim_it_at_once_one_has_it(records: PlanStore) -> None:
    found = await records.find(EVENT, "e")
    places = await asyncio.gather(
        *(records.claim_slot(EVENT, "e", found, at=1) for _ in range(5)), return_exceptions=True
    )
    assert sorted(isinstance(each, NotStored) for each in places) == [False] + [True] * 4


async def test_others_under_the_same_reqid_are_not_meant(records: PlanStore) -> None:
    revival = RedriveId(letter="1-1", at=7)
    await records.broker.publisher.store(written("e.0", "dedupe"), written("e.7.0", "throttle", revival))
    await records.claim_slot(EVENT, "e", RecordedPlan(claims=5), at=1)
    found = await records.find(OTHER, "o")
    assert found == RecordedPlan(is_known=True)
    again = await records.find(EVENT, "e.7", revival)
    assert again.plan is not None and again.plan.suppressed[0].reason == "throttle"
