"""From a message on an event stream to stored deliveries.

An event is acknowledged only when its deliveries, its history and its archive copy are stored. What
is no event, or cannot be planned, goes to the dead letters with the reason; then it is acknowledged.

What was decided of an event counts once it is in the history: what comes again follows that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from nats.aio.msg import Msg

from . import entries, history
from .arrival import Arrival, decode, hops_in
from .broker import AGAIN, Connection, Outgoing, Publisher, Settlement, Topology, handout
from .catalogue import mask
from .choices import ChoicesOf
from .dead import again_in, narrowed
from .dead_payload import SENSITIVE, sensitive_header
from .dispatch import NO_HEADERS, dispatched
from .draft import Draft, draft
from .errors import NotLookedUp, NotStored, UndecodableError
from .gates import withdraw
from .memory import Begun, Memory, begin
from .metrics import Metrics
from .model import HOPS, Failure, Kind
from .notices import Herald
from .plan import Plan, plan, planning, replanned
from .preference_cache import PreferenceCache
from .records import Found, Records
from .rulebook import Rulebook

log = logging.getLogger(__name__)

_SENT_BEFORE = {AGAIN: "1"}  # headers of what may be sent already, and forgotten by a broker that was killed
_MOST_HANDED_OUT = 1000  # times that an event may come: one that ends the process would come for ever


class Clock(Protocol):
    """The present time in microseconds since the epoch."""

    def __call__(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """Plans the events of one kind."""

    kind: Kind
    topology: Topology
    connection: Connection
    publisher: Publisher
    memory: Memory
    records: Records
    herald: Herald
    preferences: PreferenceCache
    rulebook: Callable[[], Rulebook]  # read once for each event
    metrics: Metrics
    clock: Clock
    tolerance: Callable[[], float]  # seconds

    def handle(self, msg: Msg) -> Settlement | Coroutine[Any, Any, Settlement]:
        """Plan one event: what is to be stored of it before it is acknowledged."""
        rulebook = self.rulebook()
        handed = handout(msg.reply)
        again = again_in(msg.headers)
        try:
            event = decode(
                msg.data,
                kind=self.kind,
                key=self.topology.key(self.kind, msg.subject),
                # What was a dead letter is judged by when the broker took it first.
                received=min(handed.stored, again.received) if again else handed.stored,
                tolerance=self.tolerance(),
                catalogue=rulebook.catalogue,
                hops=hops_in(msg.headers),
            )
        except UndecodableError as error:
            return self._bury(msg, error.reason, str(error), rulebook)
        if handed.number > _MOST_HANDED_OUT:
            return self.give_up(msg)
        arrival = Arrival(
            msg=msg, handed=handed, again=again, event=event, rulebook=rulebook, at=self.clock()
        )
        if not self.connection.is_surely_new(msg, handed):
            return self._plan_again(arrival)
        try:
            begun = _begin(arrival, self.preferences.choices_of)
        except NotLookedUp:
            return self._look_up(arrival)
        if isinstance(begun, Begun):
            return self._ask(arrival, begun)
        return self._carry_out(arrival, begun)

    async def _look_up(self, arrival: Arrival, found: Found | None = None) -> Settlement:
        """Plan with what the broker has to be asked for of people's preferences."""
        begun = await self.preferences.with_choices(partial(_begin, arrival, comes_again=found is not None))
        return await self._ask(arrival, begun, found)

    async def _ask(self, arrival: Arrival, begun: Plan | Begun, found: Found | None = None) -> Settlement:
        """Carry out what the gates, which have to be asked, leave of the plan.

        ``found`` is what the history has of an event that may have come before.
        """
        headers = _SENT_BEFORE if found and found.is_known else NO_HEADERS
        if isinstance(begun, Plan):
            return self._carry_out(arrival, begun, headers)
        place = await self.records.place(arrival.event, arrival.event_name, found, at=arrival.at)
        planned = _narrowed(arrival, await self.memory.finish(begun))
        for used_up in planned.used_up:
            await self.herald.budget_used_up(used_up, hops=planned.event.hops)
        planned, stored = self._dispatched(arrival, planned, headers)
        if await self.publisher.store_first(
            history.planned(self.topology, planned, at=arrival.at, id_=place)
        ):
            return self._settlement(arrival, planned, stored)
        found = await self._find(arrival)
        if found.plan is None:
            raise NotStored(f"{arrival.event_name} is being planned by another replica")  # it comes again
        return await self._follow(arrival, found.plan)

    async def _plan_again(self, arrival: Arrival) -> Settlement:
        """Follow what was written down of an event that came before; plan one of which nothing is."""
        if await self.connection.is_new(arrival.msg, arrival.handed):
            return await self._look_up(arrival)
        found = await self._find(arrival)
        return await (self._follow(arrival, found.plan) if found.plan else self._look_up(arrival, found))

    async def _find(self, arrival: Arrival) -> Found:
        return await self.records.find(arrival.event, arrival.event_name, arrival.revival)

    async def _follow(self, arrival: Arrival, recorded: entries.Plan) -> Settlement:
        """Store again what was decided: all of it may be stored, or none.

        Whoever asked the gates once more may have been told to wait with others: that is undone.
        """

        def make(choices_of: ChoicesOf) -> tuple[Draft, Plan]:
            drafted = draft(arrival.rulebook, arrival.event, choices_of)
            return drafted, replanned(drafted, recorded, arrival.at)

        drafted, planned = await self.preferences.with_choices(make)
        planned = _narrowed(arrival, planned)
        if not arrival.is_partial:  # of that no gate was asked
            gathered = {each.rule for each in recorded.held if each.digest}
            alarms = await self.memory.carry_out(withdraw(drafted, gathered))
            planned = replace(planned, alarms=(*planned.alarms, *alarms))
        return self._settlement(arrival, *self._dispatched(arrival, planned, _SENT_BEFORE))

    def _carry_out(
        self, arrival: Arrival, planned: Plan, headers: Mapping[str, str] = NO_HEADERS
    ) -> Settlement:
        planned, stored = self._dispatched(arrival, planned, headers)
        # The history comes first: an event that is not in it has no delivery in the stream either.
        entry = history.planned(self.topology, planned, at=arrival.at, id_=arrival.name)
        return self._settlement(arrival, planned, [entry, *stored])

    def _dispatched(
        self, arrival: Arrival, planned: Plan, headers: Mapping[str, str]
    ) -> tuple[Plan, list[Outgoing]]:
        return dispatched(self.topology, planned, self.connection.largest_payload, arrival.at, headers)

    def _settlement(self, arrival: Arrival, planned: Plan, outgoing: list[Outgoing]) -> Settlement:
        """What is stored of a plan, with what is kept of the event itself."""
        for failure in planned.failures:
            outgoing.append(self._dead_failure(arrival, planned, failure))
            self.metrics.dead.labels(self.kind, "render-failed").inc()
            detail = mask(failure.detail, planned.secrets)
            log.warning("rule %s, channel %s: %s", failure.rule, failure.channel, detail)
        if not arrival.is_partial and len(arrival.msg.data) <= self.connection.largest_payload:
            outgoing.append(self._copy(arrival))
        count = None if arrival.is_partial else partial(self._count, planned)
        return Settlement(publisher=self.publisher, messages=outgoing, settled=count)

    def _count(self, planned: Plan) -> None:
        self.metrics.count(self.metrics.events, self.kind, "planned" if planned.matches else "unmatched")
        for match in planned.matches:
            self.metrics.count(self.metrics.matches, match.rule.id)
        for suppressed in planned.suppressed:
            self.metrics.count(self.metrics.suppressed, suppressed.rule, suppressed.reason)
        for held in planned.held:
            self.metrics.count(self.metrics.held, held.rule, held.reason)

    def _copy(self, arrival: Arrival) -> Outgoing:
        """The event as it was published, for the archive."""
        event = arrival.event
        return Outgoing(
            subject=self.topology.archive_subject(self.kind, event.key),
            payload=arrival.msg.data,
            id=f"archive.{arrival.name}",
            headers={HOPS: str(event.hops)} if event.hops else NO_HEADERS,
        )

    def _dead_failure(self, arrival: Arrival, planned: Plan, failure: Failure) -> Outgoing:
        return history.dead(
            self.topology,
            kind=self.kind,
            reason="render-failed",
            detail=mask(failure.detail, planned.secrets),
            id=f"{arrival.name}.{failure.delivery}",
            payload=arrival.msg.data,
            about={
                **self._about(arrival.msg, arrival.rulebook),
                "reqid": planned.event.reqid,
                "rule": failure.rule,
                "channel": failure.channel,
                "delivery": failure.delivery,
            },
            room=self.connection.largest_payload,
        )

    def give_up(self, msg: Msg) -> Settlement:
        """What becomes of an event that a bug keeps from being planned."""
        detail = "given up after several tries; the log has the traceback"
        return self._bury(msg, "not-planned", detail, self.rulebook())

    def _bury(self, msg: Msg, reason: str, detail: str, rulebook: Rulebook) -> Settlement:
        """The message goes among the dead letters."""
        log.warning("%s: dead letter: %s: %s", msg.subject, reason, detail)
        letter = history.dead(
            self.topology,
            kind=self.kind,
            reason=reason,
            detail=detail,
            id=f"{self.kind}.{handout(msg.reply).sequence}",
            payload=msg.data,
            about=self._about(msg, rulebook),
            room=self.connection.largest_payload,
        )

        def count() -> None:
            self.metrics.events.labels(self.kind, "dead").inc()
            self.metrics.dead.labels(self.kind, reason).inc()

        return Settlement(publisher=self.publisher, messages=(letter,), settled=count)

    def _about(self, msg: Msg, rulebook: Rulebook) -> dict[str, str]:
        """What a dead letter says of the event in it."""
        again = again_in(msg.headers)
        taken = handout(msg.reply).stored
        key = self.topology.key(self.kind, msg.subject)
        known = rulebook.catalogue.get(f"{self.kind}.{key}" if key else str(self.kind))
        about = {
            "subject": msg.subject,
            "revision": rulebook.revision,
            "received": str(again.received if again else taken),
        }
        if again and again.is_partial:
            about |= {"rule": again.rule, "channel": again.channel, "delivery": again.delivery}
        if sensitive := sensitive_header(known.secrets if known else ()):
            about[SENSITIVE] = sensitive
        return about


def _begin(arrival: Arrival, choices_of: ChoicesOf, *, comes_again: bool = False) -> Plan | Begun:
    """The plan, or what has to be asked for it first."""
    rulebook, event, at = arrival.rulebook, arrival.event, arrival.at
    if arrival.is_partial:  # it passed the gates when it came first
        return _narrowed(arrival, plan(rulebook, event, at, choices_of))
    begun = begin(planning(rulebook, event, at, choices_of, comes_again=comes_again))
    return _narrowed(arrival, begun) if isinstance(begun, Plan) else begun


def _narrowed(arrival: Arrival, planned: Plan) -> Plan:
    return narrowed(planned, arrival.again) if arrival.again else planned
