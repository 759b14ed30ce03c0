"""The store of recorded plans: the plan that was recorded first wins."""

from __future__ import annotations

from dataclasses import dataclass

from ..broker import Connection, Publisher, Topology, messages_on
from ..model.errors import NotStored
from ..model.messages import Event, RedriveId
from ..model.subjects import token
from ..planning.records import PlanRecord
from . import entries
from .entries import ClaimRecord, read_entry


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedPlan:
    """What the history has of an event."""

    plan: PlanRecord | None = None
    is_known: bool = False  # something of it went further: what it led to may be stored, and forgotten
    claims: int = 0  # how often it was planned anew


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanStore:
    """The plans in the history.

    Of an event that the gates are asked about one plan is written. A replica that was cut off may still have
    one on its way when another asks anew, when windows are over: so that one claims the event first, by
    writing in the place of that plan. Places are numbered: each claim takes the last one and opens the next.
    """

    topology: Topology
    connection: Connection
    publisher: Publisher

    async def find(self, event: Event, name: str, revival: RedriveId | None = None) -> RecordedPlan:
        """The first plan of ``event``, called ``name``, in its life since ``revival``. Raises BrokerError."""
        subject = self.topology.history_subject(event.kind, token(event.reqid))
        is_known, claims = False, 0
        async for msg in messages_on(self.connection, self.topology.history_stream, subject):
            entry = read_entry(msg.data or b"")
            if isinstance(entry, ClaimRecord):
                claims += entry.of == name
                continue
            is_known = True
            if (
                isinstance(entry, PlanRecord)
                and (entry.event.key, entry.event.reqid) == (event.key, event.reqid)
                and entry.redrive == revival
            ):
                return RecordedPlan(plan=entry, is_known=True, claims=claims)
        return RecordedPlan(is_known=is_known, claims=claims)

    async def claim_slot(self, event: Event, name: str, found: RecordedPlan | None, *, at: int) -> str:
        """Where a plan of ``event`` is to be written; of one that came before it is claimed first.

        Raises NotStored where somebody else has it, and BrokerError.
        """
        if found is None:
            return f"{name}.0"
        claim = entries.claim_entry(self.topology, event, of=name, at=at, id_=f"{name}.{found.claims}")
        if not await self.publisher.store_if_new(claim):
            raise NotStored(f"{name} is being planned by another replica")
        return f"{name}.{found.claims + 1}"
