"""The event consumer: decode each event, plan it, and store its deliveries. Entry: `EventIngester`.

An event is acknowledged only when its deliveries, its history and its archive copy are stored. A message
that is no event, or cannot be planned, becomes a dead letter with the reason, and is then acknowledged. The
plan in the history is binding: an event that arrives again follows it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from msgspec import Struct
from nats.aio.msg import Msg

from ..broker import RESENT_HEADER, Broker, MessageMetadata, OutgoingMessage, PendingAck, message_metadata
from ..broker.codec import Redrive, decode_event, read_hops, redrive_of
from ..history import entries
from ..history.dead_letters import DeadLetter, only_redriven, sensitive_header
from ..history.plan_store import PlanStore, RecordedPlan
from ..metrics import Metrics
from ..model.errors import CacheMiss, NotStored, UndecodableError
from ..model.masking import mask
from ..model.messages import HOPS, Event, Failure, Kind, RedriveId
from ..planning.draft import Routing, route
from ..planning.limits.stages import undo_buffering
from ..planning.limits.state import PendingSteps, advance, event_fingerprint
from ..planning.planner import Plan, plan, plan_from_record, plan_steps
from ..planning.recipients import ChoicesOf
from ..planning.records import PlanRecord
from ..preferences.cache import PreferenceCache
from ..rules.rulebook import Rulebook
from .dispatch import NO_HEADERS, messages_for_plan
from .operator_notices import OperatorNotifier

log = logging.getLogger(__name__)

_SENT_BEFORE = {
    RESENT_HEADER: "1"
}  # headers of what may be sent already, and forgotten by a broker that was killed
_MAX_REDELIVERIES = 1000  # times that an event may come: one that ends the process would come for ever


class Clock(Protocol):
    """The present time in microseconds since the epoch."""

    def __call__(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EventIngester:
    """Plans the events of one kind."""

    kind: Kind
    broker: Broker
    herald: OperatorNotifier
    preferences: PreferenceCache
    rulebook: Callable[[], Rulebook]  # read once for each event
    metrics: Metrics
    clock: Clock
    tolerance: Callable[[], float]  # seconds

    def handle(self, msg: Msg) -> PendingAck | Coroutine[Any, Any, PendingAck]:
        """Plan one event: what is to be stored of it before it is acknowledged."""
        rulebook = self.rulebook()
        handed = message_metadata(msg.reply)
        again = redrive_of(msg.headers)
        try:
            event = decode_event(
                msg.data,
                kind=self.kind,
                key=self.broker.topology.key(self.kind, msg.subject),
                # What was a dead letter is judged by when the broker took it first.
                received=min(handed.stored_at, again.received) if again else handed.stored_at,
                tolerance=self.tolerance(),
                catalogue=rulebook.catalogue,
                hops=read_hops(msg.headers),
            )
        except UndecodableError as error:
            return self._dead_letter(msg, error.reason, str(error), rulebook)
        if handed.num_delivered > _MAX_REDELIVERIES:
            return self.give_up(msg)
        arrival = ReceivedEvent(
            msg=msg, metadata=handed, redrive=again, event=event, rulebook=rulebook, at=self.clock()
        )
        if not self.broker.connection.is_first_delivery_now(msg, handed):
            return self._replan(arrival)
        try:
            begun = _start_plan(arrival, self.preferences.choices_of)
        except CacheMiss:
            return self._plan_with_preferences(arrival)
        if isinstance(begun, PendingSteps):
            return self._plan_with_state(arrival, begun)
        return self._settle(arrival, begun)

    async def _plan_with_preferences(
        self, arrival: ReceivedEvent, found: RecordedPlan | None = None
    ) -> PendingAck:
        """Plan with what the broker has to be asked for of people's preferences."""
        begun = await self.preferences.with_choices(
            partial(_start_plan, arrival, comes_again=found is not None)
        )
        return await self._plan_with_state(arrival, begun, found)

    async def _plan_with_state(
        self, arrival: ReceivedEvent, begun: Plan | PendingSteps[Plan], found: RecordedPlan | None = None
    ) -> PendingAck:
        """Carry out what the gates, which have to be asked, leave of the plan.

        ``found`` is what the history has of an event that may have come before.
        """
        headers = _SENT_BEFORE if found and found.is_known else NO_HEADERS
        if isinstance(begun, Plan):
            return self._settle(arrival, begun, headers)
        place = await PlanStore(self.broker).claim_slot(
            arrival.event, arrival.event_run_id, found, at=arrival.at
        )
        planned = _only_redriven(arrival, await self.broker.state.resume(begun))
        for used_up in planned.exhausted_budgets:
            await self.herald.notify_budget_exhausted(used_up, hops=planned.event.hops)
        planned, stored = self._messages_for_plan(arrival, planned, headers)
        if await self.broker.publisher.store_if_new(
            entries.plan_entry(self.broker.topology, planned, at=arrival.at, id_=place)
        ):
            return self._settlement(arrival, planned, stored)
        found = await self._find(arrival)
        if found.plan is None:
            raise NotStored(f"{arrival.event_run_id} is being planned by another replica")  # it comes again
        return await self._restore_recorded(arrival, found.plan)

    async def _replan(self, arrival: ReceivedEvent) -> PendingAck:
        """Follow what was written down of an event that came before; plan one of which nothing is."""
        if await self.broker.connection.is_first_delivery(arrival.msg, arrival.metadata):
            return await self._plan_with_preferences(arrival)
        found = await self._find(arrival)
        return await (
            self._restore_recorded(arrival, found.plan)
            if found.plan
            else self._plan_with_preferences(arrival, found)
        )

    async def _find(self, arrival: ReceivedEvent) -> RecordedPlan:
        return await PlanStore(self.broker).find(arrival.event, arrival.event_run_id, arrival.redrive_id)

    async def _restore_recorded(self, arrival: ReceivedEvent, recorded: PlanRecord) -> PendingAck:
        """Store again what was decided: all of it may be stored, or none.

        Whoever asked the gates once more may have been told to wait with others: that is undone.
        """

        def make(choices_of: ChoicesOf) -> tuple[Routing, Plan]:
            drafted = route(arrival.rulebook, arrival.event, choices_of)
            return drafted, plan_from_record(drafted, recorded, arrival.at)

        drafted, planned = await self.preferences.with_choices(make)
        planned = _only_redriven(arrival, planned)
        if not arrival.is_partial:  # of that no gate was asked
            gathered = {each.rule for each in recorded.held if each.digest}
            alarms = await self.broker.state.run(undo_buffering(drafted, gathered))
            planned = replace(planned, timers=(*planned.timers, *alarms))
        return self._settlement(arrival, *self._messages_for_plan(arrival, planned, _SENT_BEFORE))

    def _settle(
        self, arrival: ReceivedEvent, planned: Plan, headers: Mapping[str, str] = NO_HEADERS
    ) -> PendingAck:
        planned, stored = self._messages_for_plan(arrival, planned, headers)
        # The history comes first: an event that is not in it has no delivery in the stream either.
        entry = entries.plan_entry(self.broker.topology, planned, at=arrival.at, id_=arrival.message_id)
        return self._settlement(arrival, planned, [entry, *stored])

    def _messages_for_plan(
        self, arrival: ReceivedEvent, planned: Plan, headers: Mapping[str, str]
    ) -> tuple[Plan, list[OutgoingMessage]]:
        return messages_for_plan(self.broker.topology, planned, self.broker.max_payload, arrival.at, headers)

    def _settlement(
        self, arrival: ReceivedEvent, planned: Plan, outgoing: list[OutgoingMessage]
    ) -> PendingAck:
        """What is stored of a plan, with what is kept of the event itself."""
        for failure in planned.failures:
            outgoing.append(self._dead_failure(arrival, planned, failure))
            self.metrics.dead.labels(self.kind, "render-failed").inc()
            detail = mask(failure.detail, planned.secrets)
            log.warning("rule %s, channel %s: %s", failure.rule, failure.channel, detail)
        if not arrival.is_partial and len(arrival.msg.data) <= self.broker.max_payload:
            outgoing.append(self._copy(arrival))
        count = None if arrival.is_partial else partial(self._count, planned)
        return PendingAck(messages=outgoing, settled=count)

    def _count(self, planned: Plan) -> None:
        self.metrics.count(self.metrics.events, self.kind, "planned" if planned.matches else "unmatched")
        for match in planned.matches:
            self.metrics.count(self.metrics.matches, match.rule.id)
        for suppressed in planned.suppressed:
            self.metrics.count(self.metrics.suppressed, suppressed.rule, suppressed.reason)
        for held in planned.held:
            self.metrics.count(self.metrics.held, held.rule, held.reason)

    def _copy(self, arrival: ReceivedEvent) -> OutgoingMessage:
        """The event as it was published, for the archive."""
        event = arrival.event
        return OutgoingMessage(
            subject=self.broker.topology.archive_subject(self.kind, event.key),
            payload=arrival.msg.data,
            id=f"archive.{arrival.message_id}",
            headers={HOPS: str(event.hops)} if event.hops else NO_HEADERS,
        )

    def _dead_failure(self, arrival: ReceivedEvent, planned: Plan, failure: Failure) -> OutgoingMessage:
        detail = mask(failure.detail, planned.secrets)
        dead_letter = replace(
            self._dead_letter_of(arrival.msg, "render-failed", detail, arrival.rulebook),
            reqid=planned.event.reqid,
            rule=failure.rule,
            channel=failure.channel,
            delivery=failure.delivery,
        )
        return self._dead_letter_message(arrival.msg, dead_letter, f"{arrival.message_id}.{failure.delivery}")

    def give_up(self, msg: Msg) -> PendingAck:
        """What becomes of an event that a bug keeps from being planned."""
        detail = "given up after several tries; the log has the traceback"
        return self._dead_letter(msg, "not-planned", detail, self.rulebook())

    def _dead_letter(self, msg: Msg, reason: str, detail: str, rulebook: Rulebook) -> PendingAck:
        """The message goes among the dead letters."""
        log.warning("%s: dead letter: %s: %s", msg.subject, reason, detail)
        dead_letter = self._dead_letter_of(msg, reason, detail, rulebook)
        id_ = f"{self.kind}.{message_metadata(msg.reply).sequence}"
        stored = self._dead_letter_message(msg, dead_letter, id_)

        def count() -> None:
            self.metrics.events.labels(self.kind, "dead").inc()
            self.metrics.dead.labels(self.kind, reason).inc()

        return PendingAck(messages=(stored,), settled=count)

    def _dead_letter_message(self, msg: Msg, dead_letter: DeadLetter, id_: str) -> OutgoingMessage:
        largest = self.broker.max_payload
        return dead_letter.to_message(self.broker.topology, msg.data, id_=id_, max_payload=largest)

    def _dead_letter_of(self, msg: Msg, reason: str, detail: str, rulebook: Rulebook) -> DeadLetter:
        """Describe the event in ``msg`` as a dead letter."""
        redrive = redrive_of(msg.headers)
        key = self.broker.topology.key(self.kind, msg.subject)
        schema = rulebook.catalogue.get(f"{self.kind}.{key}" if key else str(self.kind))
        return DeadLetter(
            kind=self.kind,
            reason=reason,
            detail=detail,
            subject=msg.subject,
            rule=redrive.rule if redrive else "",
            channel=redrive.channel if redrive else "",
            delivery=redrive.delivery if redrive else "",
            revision=rulebook.revision,
            received=redrive.received if redrive else message_metadata(msg.reply).stored_at,
            sensitive=sensitive_header(schema.secrets if schema else ()),
        )


