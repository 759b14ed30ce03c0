"""Flush digests that are due: plan, store, and only then remove the events from the buffer.

A digest that cannot be written becomes a dead letter with the whole batch, which can be redriven.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import msgspec
from nats.aio.msg import Msg

from ..broker import RESENT_HEADER, Broker, OutgoingMessage, PendingAck, message_metadata
from ..broker.codec import Redrive, redrive_of
from ..history import entries
from ..history.dead_letters import DeadLetter, only_redriven, sensitive_header
from ..history.plan_store import PlanStore, RecordedPlan
from ..metrics import Metrics
from ..model.masking import mask
from ..model.messages import Event, Failure
from ..planning.draft import DigestTimer
from ..planning.limits.digest import BUFFERING, Batch, NotDueYet, confirm, digest_event, digest_spec, take_due
from ..planning.limits.state import PendingSteps, advance, state_prefix
from ..planning.planner import Plan, plan_digest, plan_dropped_digest, replan_digest
from ..planning.recipients import ChoicesOf
from ..preferences.cache import PreferenceCache
from ..rules.rulebook import NO_LIMITS, Rule, Rulebook
from .dispatch import NO_HEADERS, digest_timers, messages_for_plan
from .operator_notices import OperatorNotifier

log = logging.getLogger(__name__)


class _DeadDigest(msgspec.Struct, frozen=True):
    """What is kept of a digest that could not be written: enough to tell it again."""

    key: str  # where its events lay
    rule: str
    batch: Batch


_alarms = msgspec.json.Decoder(DigestTimer)
_letters = msgspec.json.Decoder(_DeadDigest)


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestFlusher:
    """Tells what was gathered."""

    broker: Broker
    herald: OperatorNotifier
    rulebook: Callable[[], Rulebook]  # read once for each digest
    preferences: PreferenceCache
    metrics: Metrics
    clock: Callable[[], int]  # microseconds since the epoch

    async def handle(self, msg: Msg) -> PendingAck:
        """See to the digest that an alarm is about, or to one that was a dead letter."""
        revived = redrive_of(msg.headers)
        if revived is not None:
            return await self._redrive(msg, revived)
        try:
            alarm = _alarms.decode(msg.data)
        except msgspec.MsgspecError:
            log.warning("%s: this is no alarm: %.100r", msg.subject, msg.data)
            return PendingAck(messages=())
        rulebook = self.rulebook()
        rule = rulebook.by_id.get(alarm.rule)
        if rule is None or digest_spec(rule.limits, alarm.key) is None:
            return await self._drop_orphaned(rulebook, alarm)
        later = await self.flush_due(rulebook, rule, alarm.key)
        # Rung by this message: the stream must not take it for the one that has just rung.
        by = str(message_metadata(msg.reply).sequence)
        again = digest_timers(self.broker.topology, [replace(alarm, at=later)] if later else [], by=by)
        return PendingAck(messages=again)

    async def flush_due(self, rulebook: Rulebook, rule: Rule, key: str, *, early: bool = False) -> int:
        """Tell what lies under ``key`` if it is due, and say when what is left will be; 0: nothing is.

        ``early`` waits neither for its time nor for a budget: nobody will ask again.

        Raises BrokerError; all of it may be done again then, and makes the same messages.
        """
        now = self.clock()
        batch = await self.broker.state.run(take_due(key, rule.limits, now, early=early))
        if isinstance(batch, NotDueYet):
            return batch.until
        if batch is None:
            return 0
        # What was sealed before may be told already, as it was decided then.
        found = RecordedPlan() if batch.at == now else await self._find(digest_event(key, batch))
        if found.plan is None:
            told = await self._plan_digest(rulebook, rule, key, batch, now, early=early)
            if isinstance(told, NotDueYet):
                return told.until
            planned, outgoing = self._messages_for_plan(
                told, {RESENT_HEADER: "1"} if found.is_known else NO_HEADERS
            )
            if not await self.broker.publisher.store_if_new(self._entry(planned, now)):
                found = await self._find(planned.event)  # another replica was quicker
        if found.plan is not None:

            def make(choices_of: ChoicesOf) -> Plan:
                return replan_digest(
                    rulebook, rule, key, batch, now=now, choices_of=choices_of, recorded=found.plan
                )

            told = await self.preferences.with_choices(make)
            planned, outgoing = self._messages_for_plan(told, {RESENT_HEADER: "1"})
        await self.broker.publisher.store(*outgoing, *self._dead_letters(rulebook, planned, batch))
        for suppressed in planned.suppressed:
            self.metrics.count(self.metrics.suppressed, suppressed.rule, suppressed.reason)
        return await self.broker.state.run(confirm(key, rule.limits, batch.number))

    async def _plan_digest(
        self, rulebook: Rulebook, rule: Rule, key: str, batch: Batch, now: int, *, early: bool
    ) -> Plan | NotDueYet:
        """What hours and budgets make of a digest."""

        def make(choices_of: ChoicesOf) -> Plan | NotDueYet | PendingSteps[Plan | NotDueYet]:
            if early:
                return replan_digest(rulebook, rule, key, batch, now=now, choices_of=choices_of)
            return advance(plan_digest(rulebook, rule, key, batch, now=now, choices_of=choices_of))

        told: Plan | NotDueYet = await self.broker.state.resume(await self.preferences.with_choices(make))
        hops = max(event.hops for event in batch.events)
        for used_up in told.exhausted_budgets:
            await self.herald.notify_budget_exhausted(used_up, hops=hops)
        return told

    async def _find(self, event: Event) -> RecordedPlan:
        return await PlanStore(self.broker).find(event, event.reqid)

    async def _redrive(self, msg: Msg, again: Redrive) -> PendingAck:
        """Tell of what a letter holds, whatever is gathered by now and whatever the budgets say."""
        nothing = PendingAck(messages=())
        try:
            letter = _letters.decode(msg.data)
        except msgspec.MsgspecError:
            log.exception("%s: this is no digest", msg.subject)
            return nothing
        rulebook, key, batch, now = self.rulebook(), letter.key, letter.batch, self.clock()
        rule = rulebook.by_id.get(letter.rule)

        def make(choices_of: ChoicesOf) -> Plan:
            if rule is None:
                return plan_dropped_digest(rulebook.revision, letter.rule, key, batch)
            return replan_digest(rulebook, rule, key, batch, now=now, choices_of=choices_of)

        planned = only_redriven(await self.preferences.with_choices(make), again)
        is_new = self.broker.connection.is_first_delivery_now(msg, message_metadata(msg.reply))
        planned, outgoing = self._messages_for_plan(planned, NO_HEADERS if is_new else {RESENT_HEADER: "1"})
        dead = self._dead_letters(rulebook, planned, batch)
        await self.broker.publisher.store(self._entry(planned, now), *outgoing, *dead)
        return nothing

    async def flush_removed(self, before: Rulebook, after: Rulebook) -> None:
        """Tell at once what was gathered for rules that ``after`` has not, or that gather nothing there."""
        for rule in before.rules:
            now = after.by_id.get(rule.id)
            for name in BUFFERING:
                digest = digest_spec(rule.limits, f"{name}.")
                if digest and digest.flushes and not (now and digest_spec(now.limits, f"{name}.")):
                    for key in await self.broker.state.bucket.keys_with_prefix(state_prefix(name, rule.id)):
                        while await self.flush_due(before, rule, key, early=True):
                            pass  # what was sealed before went first

    def _messages_for_plan(
        self, planned: Plan, headers: Mapping[str, str]
    ) -> tuple[Plan, list[OutgoingMessage]]:
        return messages_for_plan(
            self.broker.topology, planned, self.broker.max_payload, self.clock(), headers
        )

    def _entry(self, planned: Plan, at: int) -> OutgoingMessage:
        return entries.plan_entry(self.broker.topology, planned, at=at, id_=_name(planned))

    def _dead_letters(self, rulebook: Rulebook, planned: Plan, batch: Batch) -> list[OutgoingMessage]:
        """What could not be written, with all that it would have told of."""
        for failure in planned.failures:
            detail = mask(failure.detail, planned.secrets)
            log.error("digest of rule %s, channel %s: %s", failure.rule, failure.channel, detail)
        return [self._dead_letter(rulebook, planned, failure, batch) for failure in planned.failures]

    def _dead_letter(
        self, rulebook: Rulebook, planned: Plan, failure: Failure, batch: Batch
    ) -> OutgoingMessage:
        assert planned.digest is not None  # noqa: S101 -- of a digest
        key = planned.digest.key
        known = filter(None, (rulebook.catalogue.get(event.name) for event in planned.digest.events))
        secrets = dict.fromkeys(path for schema in known for path in schema.secrets)
        self.metrics.dead.labels(planned.event.kind, "digest-render-failed").inc()
        dead_letter = DeadLetter(
            kind=planned.event.kind,
            reason="digest-render-failed",
            detail=mask(failure.detail, planned.secrets),
            subject=self.broker.topology.due_subject("digest", key),
            reqid=planned.event.reqid,
            rule=failure.rule,
            channel=failure.channel,
            delivery=failure.delivery,
            revision=planned.revision,
            received=planned.event.received,
            sensitive=sensitive_header(tuple(secrets)),
        )
        return dead_letter.to_message(
            self.broker.topology,
            msgspec.json.encode(_DeadDigest(key, failure.rule, batch)),
            id_=f"{_name(planned)}.{failure.delivery}",
            max_payload=self.broker.max_payload,
        )

    async def _drop_orphaned(self, rulebook: Rulebook, alarm: DigestTimer) -> PendingAck:
        """The rule is gone, or gathers nothing any more: what it had gathered is recorded as not sent."""
        left = True
        while left:
            now = self.clock()
            batch = await self.broker.state.run(take_due(alarm.key, NO_LIMITS, now, early=True))
            if not isinstance(batch, Batch):
                break
            planned = plan_dropped_digest(rulebook.revision, alarm.rule, alarm.key, batch)
            await self.broker.publisher.store(self._entry(planned, now))
            left = await self.broker.state.run(confirm(alarm.key, NO_LIMITS, batch.number)) > 0
            self.metrics.count(self.metrics.suppressed, alarm.rule, "removed")
        return PendingAck(messages=())


def _name(planned: Plan) -> str:
    """Tells a digest from every other; one that was a dead letter from what it was before."""
    letter = f".{planned.redrive.dead_letter}" if planned.redrive else ""
    return f"{planned.event.reqid}{letter}"
