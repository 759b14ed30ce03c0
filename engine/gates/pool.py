"""Events that wait to be told of together.

A pool is sealed when its time has come: what is in it then becomes one digest, and what comes later
the next. A sealed batch stays until its digest is stored, so that a death in between loses nothing and
makes the same digest again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from ..limits import Digest
from ..model import Event, Kind
from .cells import event_id

_MOST_BYTES = 256 * 1024  # of one pool's events; the broker takes a megabyte
_MOST_IDS = 2000  # that are remembered, to know an event that comes again


class Gathered(msgspec.Struct, frozen=True):
    """One event in a pool."""

    kind: Kind
    key: str
    reqid: str
    payload: dict[str, Any]
    sent: int
    received: int
    hops: int = 0

    @classmethod
    def of(cls, event: Event) -> Gathered:
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
    events: tuple[Gathered, ...]
    more: int  # that are only counted
    ids: tuple[str, ...]
    at: int  # when it was sealed, microseconds since the epoch


class Pool(msgspec.Struct, frozen=True):
    """All that waits under one key."""

    number: int = 1  # of the digest that it will be
    due: int = 0  # microseconds since the epoch
    events: tuple[Gathered, ...] = ()
    more: int = 0
    ids: tuple[str, ...] = ()
    sealed: Batch | None = None
    told: tuple[str, ...] = ()  # ids of the last digest
    last: int = 0  # when that was sealed
    flushes: bool = True  # as the rule said when the pool was filled

    @property
    def is_empty(self) -> bool:
        return not self.ids

    def has(self, id_: str) -> bool:
        """Whether an event is here, or was in the last digest."""
        return id_ in self.ids or id_ in self.told or (self.sealed is not None and id_ in self.sealed.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """That an event waits, and for what."""

    key: str  # of the pool
    until: int  # microseconds since the epoch
    number: int
    rings: bool  # somebody has to be told when the time has come


def join(key: str, pool: Pool, event: Event, digest: Digest, *, due: int) -> tuple[Pool, Joined]:
    """``pool``, which lies under ``key``, with ``event``; an empty one is due at ``due``."""
    id_ = event_id(event)
    if pool.has(id_):
        return pool, Joined(key=key, until=pool.due, number=pool.number, rings=True)
    opens = pool.is_empty
    gathered = Gathered.of(event)
    room = len(pool.events) < digest.max_events and (
        len(msgspec.json.encode(pool.events)) + len(msgspec.json.encode(gathered)) <= _MOST_BYTES
    )
    after = msgspec.structs.replace(
        pool,
        due=due if opens else pool.due,
        events=(*pool.events, gathered) if room else pool.events,
        more=pool.more + (not room),
        ids=(*pool.ids, id_)[-_MOST_IDS:],
        flushes=digest.flushes,
    )
    return after, Joined(key=key, until=after.due, number=after.number, rings=opens)


def seal(pool: Pool, now: int) -> Pool:
    """``pool`` with all that it has as a batch to be sent. It must have no other."""
    batch = Batch(number=pool.number, events=pool.events, more=pool.more, ids=pool.ids, at=now)
    return Pool(number=pool.number + 1, sealed=batch, last=now, flushes=pool.flushes)


def told(pool: Pool, number: int) -> Pool:
    """``pool`` once the digest of that number is stored."""
    if pool.sealed is None or pool.sealed.number != number:
        return pool
    return msgspec.structs.replace(pool, sealed=None, told=pool.sealed.ids)
