"""Recorded plans: the first plan that is stored for an event is the valid one."""

from __future__ import annotations

from dataclasses import dataclass

from ..broker import Broker
from ..model.errors import NotStored
from ..model.messages import Event, RedriveId
from ..planning.planner import Plan
from ..planning.records import PlanRecord
from . import entries
from .entries import ClaimRecord, read_entry


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedPlan:
    """The entries of one event in the history."""

    plan: PlanRecord | None = None
    # There are entries. The messages of the event may be stored, and the broker may have dropped their ids.
    is_known: bool = False
    claims: int = 0  # how often a replica claimed it to plan it again


@dataclass(frozen=True, slots=True)
class PlanStore:
    """The plans in the history: the first plan of an event is valid.

    A plan that depends on limits may not be made twice: time windows may have ended in between. A partitioned
    replica may still submit its plan when another one plans the event again. The second replica therefore
    claims the event first: it stores a claim in the slot of that plan. Slots are numbered; a claim takes the
    last slot and opens the next.
    """

    broker: Broker

    async def find(self, event: Event, run_id: str, redrive: RedriveId | None = None) -> RecordedPlan:
        """Find the first plan of ``event`` since ``redrive``. Raises BrokerError."""
        is_known, claims = False, 0
        async for data in self.broker.history(event.kind, event.reqid):
            entry = read_entry(data)
            if isinstance(entry, ClaimRecord):
                claims += entry.of == run_id
                continue
            is_known = True
            if (
                isinstance(entry, PlanRecord)
                and (entry.event.key, entry.event.reqid) == (event.key, event.reqid)
                and entry.redrive == redrive
            ):
                return RecordedPlan(plan=entry, is_known=True, claims=claims)
        return RecordedPlan(is_known=is_known, claims=claims)

    async def record(self, plan: Plan, run_id: str, *, at: int, slot: str) -> PlanRecord | None:
        """Store ``plan`` in its slot. Return None, or the plan of its event that was recorded first.

        Raises NotStored if another replica has claimed the event, and BrokerError.
        """
        entry = entries.plan_entry(self.broker.topology, plan, at=at, id_=slot)
        if await self.broker.publisher.store_if_new(entry):
            return None
        found = await self.find(plan.event, run_id, plan.redrive)
        if found.plan is None:
            raise NotStored(f"another replica is planning {run_id}")
        return found.plan

    async def claim_slot(self, event: Event, run_id: str, found: RecordedPlan | None, *, at: int) -> str:
        """Return the slot for a plan of ``event``. An event that was ``found`` is claimed first.

        Raises NotStored if another replica has claimed it, and BrokerError.
        """
        if found is None:
            return f"{run_id}.0"
        claim = entries.claim_entry(
            self.broker.topology, event, of=run_id, at=at, id_=f"{run_id}.{found.claims}"
        )
        if not await self.broker.publisher.store_if_new(claim):
            raise NotStored(f"another replica is planning {run_id}")
        return f"{run_id}.{found.claims + 1}"
