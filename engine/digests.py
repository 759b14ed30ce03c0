"""Digests whose time has come: told, stored, and only then taken from what was gathered.

What cannot be written is a dead letter with the whole batch, which can be told again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import msgspec
from nats.aio.msg import Msg

from . import history
from .broker import AGAIN, Connection, Outgoing, Publisher, Settlement, Topology, handout
from .catalogue import mask
from .choices import ChoicesOf
from .dead import Again, again_in, narrowed
from .dead_payload import SENSITIVE, sensitive_header
from .dispatch import NO_HEADERS, dispatched, rung
from .draft import Alarm
from .gates import (
    GATHERING,
    Batch,
    Postponed,
    digest_at,
    digest_event,
    pool_prefix,
    settle_batch,
    take_batch,
)
from .limits import NO_LIMITS
from .memory import Begun, Memory, begin
from .metrics import Metrics
from .model import Event, Failure
from .notices import Herald
from .plan import Plan, discarded, retold, tell_batch
from .preference_cache import PreferenceCache
from .records import Found, Records
from .rulebook import Rule, Rulebook

log = logging.getLogger(__name__)


class _Letter(msgspec.Struct, frozen=True):
    """What is kept of a digest that could not be written: enough to tell it again."""

    key: str  # where its events lay
    rule: str
    batch: Batch


_alarms = msgspec.json.Decoder(Alarm)
_letters = msgspec.json.Decoder(_Letter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """Tells what was gathered."""

    topology: Topology
    connection: Connection
    publisher: Publisher
    memory: Memory
    records: Records
    herald: Herald
    rulebook: Callable[[], Rulebook]  # read once for each digest
    preferences: PreferenceCache
    metrics: Metrics
    clock: Callable[[], int]  # microseconds since the epoch

    async def handle(self, msg: Msg) -> Settlement:
        """See to the digest that an alarm is about, or to one that was a dead letter."""
        revived = again_in(msg.headers)
        if revived is not None:
            return await self._tell_again(msg, revived)
        try:
            alarm = _alarms.decode(msg.data)
        except msgspec.MsgspecError:
            log.warning("%s: this is no alarm: %.100r", msg.subject, msg.data)
            return Settlement(publisher=self.publisher, messages=())
        rulebook = self.rulebook()
        rule = rulebook.by_id.get(alarm.rule)
        if rule is None or digest_at(rule.limits, alarm.key) is None:
            return await self._without_rule(rulebook, alarm)
        later = await self.tell(rulebook, rule, alarm.key)
        # Rung by this message: the stream must not take it for the one that has just rung.
        by = str(handout(msg.reply).sequence)
        again = rung(self.topology, [replace(alarm, at=later)] if later else [], by=by)
        return Settlement(publisher=self.publisher, messages=again)

    async def tell(self, rulebook: Rulebook, rule: Rule, key: str, *, early: bool = False) -> int:
        """Tell what lies under ``key`` if it is due, and say when what is left will be; 0: nothing is.

        ``early`` waits neither for its time nor for a budget: nobody will ask again.

        Raises BrokerError; all of it may be done again then, and makes the same messages.
        """
        now = self.clock()
        batch = await self.memory.carry_out(take_batch(key, rule.limits, now, early=early))
        if isinstance(batch, Postponed):
            return batch.until
        if batch is None:
            return 0
        # What was sealed before may be told already, as it was decided then.
        found = Found() if batch.at == now else await self._find(digest_event(key, batch))
        if found.plan is None:
            told = await self._ask(rulebook, rule, key, batch, now, early=early)
            if isinstance(told, Postponed):
                return told.until
            planned, outgoing = self._dispatched(told, {AGAIN: "1"} if found.is_known else NO_HEADERS)
            if not await self.publisher.store_first(self._entry(planned, now)):
                found = await self._find(planned.event)  # another replica was quicker
        if found.plan is not None:

            def make(choices_of: ChoicesOf) -> Plan:
                return retold(rulebook, rule, key, batch, now=now, choices_of=choices_of, recorded=found.plan)

            told = await self.preferences.with_choices(make)
            planned, outgoing = self._dispatched(told, {AGAIN: "1"})
        await self.publisher.store(*outgoing, *self._dead(rulebook, planned, batch))
        for suppressed in planned.suppressed:
            self.metrics.count(self.metrics.suppressed, suppressed.rule, suppressed.reason)
        return await self.memory.carry_out(settle_batch(key, rule.limits, batch.number))

    async def _ask(
        self, rulebook: Rulebook, rule: Rule, key: str, batch: Batch, now: int, *, early: bool
    ) -> Plan | Postponed:
        """What hours and budgets make of a digest."""

        def make(choices_of: ChoicesOf) -> Plan | Postponed | Begun:
            if early:
                return retold(rulebook, rule, key, batch, now=now, choices_of=choices_of)
            return begin(tell_batch(rulebook, rule, key, batch, now=now, choices_of=choices_of))

        begun = await self.preferences.with_choices(make)
        told: Plan | Postponed = await self.memory.finish(begun) if isinstance(begun, Begun) else begun
        hops = max(gathered.hops for gathered in batch.events)
        for used_up in told.used_up:
            await self.herald.budget_used_up(used_up, hops=hops)
        return told

    async def _find(self, event: Event) -> Found:
        return await self.records.find(event, event.reqid)

    async def _tell_again(self, msg: Msg, again: Again) -> Settlement:
        """Tell of what a letter holds, whatever is gathered by now and whatever the budgets say."""
        nothing = Settlement(publisher=self.publisher, messages=())
        try:
            letter = _letters.decode(msg.data)
        except msgspec.MsgspecError:
            log.exception("%s: this is no digest", msg.subject)
            return nothing
        rulebook, key, batch, now = self.rulebook(), letter.key, letter.batch, self.clock()
        rule = rulebook.by_id.get(letter.rule)

        def make(choices_of: ChoicesOf) -> Plan:
            if rule is None:
                return discarded(rulebook.revision, letter.rule, key, batch)
            return retold(rulebook, rule, key, batch, now=now, choices_of=choices_of)

        planned = narrowed(await self.preferences.with_choices(make), again)
        is_new = self.connection.is_surely_new(msg, handout(msg.reply))
        planned, outgoing = self._dispatched(planned, NO_HEADERS if is_new else {AGAIN: "1"})
        dead = self._dead(rulebook, planned, batch)
        await self.publisher.store(self._entry(planned, now), *outgoing, *dead)
        return nothing

    async def flush(self, before: Rulebook, after: Rulebook) -> None:
        """Tell at once what was gathered for rules that ``after`` has not, or that gather nothing there."""
        for rule in before.rules:
            now = after.by_id.get(rule.id)
            for name in GATHERING:
                digest = digest_at(rule.limits, f"{name}.")
                if digest and digest.flushes and not (now and digest_at(now.limits, f"{name}.")):
                    for key in await self.memory.state.keys_below(pool_prefix(name, rule.id)):
                        while await self.tell(before, rule, key, early=True):
                            pass  # what was sealed before went first

    def _dispatched(self, planned: Plan, headers: Mapping[str, str]) -> tuple[Plan, list[Outgoing]]:
        return dispatched(self.topology, planned, self.connection.largest_payload, self.clock(), headers)

    def _entry(self, planned: Plan, at: int) -> Outgoing:
        return history.planned(self.topology, planned, at=at, id_=_name(planned))

    def _dead(self, rulebook: Rulebook, planned: Plan, batch: Batch) -> list[Outgoing]:
        """What could not be written, with all that it would have told of."""
        for failure in planned.failures:
            detail = mask(failure.detail, planned.secrets)
            log.error("digest of rule %s, channel %s: %s", failure.rule, failure.channel, detail)
        return [self._letter(rulebook, planned, failure, batch) for failure in planned.failures]

    def _letter(self, rulebook: Rulebook, planned: Plan, failure: Failure, batch: Batch) -> Outgoing:
        assert planned.digest is not None  # noqa: S101 -- of a digest
        key = planned.digest.key
        known = filter(None, (rulebook.catalogue.get(event.name) for event in planned.digest.events))
        secrets = dict.fromkeys(path for schema in known for path in schema.secrets)
        self.metrics.dead.labels(planned.event.kind, "digest-render-failed").inc()
        return history.dead(
            self.topology,
            kind=planned.event.kind,
            reason="digest-render-failed",
            detail=mask(failure.detail, planned.secrets),
            id=f"{_name(planned)}.{failure.delivery}",
            payload=msgspec.json.encode(_Letter(key, failure.rule, batch)),
            about={
                "subject": self.topology.due_subject("digest", key),
                "received": planned.event.received,
                SENSITIVE: sensitive_header(tuple(secrets)),
                "reqid": planned.event.reqid,
                "rule": failure.rule,
                "channel": failure.channel,
                "delivery": failure.delivery,
                "revision": planned.revision,
            },
            room=self.connection.largest_payload,
        )

    async def _without_rule(self, rulebook: Rulebook, alarm: Alarm) -> Settlement:
        """The rule is gone, or gathers nothing any more: what it had gathered is recorded as not sent."""
        left = True
        while left:
            now = self.clock()
            batch = await self.memory.carry_out(take_batch(alarm.key, NO_LIMITS, now, early=True))
            if not isinstance(batch, Batch):
                break
            planned = discarded(rulebook.revision, alarm.rule, alarm.key, batch)
            await self.publisher.store(self._entry(planned, now))
            left = await self.memory.carry_out(settle_batch(alarm.key, NO_LIMITS, batch.number)) > 0
            self.metrics.count(self.metrics.suppressed, alarm.rule, "removed")
        return Settlement(publisher=self.publisher, messages=())


def _name(planned: Plan) -> str:
    """Tells a digest from every other; one that was a dead letter from what it was before."""
    letter = f".{planned.revival.letter}" if planned.revival else ""
    return f"{planned.event.reqid}{letter}"
