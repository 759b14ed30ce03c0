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
from .cells import REDELIVERY_WINDOW, event_fingerprint

_MAX_BUFFER_BYTES = 256 * 1024  # of one pool's events; the broker takes a megabyte
_MAX_IDS = 2000  # that are remembered, to know an event that comes again


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
