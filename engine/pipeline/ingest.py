"""The event consumer: decode each event, plan it, and store its deliveries. Entry: `EventIngester`.

An event is acknowledged only when its deliveries and its history are stored; its stream keeps it. A message
that is no event, or cannot be planned, becomes a dead letter with the reason, and is then acknowledged. The
plan in the history is binding: an event that arrives again follows it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from msgspec import Struct
from nats.aio.msg import Msg

from ..broker import Broker, MessageMetadata, OutgoingMessage, PendingAck, message_metadata
from ..broker.codec import Redrive, decode_event, redrive_of
from ..broker.publisher import NO_HEADERS
from ..history import entries
from ..history.dead_letters import DeadLetter, only_redriven, sensitive_header
from ..history.plan_store import PlanStore, RecordedPlan
from ..metrics import Metrics
from ..model.errors import CacheMiss, UndecodableError
from ..model.masking import mask
from ..model.messages import Event, Failure, Kind
from ..planning.draft import Routing, route
from ..planning.limits.stages import undo_buffering
from ..planning.limits.state import PendingSteps, advance, event_fingerprint
from ..planning.planner import Plan, plan, plan_from_record, plan_steps
from ..planning.recipients import ChoicesOf
from ..planning.records import PlanRecord
from ..preferences.cache import PreferenceCache
from ..rules.rulebook import Rulebook
from .dispatch import RESENT, messages_for_plan
from .operator_notices import OperatorNotifier

log = logging.getLogger(__name__)

_MAX_REDELIVERIES = 1000  # of one event: it may be the one that ends the process each time


@dataclass(frozen=True, slots=True, kw_only=True)
class EventIngester:
    """Plans the events of one kind."""

    kind: Kind
    broker: Broker
    planner_created: Mapping[Kind, int]  # when the consumer of each kind was created, microseconds
    notifier: OperatorNotifier
    preferences: PreferenceCache
    rulebook: Callable[[], Rulebook]  # read once for each event
    metrics: Metrics
    clock: Callable[[], int]  # microseconds since the epoch
    tolerance: Callable[[], float]  # seconds

    def handle(self, msg: Msg) -> PendingAck | Coroutine[Any, Any, PendingAck]:
        """Plan one event, and return the messages to store before it is acknowledged."""
        rulebook = self.rulebook()
        metadata = message_metadata(msg.reply)
        redrive = redrive_of(msg.headers)
        try:
            event = decode_event(
                msg.data,
                kind=self.kind,
                key=self.broker.topology.key(self.kind, msg.subject),
                # The sender's clock is compared with the first time that the broker received the event.
                received=min(metadata.stored_at, redrive.received) if redrive else metadata.stored_at,
                tolerance=self.tolerance(),
                catalogue=rulebook.catalogue,
                headers=msg.headers,
            )
        except UndecodableError as error:
            return self._dead_letter(msg, error.reason, str(error), rulebook)
        if metadata.num_delivered > _MAX_REDELIVERIES:
            return self.give_up(msg)
        received = ReceivedEvent(
            msg=msg, metadata=metadata, redrive=redrive, event=event, rulebook=rulebook, at=self.clock()
        )
        if not self._is_after_creation(metadata) or not self.broker.connection.is_first_delivery_now(
            msg, metadata
        ):
            return self._replan(received)
        try:
            begun = _start_plan(received, self.preferences.choices_of)
        except CacheMiss:
            return self._plan_with_preferences(received)
        if isinstance(begun, PendingSteps):
            return self._plan_with_state(received, begun)
        return self._settle(received, begun)

    async def _plan_with_preferences(
        self, received: ReceivedEvent, found: RecordedPlan | None = None
    ) -> PendingAck:
        """Plan an event with preferences that are not cached."""
        start = partial(_start_plan, received, comes_again=found is not None)
        return await self._plan_with_state(received, await self.preferences.with_choices(start), found)

    async def _plan_with_state(
        self, received: ReceivedEvent, begun: Plan | PendingSteps[Plan], found: RecordedPlan | None = None
    ) -> PendingAck:
        """Run the steps of the limits, and record the plan; if another one was recorded first, restore that.

        ``found`` is the history of an event that may have been delivered before.
        """
        headers = RESENT if found and found.is_known else NO_HEADERS
        if isinstance(begun, Plan):
            return self._settle(received, begun, headers)
        plans, name, at = PlanStore(self.broker), received.run_id, received.at
        slot = await plans.claim_slot(received.event, name, found, at=at)
        planned = _only_redriven(received, await self.broker.state.resume(begun))
        await self.notifier.notify_budgets_exhausted(planned.exhausted_budgets, hops=planned.event.hops)
        planned, messages = self._messages_for_plan(received, planned, headers)
        recorded = await plans.record(planned, name, at=at, slot=slot)
        if recorded is None:
            return self._pending_ack(received, planned, messages)
        return await self._restore_recorded(received, recorded)

    async def _replan(self, received: ReceivedEvent) -> PendingAck:
        """Restore the recorded plan of an event that was delivered before; plan it if there is none."""
        if self._is_after_creation(received.metadata) and await self.broker.connection.is_first_delivery(
            received.msg, received.metadata
        ):
            return await self._plan_with_preferences(received)
        redrive = received.redrive.id if received.redrive else None
        found = await PlanStore(self.broker).find(received.event, received.run_id, redrive)
        if found.plan is None:
            return await self._plan_with_preferences(received, found)
        return await self._restore_recorded(received, found.plan)

    async def _restore_recorded(self, received: ReceivedEvent, recorded: PlanRecord) -> PendingAck:
        """Store the messages of a recorded plan again: all of them may be stored, or none.

        The limits may have buffered the event a second time in a digest. That is undone.
        """

        def make(choices_of: ChoicesOf) -> tuple[Routing, Plan]:
            routing = route(received.rulebook, received.event, choices_of)
            return routing, plan_from_record(routing, recorded, received.at)

        routing, planned = await self.preferences.with_choices(make)
        planned = _only_redriven(received, planned)
        if not received.is_partial:  # a partial redrive skips the limits
            buffered = {held.rule for held in recorded.held if held.digest}
            timers = await self.broker.state.run(undo_buffering(routing, buffered))
            planned = replace(planned, timers=(*planned.timers, *timers))
        return self._pending_ack(received, *self._messages_for_plan(received, planned, RESENT))

    def _settle(
        self, received: ReceivedEvent, planned: Plan, headers: Mapping[str, str] = NO_HEADERS
    ) -> PendingAck:
        planned, messages = self._messages_for_plan(received, planned, headers)
        # The history is stored first: an event without history has no delivery in the stream.
        entry = entries.plan_entry(self.broker.topology, planned, at=received.at, id_=received.message_id)
        return self._pending_ack(received, planned, [entry, *messages])

    def _messages_for_plan(
        self, received: ReceivedEvent, planned: Plan, headers: Mapping[str, str]
    ) -> tuple[Plan, list[OutgoingMessage]]:
        return messages_for_plan(self.broker.topology, planned, self.broker.max_payload, received.at, headers)

    def _pending_ack(
        self, received: ReceivedEvent, planned: Plan, messages: list[OutgoingMessage]
    ) -> PendingAck:
        """Add the dead letters of a plan to ``messages``."""
        for failure in planned.failures:
            messages.append(self._dead_failure(received, planned, failure))
            self.metrics.dead.labels(self.kind, "render-failed").inc()
            detail = mask(failure.detail, planned.secrets)
            log.warning("rule %s, channel %s: %s", failure.rule, failure.channel, detail)
        count = None if received.is_partial else partial(self._count, planned)
        return PendingAck(messages=messages, settled=count)

    def _is_after_creation(self, metadata: MessageMetadata) -> bool:
        """Return whether no earlier consumer can have delivered the event."""
        return metadata.stored_at > self.planner_created.get(self.kind, 0)

    def _count(self, planned: Plan) -> None:
        self.metrics.count(self.metrics.events, self.kind, "planned" if planned.matches else "unmatched")
        for match in planned.matches:
            self.metrics.count(self.metrics.matches, match.rule.id)
        for suppressed in planned.suppressed:
            self.metrics.count(self.metrics.suppressed, suppressed.rule, suppressed.reason)
        for held in planned.held:
            self.metrics.count(self.metrics.held, held.rule, held.reason)

    def _dead_failure(self, received: ReceivedEvent, planned: Plan, failure: Failure) -> OutgoingMessage:
        detail = mask(failure.detail, planned.secrets)
        dead_letter = replace(
            self._dead_letter_of(received.msg, "render-failed", detail, received.rulebook),
            reqid=planned.event.reqid,
            rule=failure.rule,
            channel=failure.channel,
            delivery=failure.delivery,
        )
        id_ = f"{received.message_id}.{failure.delivery}"
        return self._dead_letter_message(received.msg, dead_letter, id_)

    def give_up(self, msg: Msg) -> PendingAck:
        """Dead-letter an event that was not planned because of a bug."""
        detail = "not planned after several tries; the log has the traceback"
        return self._dead_letter(msg, "not-planned", detail, self.rulebook())

    def _dead_letter(self, msg: Msg, reason: str, detail: str, rulebook: Rulebook) -> PendingAck:
        """Dead-letter a message."""
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
    received: ReceivedEvent, choices_of: ChoicesOf, *, comes_again: bool = False
) -> Plan | PendingSteps[Plan]:
    """Return the plan, or the steps of its limits that wait for the broker."""
    rulebook, event, at = received.rulebook, received.event, received.at
    if received.is_partial:  # it passed the limits when it was planned first
        return _only_redriven(received, plan(rulebook, event, at, choices_of))
    begun = advance(plan_steps(rulebook, event, at, choices_of, comes_again=comes_again))
    return _only_redriven(received, begun) if isinstance(begun, Plan) else begun


def _only_redriven(received: ReceivedEvent, planned: Plan) -> Plan:
    return only_redriven(planned, received.redrive) if received.redrive else planned


class ReceivedEvent(Struct, frozen=True, kw_only=True):
    """An event with its message and the rulebook that plans it."""

    msg: Msg
    metadata: MessageMetadata
    redrive: Redrive | None  # set if the event was a dead letter
    event: Event
    rulebook: Rulebook
    at: int  # when planning began: the time for schedules and limits, microseconds since the epoch

    @property
    def message_id(self) -> str:
        """An id of the message that is the same at each redelivery."""
        return f"{self.event.kind}.{self.metadata.sequence}"

    @property
    def run_id(self) -> str:
        """An id of the event that is the same each time that it is published, and new after a redrive."""
        suffix = f".{self.redrive.id.at}" if self.redrive else ""
        return f"{event_fingerprint(self.event)}{suffix}"

    @property
    def is_partial(self) -> bool:
        """True if a redrive names one delivery of the event: the others were planned before."""
        return self.redrive is not None and self.redrive.is_partial
