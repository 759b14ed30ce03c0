"""Flush digests that are due: plan, store, and only then remove the events from the buffer.

A digest that cannot be written becomes a dead letter with the whole batch, which can be redriven.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import msgspec
from nats.aio.msg import Msg

from ..broker import Broker, OutgoingMessage, PendingAck, message_metadata
from ..broker.codec import Redrive, redrive_of
from ..broker.publisher import NO_HEADERS
from ..history import entries
from ..history.dead_letters import DeadLetter, only_redriven, sensitive_header
from ..history.plan_store import PlanStore, RecordedPlan
from ..metrics import Metrics
from ..model.masking import mask
from ..model.messages import Failure
from ..planning.draft import DigestTimer
from ..planning.limits.digest import BUFFERING, Batch, NotDueYet, confirm, digest_event, digest_spec, take_due
from ..planning.limits.state import PendingSteps, advance, state_prefix
from ..planning.planner import Plan, plan_digest, plan_dropped_digest, replan_digest
from ..planning.recipients import ChoicesOf
from ..planning.records import PlanRecord
from ..preferences.cache import PreferenceCache
from ..rules.rulebook import NO_LIMITS, Rule, Rulebook
from .dispatch import RESENT, digest_timer, messages_for_plan
from .operator_notices import OperatorNotifier

log = logging.getLogger(__name__)


class _DeadDigest(msgspec.Struct, frozen=True):
    """The payload of a dead letter: a digest that could not be rendered, with its events."""

    key: str  # of its buffer
    rule: str
    batch: Batch

    def __post_init__(self) -> None:
        if not self.batch.events:  # a stored batch may be without events; a digest may not
            raise ValueError("a digest without events")


_timers = msgspec.json.Decoder(DigestTimer)
_dead_digests = msgspec.json.Decoder(_DeadDigest)


@dataclass(frozen=True, slots=True)
class _DueBatch:
    """A batch to send now, by a rule of a rulebook."""

    rulebook: Rulebook
    rule: Rule
    key: str  # of the buffer
    batch: Batch
    now: int  # microseconds since the epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestFlusher:
    """Sends the digests whose time has come."""

    broker: Broker
    notifier: OperatorNotifier
    rulebook: Callable[[], Rulebook]  # read once for each digest
    preferences: PreferenceCache
    metrics: Metrics
    clock: Callable[[], int]  # microseconds since the epoch

    async def handle(self, msg: Msg) -> PendingAck:
        """Flush the digest that a timer names, or redrive one that was a dead letter."""
        if redrive := redrive_of(msg.headers):
            return await self._redrive(msg, redrive)
        try:
            timer = _timers.decode(msg.data)
        except msgspec.MsgspecError:
            log.warning("%s: not a digest timer: %.100r", msg.subject, msg.data)
            return PendingAck()
        rulebook = self.rulebook()
        rule = rulebook.by_id.get(timer.rule)
        if rule is None or digest_spec(rule.limits, timer.key) is None:
            return await self._drop_orphaned(rulebook, timer)
        later = await self.flush_due(rulebook, rule, timer.key)
        if not later:
            return PendingAck()
        # The sequence of this message makes the next timer unique: the stream does not drop it as a repeat.
        by = str(message_metadata(msg.reply).sequence)
        return PendingAck(messages=(digest_timer(self.broker.topology, replace(timer, at=later), by=by),))

    async def flush_due(self, rulebook: Rulebook, rule: Rule, key: str, *, early: bool = False) -> int:
        """Send the digest under ``key`` if it is due. Return when the next one is due; 0 if there is none.

        With ``early``, the digest waits neither for its time nor for a budget, because no timer follows.
        Raises BrokerError. The caller can then flush again, which makes the same messages.
        """
        now = self.clock()
        batch = await self.broker.state.run(take_due(key, rule.limits, now, early=early))
        if isinstance(batch, NotDueYet):
            return batch.until
        if batch is None:
            return 0
        plans, found = PlanStore(self.broker), RecordedPlan()
        if batch.at != now:  # it was sealed earlier, and may have been planned then
            event = digest_event(key, batch)
            found = await plans.find(event, event.reqid)
        due, recorded = _DueBatch(rulebook, rule, key, batch, now), found.plan
        if recorded is None:
            new = await (self._replan_digest(due) if early else self._plan_digest(due))
            if isinstance(new, NotDueYet):
                return new.until
            planned, messages = self._messages_for_plan(new, RESENT if found.is_known else NO_HEADERS)
            recorded = await plans.record(planned, planned.event.reqid, at=now, slot=_name(planned))
        if recorded is not None:
            planned, messages = self._messages_for_plan(await self._replan_digest(due, recorded), RESENT)
        await self.broker.publisher.store(*messages, *self._dead_letters(rulebook, planned, batch))
        for suppressed in planned.suppressed:
            self.metrics.count(self.metrics.suppressed, suppressed.rule, suppressed.reason)
        return await self.broker.state.run(confirm(key, rule.limits, batch.number))

    async def _plan_digest(self, due: _DueBatch) -> Plan | NotDueYet:
        """Plan a digest with its time windows and budgets."""

        def start(choices_of: ChoicesOf) -> Plan | NotDueYet | PendingSteps[Plan | NotDueYet]:
            return advance(
                plan_digest(due.rulebook, due.rule, due.key, due.batch, now=due.now, choices_of=choices_of)
            )

        planned: Plan | NotDueYet = await self.broker.state.resume(await self.preferences.with_choices(start))
        hops = max(event.hops for event in due.batch.events)
        await self.notifier.notify_budgets_exhausted(planned.exhausted_budgets, hops=hops)
        return planned

    async def _replan_digest(self, due: _DueBatch, recorded: PlanRecord | None = None) -> Plan:
        """Plan a digest without limits: as it was recorded, or with its time windows alone."""

        def make(choices_of: ChoicesOf) -> Plan:
            return replan_digest(
                due.rulebook, due.rule, due.key, due.batch,
                now=due.now, choices_of=choices_of, recorded=recorded,
            )  # fmt: skip

        return await self.preferences.with_choices(make)

    async def _redrive(self, msg: Msg, redrive: Redrive) -> PendingAck:
        """Send the digest of a dead letter without its limits, and without events that are buffered now."""
        try:
            dead = _dead_digests.decode(msg.data)
        except msgspec.MsgspecError:
            log.exception("%s: not a digest", msg.subject)
            return PendingAck()
        rulebook, now = self.rulebook(), self.clock()
        if rule := rulebook.by_id.get(dead.rule):
            planned = await self._replan_digest(_DueBatch(rulebook, rule, dead.key, dead.batch, now))
        else:
            planned = plan_dropped_digest(rulebook.revision, dead.rule, dead.key, dead.batch)
        is_new = self.broker.connection.is_first_delivery_now(msg, message_metadata(msg.reply))
        planned, messages = self._messages_for_plan(
            only_redriven(planned, redrive), NO_HEADERS if is_new else RESENT
        )
        dead_letters = self._dead_letters(rulebook, planned, dead.batch)
        await self.broker.publisher.store(self._entry(planned, now), *messages, *dead_letters)
        return PendingAck()

    async def flush_removed(self, before: Rulebook, after: Rulebook) -> None:
        """Send the digests of rules that ``after`` no longer has, or that have no digest there, at once."""
        for rule in before.rules:
            later = after.by_id.get(rule.id)
            for name in BUFFERING:
                digest = digest_spec(rule.limits, f"{name}.")
                if digest and digest.flushes and not (later and digest_spec(later.limits, f"{name}.")):
                    for key in await self.broker.state.bucket.keys_with_prefix(state_prefix(name, rule.id)):
                        while await self.flush_due(before, rule, key, early=True):
                            pass  # a batch that was sealed earlier is sent first

    def _messages_for_plan(
        self, planned: Plan, headers: Mapping[str, str]
    ) -> tuple[Plan, list[OutgoingMessage]]:
        return messages_for_plan(
            self.broker.topology, planned, self.broker.max_payload, self.clock(), headers
        )

    def _entry(self, planned: Plan, at: int) -> OutgoingMessage:
        return entries.plan_entry(self.broker.topology, planned, at=at, id_=_name(planned))

    def _dead_letters(self, rulebook: Rulebook, planned: Plan, batch: Batch) -> list[OutgoingMessage]:
        """Return a dead letter with the whole batch for each message that could not be rendered."""
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

    async def _drop_orphaned(self, rulebook: Rulebook, timer: DigestTimer) -> PendingAck:
        """Record that the digest of a removed rule, or of one that has no digest any more, is not sent."""
        left = True
        while left:
            now = self.clock()
            batch = await self.broker.state.run(take_due(timer.key, NO_LIMITS, now, early=True))
            if not isinstance(batch, Batch):
                break
            planned = plan_dropped_digest(rulebook.revision, timer.rule, timer.key, batch)
            await self.broker.publisher.store(self._entry(planned, now))
            left = await self.broker.state.run(confirm(timer.key, NO_LIMITS, batch.number)) > 0
            self.metrics.count(self.metrics.suppressed, timer.rule, "removed")
        return PendingAck()


def _name(planned: Plan) -> str:
    """Return the id of the plan of a digest; each redrive has a different one."""
    suffix = f".{planned.redrive.dead_letter}" if planned.redrive else ""
    return f"{planned.event.reqid}{suffix}"
