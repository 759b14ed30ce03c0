"""Digests: buffer similar events, and merge a batch of them into one set of messages.

Events beyond a throttle or a budget are buffered in the same way, under the name of that limit. A buffer is
sealed when its time has come: the events in it become one digest, and later ones the next. A sealed batch
stays until its digest is stored, so a crash loses nothing, and the same digest is made again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from ...model.masking import longest_first
from ...model.messages import Event, Kind, Suppressed
from ...rules.rulebook import BudgetExhausted, Digest, Limits, Match, Rule, Rulebook
from ..draft import (
    DigestContents,
    DigestRef,
    Notification,
    RecipientResolver,
    Routing,
    route_entry,
    with_fallbacks,
)
from ..recipients import ChoicesOf
from .state import REDELIVERY_WINDOW, StateSteps, StateUpdate, event_fingerprint, state_key

GATHERING = ("throttle", "digest", "budget")  # gates under whose names events are gathered
SLACK = 86_400.0  # seconds that a value is kept beyond its use: a broker may be away

_MAX_BUFFER_BYTES = 256 * 1024  # of one pool's events; the broker takes a megabyte
_MAX_IDS = 2000  # that are remembered, to know an event that comes again


class DigestBuffer(msgspec.Struct, frozen=True):
    """All that waits under one key."""

    number: int = 0  # of the digest that it will be; 0: nothing was ever here
    due: int = 0  # microseconds since the epoch
    events: tuple[BufferedEvent, ...] = ()
    more: int = 0
    ids: tuple[str, ...] = ()
    sealed: Batch | None = None
    earlier: tuple[FlushedDigest, ...] = ()  # digests, the newest last
    last: int = 0  # when that was sealed
    flushes: bool = True  # as the rule said when the pool was filled

    @property
    def is_empty(self) -> bool:
        return not self.ids

    @property
    def next_due(self) -> int:
        """When what waits is due, microseconds since the epoch; 0 where nothing does."""
        return 0 if self.is_empty else self.due

    def find_digest(self, id_: str) -> Batch | FlushedDigest | None:
        """The digest that an event was in, stored or about to be."""
        if self.sealed is not None and id_ in self.sealed.ids:
            return self.sealed
        return next((each for each in self.earlier if id_ in each.ids), None)

    def has_seen(self, id_: str) -> bool:
        """Whether an event waits here, or did so a while ago."""
        return id_ in self.ids or self.find_digest(id_) is not None


class DigestState(msgspec.Struct, frozen=True):
    """What lies under the key of one of these gates."""

    passed: tuple[tuple[str, int], ...] = ()  # of a throttle: ids and times of what went through last
    pool: DigestBuffer = DigestBuffer()

    @classmethod
    def decode(cls, value: bytes) -> DigestState:
        return _states.decode(value) if value else cls()

    def monotonic_now(self, now: int) -> int:
        """The time that counts here: it never goes back, whoever is late or has a clock that is."""
        return max((now, *(at for _, at in self.passed)))

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


class BufferedEvent(msgspec.Struct, frozen=True):
    """One event in a pool."""

    kind: Kind
    key: str
    reqid: str
    payload: dict[str, Any]
    sent: int
    received: int
    hops: int = 0

    @classmethod
    def of(cls, event: Event) -> BufferedEvent:
        return cls(
            event.kind, event.key, event.reqid, dict(event.payload), event.sent, event.received, event.hops
        )

    @property
    def event(self) -> Event:
        return Event(
            kind=self.kind, key=self.key, reqid=self.reqid, payload=self.payload,
            sent=self.sent, received=self.received, hops=self.hops,
        )  # fmt: skip


class Batch(msgspec.Struct, frozen=True):
    """What one digest tells of, in the order in which it came."""

    number: int
    events: tuple[BufferedEvent, ...]
    more: int  # that are only counted
    ids: tuple[str, ...]
    at: int  # when it was sealed, microseconds since the epoch


class FlushedDigest(msgspec.Struct, frozen=True):
    """That a digest is stored, and of which events it told."""

    number: int
    at: int  # when it was sealed, microseconds since the epoch
    ids: tuple[str, ...]


_states = msgspec.json.Decoder(DigestState)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotDueYet:
    """That a digest has to wait."""

    until: int  # microseconds since the epoch
    exhausted_budgets: tuple[BudgetExhausted, ...] = ()  # the budget that it waits for


def apply_digest(rule: str, digest: Digest, event: Event, now: int, *, keep: float) -> StateSteps[Buffered]:
    """Every event waits: for ``wait`` from the first, and for ``interval`` from the digest before."""

    def due(pool: DigestBuffer) -> int:
        return max(now + int(digest.wait * 1e6), pool.last + int(digest.interval * 1e6))

    return buffer_event(state_key("digest", rule, digest.key, event), digest, event, due, keep)


def buffer_event(
    key: str, digest: Digest, event: Event, due: Callable[[DigestBuffer], int], keep: float
) -> StateSteps[Buffered]:
    """``event`` waits under ``key``; ``due`` says until when, if it is the first."""

    def step(value: bytes) -> tuple[bytes | None, Buffered]:
        state = DigestState.decode(value)
        pool, joined = append(key, state.pool, event, digest, due=due(state.pool))
        return None if pool is state.pool else DigestState(state.passed, pool).encode(), joined

    joined: Buffered = yield StateUpdate(key, step, keep)
    return joined


def rejoin(key: str, limits: Limits, event: Event) -> StateSteps[Buffered | None]:
    """Where ``event`` waits under ``key``, or did so a while ago; None where it never did."""
    digest = digest_spec(limits, key)
    if digest is None:
        return None

    def step(value: bytes) -> tuple[bytes | None, Buffered | None]:
        pool = DigestState.decode(value).pool
        return None, append(key, pool, event, digest, due=0)[1] if pool.has_seen(
            event_fingerprint(event)
        ) else None

    joined: Buffered | None = yield StateUpdate(key, step, ttl_of(limits))
    return joined


def leave(key: str, limits: Limits, event: Event) -> StateSteps[int]:
    """``event`` waits under ``key`` no more. Says when the others there are due; 0 where there are none."""

    def step(value: bytes) -> tuple[bytes | None, int]:
        state = DigestState.decode(value)
        pool = remove(state.pool, event_fingerprint(event))
        return (None if pool is state.pool else DigestState(state.passed, pool).encode()), pool.next_due

    due: int = yield StateUpdate(key, step, ttl_of(limits))
    return due


def take_due(
    key: str, limits: Limits, now: int, *, early: bool = False
) -> StateSteps[Batch | NotDueYet | None]:
    """What is due under ``key``: None where there is nothing; ``early`` does not wait for its time.

    A digest of a throttle is one of those that may pass, and waits until one may.
    """
    throttle = limits.throttle if _limit_of(key) == "throttle" else None

    def step(value: bytes) -> tuple[bytes | None, Batch | NotDueYet | None]:
        state = DigestState.decode(value)
        pool, passed = state.pool, state.passed
        if pool.sealed is not None:
            return value, pool.sealed  # written again: it is kept for as long as it is asked for
        if pool.is_empty:
            return None, None
        if now < pool.due and not early:
            return None, NotDueYet(until=pool.due)
        if throttle is not None:
            per, present = int(throttle.per * 1e6), state.monotonic_now(now)
            passed = tuple(each for each in passed if each[1] > present - per)
            if len(passed) >= throttle.limit and not early:
                return None, NotDueYet(until=passed[-throttle.limit][1] + per)
            passed = (*passed, (f"digest {pool.number}", present))
        after = seal(pool, now)
        return DigestState(passed, after).encode(), after.sealed

    answer: Batch | NotDueYet | None = yield StateUpdate(key, step, ttl_of(limits))
    return answer


def confirm(key: str, limits: Limits, number: int) -> StateSteps[int]:
    """The digest of that number is stored: its batch may go.

    Says when what came meanwhile is due, in microseconds since the epoch; 0 where nothing did. Its own
    alarm may have found the batch in its way, and be gone.
    """

    def step(value: bytes) -> tuple[bytes | None, int]:
        state = DigestState.decode(value)
        pool = confirm_flush(state.pool, number)
        return (None if pool is state.pool else DigestState(state.passed, pool).encode()), pool.next_due

    due: int = yield StateUpdate(key, step, ttl_of(limits))
    return due


def digest_spec(limits: Limits, key: str) -> Digest | None:
    """The digest whose events lie under ``key``; None where the rule has none any more."""
    match _limit_of(key):
        case "throttle":
            return limits.throttle.digest if limits.throttle else None
        case "budget":
            return next(filter(None, (budget.digest for budget in limits.budgets.values())), None)
        case _:
            return limits.digest


def _limit_of(key: str) -> str:
    """The gate that gathers what lies under ``key``."""
    return key.partition(".")[0]


def ttl_of(limits: Limits) -> float:
    """Seconds after which what was gathered means nothing: a digest may have to wait for a budget too."""
    return limits.longest_wait + SLACK


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffered:
    """That an event waits, and for what."""

    key: str  # of the pool
    until: int  # microseconds since the epoch
    number: int
    needs_timer: bool  # somebody has to be told when the time has come


def append(
    key: str, pool: DigestBuffer, event: Event, digest: Digest, *, due: int
) -> tuple[DigestBuffer, Buffered]:
    """``pool``, which lies under ``key``, with ``event``; an empty one is due at ``due``."""
    id_ = event_fingerprint(event)
    if told := pool.find_digest(id_):
        return pool, Buffered(key=key, until=told.at, number=told.number, needs_timer=False)
    if id_ in pool.ids:
        return pool, Buffered(key=key, until=pool.due, number=pool.number, needs_timer=True)
    # What is kept of a pool is forgotten in the end: the next one must not count as the same digests.
    number = pool.number or due // 1_000_000
    opens = pool.is_empty
    gathered = BufferedEvent.of(event)
    room = not pool.events or (
        len(pool.events) < digest.max_events
        and len(msgspec.json.encode(pool.events)) + len(msgspec.json.encode(gathered)) <= _MAX_BUFFER_BYTES
    )
    after = msgspec.structs.replace(
        pool,
        number=number,
        due=due if opens else pool.due,
        events=(*pool.events, gathered) if room else pool.events,
        more=pool.more + (not room),
        ids=(*pool.ids, id_)[-_MAX_IDS:],
        flushes=digest.flushes,
    )
    return after, Buffered(key=key, until=after.due, number=after.number, needs_timer=opens)


def remove(pool: DigestBuffer, id_: str) -> DigestBuffer:
    """``pool`` as if an event had not joined; the same where it does not wait there."""
    if id_ not in pool.ids:
        return pool
    events = tuple(each for each in pool.events if event_fingerprint(each.event) != id_)
    only_counted = len(events) == len(pool.events)
    ids = tuple(each for each in pool.ids if each != id_)
    return msgspec.structs.replace(pool, events=events, more=pool.more - only_counted, ids=ids)


def seal(pool: DigestBuffer, now: int) -> DigestBuffer:
    """``pool`` with all that it has as a batch to be sent. It must have no other."""
    batch = Batch(number=pool.number, events=pool.events, more=pool.more, ids=pool.ids, at=now)
    return DigestBuffer(
        number=pool.number + 1, sealed=batch, earlier=pool.earlier, last=now, flushes=pool.flushes
    )


def confirm_flush(pool: DigestBuffer, number: int) -> DigestBuffer:
    """``pool`` once the digest of that number is stored."""
    if pool.sealed is None or pool.sealed.number != number:
        return pool
    last = FlushedDigest(number=number, at=pool.sealed.at, ids=pool.sealed.ids)
    return msgspec.structs.replace(pool, sealed=None, earlier=(*_of_late(pool.earlier, last), last))


def _of_late(earlier: tuple[FlushedDigest, ...], last: FlushedDigest) -> tuple[FlushedDigest, ...]:
    """Those whose events may still come again, as far as there is room beside ``last``."""
    room = _MAX_IDS - len(last.ids)
    kept: list[FlushedDigest] = []
    for each in reversed(earlier):
        room -= len(each.ids)
        if room < 0 or each.at < last.at - REDELIVERY_WINDOW * 1e6:
            break
        kept.append(each)
    return tuple(reversed(kept))


def route_digest(rulebook: Rulebook, rule: Rule, key: str, batch: Batch, choices_of: ChoicesOf) -> Routing:
    """The draft of a digest: one order for each entry of ``notify`` and each recipient.

    A recipient is told of the events that were for them, as they are to be reached by the last one.
    """
    template = digest.template if (digest := digest_spec(rule.limits, key)) else ""
    events = [gathered.event for gathered in batch.events]
    whole = digest_event(key, batch)
    match = Match(event=whole, rule=rule)
    groups: dict[tuple[int, tuple[str, ...], str], list[tuple[Event, Notification]]] = {}
    suppressed: dict[Suppressed, None] = {}
    for event in events:
        readers = RecipientResolver(rulebook, event, choices_of)
        for position, notify in enumerate(rule.notify):
            for result in route_entry(Match(event=event, rule=rule), notify, readers):
                if isinstance(result, Notification):
                    # A channel that needs no address is one reader, whomever the events are about.
                    place = position, result.to, result.recipient.user if result.to else ""
                    groups.setdefault(place, []).append((event, result))
                else:
                    suppressed[result] = None
    orders: dict[str, Notification] = {}
    for told in groups.values():
        last = told[-1][1]
        merged = DigestContents(events=tuple(event for event, _ in told), more=batch.more, template=template)
        steps = [replace(step, match=match, merged=merged, id="") for step in last.steps]
        orders.setdefault(steps[0].id, with_fallbacks(steps, last.fallback_after))
    known = rulebook.catalogue.get
    secrets = {
        secret
        for event in events
        if (schema := known(event.name))
        for secret in schema.secrets_in(event.payload)
    }
    return Routing(
        event=whole,
        rulebook=rulebook,
        matches=(match,),
        notifications=tuple(orders.values()),
        suppressed=tuple(suppressed),
        digest=DigestRef(key=key, number=batch.number, events=tuple(events), more=batch.more),
        secrets=longest_first(secrets),
    )


def digest_reqid(key: str, number: int) -> str:
    """The reqid of a digest: its history lies under it."""
    return f"{key.replace('.', '-')}-{number}"


def digest_key(reqid: str) -> str:
    """Where the events of the digest with that reqid lie."""
    return reqid.rpartition("-")[0].replace("-", ".")


def digest_event(key: str, batch: Batch) -> Event:
    """The digest as an event of its own; what templates see as payload is the last one's."""
    events = [gathered.event for gathered in batch.events]
    last = events[-1]
    return replace(
        last,
        reqid=digest_reqid(key, batch.number),
        received=batch.at,
        hops=max(event.hops for event in events),
    )
