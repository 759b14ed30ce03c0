"""Digests whose time has come: told, stored, and only then taken from what was gathered."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec
from nats.aio.msg import Msg

from . import history
from .broker import AGAIN, Connection, Outgoing, Publisher, Settlement, Topology, handout, keys_below
from .choices import ChoicesOf
from .dispatch import HEADER_ROOM, dispatched, rung
from .draft import Alarm
from .gates import GATHERING, Batch, Postponed, digest_at, pool_prefix, settle_batch, take_batch
from .limits import NO_LIMITS
from .memory import Begun, Memory, begin
from .metrics import Metrics
from .model import Failure
from .notices import Herald
from .plan import Plan, discarded, tell_batch
from .preference_cache import PreferenceCache
from .rulebook import Rule, Rulebook

log = logging.getLogger(__name__)

_alarms = msgspec.json.Decoder(Alarm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """Tells what was gathered."""

    topology: Topology
    connection: Connection
    publisher: Publisher
    memory: Memory
    herald: Herald
    rulebook: Callable[[], Rulebook]  # read once for each digest
    preferences: PreferenceCache
    metrics: Metrics
    clock: Callable[[], int]  # microseconds since the epoch
    _rules: dict[str, dict[str, Rule]] = field(default_factory=dict)  # by revision, of the last one asked

    async def handle(self, msg: Msg) -> Settlement:
        """See to the digest that an alarm is about."""
        try:
            alarm = _alarms.decode(msg.data)
        except msgspec.MsgspecError:
            log.warning("%s: this is no alarm: %.100r", msg.subject, msg.data)
            return Settlement(publisher=self.publisher, messages=())
        rulebook = self.rulebook()
        rule = self._rule(rulebook, alarm.rule)
        if rule is None or digest_at(rule.limits, alarm.key) is None:
            return await self._without_rule(rulebook, alarm)
        is_new = self.connection.is_surely_new(msg, handout(msg.reply))
        later = await self.tell(rulebook, rule, alarm.key, is_new=is_new)
        again = rung(self.topology, [replace(alarm, at=later)] if later else [])
        return Settlement(publisher=self.publisher, messages=again)

    async def tell(
        self, rulebook: Rulebook, rule: Rule, key: str, *, is_new: bool, early: bool = False
    ) -> int:
        """Tell what lies under ``key`` if it is due; else say when it will be, 0 where nothing is there.

        Raises BrokerError; all of it may be done again then, and makes the same messages.
        """
        now = self.clock()
        batch = await self.memory.carry_out(take_batch(key, rule.limits, now, early=early))
        if isinstance(batch, Postponed):
            return batch.until
        if batch is None:
            return 0

        def make(choices_of: ChoicesOf) -> Plan | Postponed | Begun:
            return begin(tell_batch(rulebook, rule, key, batch, now=now, choices_of=choices_of))

        begun = await self.preferences.with_choices(make)
        told: Plan | Postponed = await self.memory.finish(begun) if isinstance(begun, Begun) else begun
        hops = max(gathered.hops for gathered in batch.events)
        for used_up in told.used_up:
            await self.herald.budget_used_up(used_up, hops=hops)
        if isinstance(told, Postponed):
            return told.until
        await self._store(told, {} if is_new else {AGAIN: "1"})
        await self._settle(key, rule, told)
        return 0

    async def flush(self, before: Rulebook, after: Rulebook) -> None:
        """Tell at once what was gathered for rules that ``after`` has not, or that gather nothing there."""
        for rule in before.rules:
            now = self._rule(after, rule.id)
            for name in GATHERING:
                digest = digest_at(rule.limits, f"{name}.")
                if digest and digest.flushes and not (now and digest_at(now.limits, f"{name}.")):
                    for key in await keys_below(self.memory.state, pool_prefix(name, rule.id)):
                        await self.tell(before, rule, key, is_new=False, early=True)

    async def _settle(self, key: str, rule: Rule, planned: Plan) -> None:
        assert planned.digest is not None  # noqa: S101 -- digesting makes no other
        await self.memory.carry_out(settle_batch(key, rule.limits, planned.digest.number))
        for suppressed in planned.suppressed:
            self.metrics.count(self.metrics.suppressed, suppressed.rule, suppressed.reason)

    async def _store(self, planned: Plan, headers: dict[str, str]) -> None:
        room = self.connection.client.max_payload - HEADER_ROOM
        planned, outgoing = dispatched(self.topology, planned, room, headers)
        for failure in planned.failures:
            log.error("digest of rule %s, channel %s: %s", failure.rule, failure.channel, failure.detail)
        entry = history.planned(self.topology, planned, at=self.clock(), id_=planned.event.reqid)
        dead = [self._dead(planned, failure) for failure in planned.failures]
        await self.publisher.store(entry, *outgoing, *dead)

    def _dead(self, planned: Plan, failure: Failure) -> Outgoing:
        """What could not be written, with all that it would have told of."""
        told = planned.digest.events if planned.digest else ()
        events = [{"key": each.key, "reqid": each.reqid, "payload": each.payload} for each in told]
        self.metrics.dead.labels(planned.event.kind, "digest-not-written").inc()
        return history.dead(
            self.topology,
            kind=planned.event.kind,
            reason="digest-not-written",
            detail=failure.detail,
            id=f"{planned.event.reqid}.{failure.delivery}",
            payload=msgspec.json.encode({"events": events}),
            about={
                "reqid": planned.event.reqid,
                "rule": failure.rule,
                "channel": failure.channel,
                "delivery": failure.delivery,
                "revision": planned.revision,
            },
            room=self.connection.client.max_payload,
        )

    async def _without_rule(self, rulebook: Rulebook, alarm: Alarm) -> Settlement:
        """The rule is gone, or gathers nothing any more: what it had gathered is recorded as not sent."""
        row = take_batch(alarm.key, NO_LIMITS, self.clock(), early=True)
        batch = await self.memory.carry_out(row)
        if isinstance(batch, Batch) and batch.events:
            planned = discarded(rulebook.revision, alarm.rule, alarm.key, batch)
            entry = history.planned(self.topology, planned, at=self.clock(), id_=planned.event.reqid)
            await self.publisher.store(entry)
            await self.memory.carry_out(settle_batch(alarm.key, NO_LIMITS, batch.number))
            self.metrics.count(self.metrics.suppressed, alarm.rule, "removed")
        return Settlement(publisher=self.publisher, messages=())

    def _rule(self, rulebook: Rulebook, id_: str) -> Rule | None:
        if rulebook.revision not in self._rules:
            self._rules.clear()
            self._rules[rulebook.revision] = {rule.id: rule for rule in rulebook.rules}
        return self._rules[rulebook.revision].get(id_)