def _start_plan(
    arrival: ReceivedEvent, choices_of: ChoicesOf, *, comes_again: bool = False
) -> Plan | PendingSteps[Plan]:
    """The plan, or what has to be asked for it first."""
    rulebook, event, at = arrival.rulebook, arrival.event, arrival.at
    if arrival.is_partial:  # it passed the gates when it came first
        return _only_redriven(arrival, plan(rulebook, event, at, choices_of))
    begun = advance(plan_steps(rulebook, event, at, choices_of, comes_again=comes_again))
    return _only_redriven(arrival, begun) if isinstance(begun, Plan) else begun


def _only_redriven(arrival: ReceivedEvent, planned: Plan) -> Plan:
    return only_redriven(planned, arrival.redrive) if arrival.redrive else planned


class ReceivedEvent(Struct, frozen=True, kw_only=True):
    """One event in hand."""

    msg: Msg
    metadata: MessageMetadata
    redrive: Redrive | None  # it was a dead letter
    event: Event
    rulebook: Rulebook  # by which it is planned
    at: int  # when it was taken in hand, by which hours and limits judge; microseconds since the epoch

    @property
    def redrive_id(self) -> RedriveId | None:
        return self.redrive.id if self.redrive else None

    @property
    def message_id(self) -> str:
        """Tells the message from every other, and not from itself when it is handed out again."""
        return f"{self.event.kind}.{self.metadata.sequence}"

    @property
    def event_run_id(self) -> str:
        """Tells the event from every other, and not from itself however often it was published."""
        life = f".{self.redrive_id.at}" if self.redrive_id else ""
        return f"{event_fingerprint(self.event)}{life}"

    @property
    def is_partial(self) -> bool:
        """Whether the rest of the event was planned before."""
        return self.redrive is not None and self.redrive.is_partial
