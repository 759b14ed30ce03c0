"""From a message on an event stream to stored deliveries.

An event is acknowledged only when its deliveries, its history and its archive copy are stored. What
is no event, or cannot be planned, goes to the dead letters with the reason; then it is acknowledged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from nats.aio.msg import Msg

from msc import wire

from . import history
from .broker import AGAIN, Connection, Handout, Outgoing, Publisher, Settlement, Topology, handout, holds_any
from .catalogue import Catalogue, mask
from .choices import ChoicesOf
from .dead import again_in, narrowed
from .dead_payload import SENSITIVE, sensitive_header
from .dispatch import HEADER_ROOM, NO_HEADERS, dispatched
from .errors import NotLookedUp, UndecodableError
from .memory import Begun, Memory, begin
from .metrics import Metrics
from .model import HOPS, MOST_HOPS, Event, Failure, Kind
from .notices import Herald
from .plan import Plan, plan, planning
from .preference_cache import PreferenceCache
from .rulebook import Rulebook
from .subjects import token, valid_key

log = logging.getLogger(__name__)

_TRIES = 5  # of an event that a bug keeps from being planned


class Clock(Protocol):
    """The present time in microseconds since the epoch."""

    def __call__(self) -> int: ...


def decode(
    data: bytes,
    *,
    kind: Kind,
    key: str,
    received: int,
    tolerance: float,
    catalogue: Catalogue,
    hops: int = 0,
) -> Event:
    """The event in ``data``. Raises UndecodableError with the reason that the dead letter carries.

    ``received`` is the broker's clock in microseconds, against which the sender's is judged:
    ``tolerance`` seconds both ways. How long the event waited in the stream does not matter.
    """
    if key and not valid_key(key):
        raise UndecodableError("bad-subject", f"{key!r} is no key")
    try:
        request = wire.decode_request(data)
        wire.check_request(request, received=received, tolerance=int(tolerance * 1e6))
    except wire.WireError as error:
        raise UndecodableError(error.reason, str(error)) from error
    payload = {} if request.payload is None else request.payload
    if not isinstance(payload, dict):
        raise UndecodableError("payload-not-object", "the payload is not an object")
    name = f"{kind}.{key}" if key else str(kind)
    return Event(
        kind=kind,
        key=key,
        reqid=request.reqid,
        payload=catalogue.canonical(name, payload),
        sent=request.time,
        received=received,
        hops=hops,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """Plans the events of one kind."""

    kind: Kind
    topology: Topology
    connection: Connection
    publisher: Publisher
    memory: Memory
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
        if handed.number > _TRIES:
            detail = f"given up after {_TRIES} tries; the log has the traceback"
            return self._bury(msg, "not-planned", detail, rulebook)
        now = self.clock()

        def make(choices_of: ChoicesOf) -> Plan | Begun:
            if again and again.is_partial:  # it passed the gates when it came first
                return plan(rulebook, event, now, choices_of)
            return begin(planning(rulebook, event, now, choices_of))

        try:
            begun = make(self.preferences.choices_of)
        except NotLookedUp:
            return self._look_up(msg, handed, make, rulebook)
        return self._go_on(msg, handed, begun, rulebook)

    async def _look_up(
        self, msg: Msg, handed: Handout, make: Callable[[ChoicesOf], Plan | Begun], rulebook: Rulebook
    ) -> Settlement:
        """Plan with what the broker has to be asked for of people's preferences."""
        ended = self._go_on(msg, handed, await self.preferences.with_choices(make), rulebook)
        return ended if isinstance(ended, Settlement) else await ended

    def _go_on(
        self, msg: Msg, handed: Handout, begun: Plan | Begun, rulebook: Rulebook
    ) -> Settlement | Coroutine[Any, Any, Settlement]:
        if isinstance(begun, Begun):
            return self._ask(msg, handed, begun, rulebook)
        again = again_in(msg.headers)
        planned = narrowed(begun, again) if again else begun
        if self.connection.is_surely_new(msg, handed):
            return self._carry_out(msg, handed, planned, rulebook)
        return self._ask(msg, handed, planned, rulebook)

    async def _ask(self, msg: Msg, handed: Handout, begun: Plan | Begun, rulebook: Rulebook) -> Settlement:
        """Carry out what the broker, which has to be asked, leaves of the plan."""
        planned = await self.memory.finish(begun) if isinstance(begun, Begun) else begun
        again = again_in(msg.headers)
        if isinstance(begun, Begun) and again:
            planned = narrowed(planned, again)
        for used_up in planned.used_up:
            await self.herald.budget_used_up(used_up, hops=planned.event.hops)
        is_known = await self._was_planned(msg, handed, planned.event)
        return self._carry_out(msg, handed, planned, rulebook, {AGAIN: "1"} if is_known else {})

    def _carry_out(
        self,
        msg: Msg,
        handed: Handout,
        planned: Plan,
        rulebook: Rulebook,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> Settlement:
        event, sequence = planned.event, handed.sequence
        room = self.connection.client.max_payload - HEADER_ROOM
        planned, stored = dispatched(self.topology, planned, room, headers)
        # The history comes first: an event that is not in it has no delivery in the stream either.
        name = f"{self.kind}.{sequence}"
        outgoing = [history.planned(self.topology, planned, at=self.clock(), id_=name), *stored]
        for failure in planned.failures:
            outgoing.append(self._dead_failure(msg, planned, failure, rulebook))
            self.metrics.dead.labels(self.kind, "not-written").inc()
            log.warning("rule %s, channel %s: %s", failure.rule, failure.channel, failure.detail)
        again = again_in(msg.headers)
        first_time = again is None or not again.is_partial
        if first_time and len(msg.data) <= room:
            archive = self.topology.archive_subject(self.kind, event.key)
            name, marks = f"archive.{self.kind}.{sequence}", {HOPS: str(event.hops)} if event.hops else {}
            outgoing.append(Outgoing(subject=archive, payload=msg.data, id=name, headers=marks))
        count = partial(self._count, planned) if first_time else None
        return Settlement(publisher=self.publisher, messages=outgoing, settled=count)

    async def _was_planned(self, msg: Msg, handed: Handout, event: Event) -> bool:
        """Whether its deliveries may be sent already, and forgotten by a broker that was killed."""
        if await self.connection.is_new(msg, handed):
            return False
        subject = self.topology.history_subject(event.kind, token(event.reqid))
        return await holds_any(self.connection, self.topology.history_stream, subject)

    def _count(self, planned: Plan) -> None:
        self.metrics.count(self.metrics.events, self.kind, "planned" if planned.matches else "unmatched")
        for match in planned.matches:
            self.metrics.count(self.metrics.matches, match.rule.id)
        for suppressed in planned.suppressed:
            self.metrics.count(self.metrics.suppressed, suppressed.rule, suppressed.reason)
        for held in planned.held:
            self.metrics.count(self.metrics.held, held.rule, held.reason)

    def _dead_failure(self, msg: Msg, planned: Plan, failure: Failure, rulebook: Rulebook) -> Outgoing:
        return history.dead(
            self.topology,
            kind=self.kind,
            reason="not-written",
            detail=mask(failure.detail, planned.secrets),
            id=f"{self.kind}.{handout(msg.reply).sequence}.{failure.delivery}",
            payload=msg.data,
            about={
                **self._about(msg, rulebook),
                "reqid": planned.event.reqid,
                "rule": failure.rule,
                "channel": failure.channel,
                "delivery": failure.delivery,
            },
            room=self.connection.client.max_payload,
        )

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
            room=self.connection.client.max_payload,
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


def hops_in(headers: Mapping[str, str] | None) -> int:
    """How many messages of MSS's own led to an event; more than it may be where nobody can say."""
    text = (headers or {}).get(HOPS, "0")
    return int(text) if text.isdecimal() and len(text) < 10 else MOST_HOPS + 1
