"""The ledger: a lease before an action begins, and its reply when it has finished.

Both are under one key of a bucket, and each step is a compare-and-set. Each replica writes a heartbeat under
a key of its own. If the heartbeat stops, the leases of the replica are dead: it is unknown whether their
actions were executed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import msgspec
import nats.errors

from ..broker import OwnBucket
from ..model.errors import BrokerError, NotStored

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL = 1.0  # seconds
DEAD_AFTER = 4.0  # seconds without a heartbeat
_POLL, _MAX_POLL = 0.01, 0.25  # seconds between two reads of a lease
_MAX_CLOCK_SKEW = 10_000_000  # microseconds between the clocks of two replicas
_RECORD_LIMIT = 60.0  # seconds; after that, a reply stays unrecorded
_FAILURES = (nats.errors.Error, BrokerError, TimeoutError)


class _LedgerRecord(msgspec.Struct, omit_defaults=True):
    """The value of a key: a lease or a reply."""

    owner: str = ""  # the replica that has the lease
    nonce: str = ""  # differs for each lease of a replica
    until: int = 0  # microseconds since the epoch; after it, no replica works on the action
    reply: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to carry out an action and to record its reply."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedReply:
    """The reply of an action that is done."""

    reply: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHeld:
    """A lease that another request or another replica has."""

    key: str
    revision: int
    owner: str
    nonce: str
    until: int
    dead: bool = False  # its replica is dead


def action_key(action: str, reqid: str) -> str:
    """Return the key of one request for one action. It is a hash, so it reveals neither."""
    digest = hashlib.sha256(f"{len(action)}:{action}{reqid}".encode("utf-8", "surrogatepass"))
    return f"action.{digest.hexdigest()[:32]}"


@dataclass(slots=True)
class _Heartbeat:
    """The last known heartbeat of another replica. Times are seconds, monotonic."""

    revision: int
    since: float  # when this revision was first read
    read_at: float


class Ledger:
    """The ledger as one replica uses it."""

    def __init__(
        self,
        bucket: OwnBucket,
        *,
        owner: str,
        clock: Callable[[], int],
        beat: float = HEARTBEAT_INTERVAL,
        dead_after: float = DEAD_AFTER,
    ) -> None:
        self._connection = connection = bucket.connection
        self._bucket = bucket
        self._owner = owner
        self._clock = clock
        self._beat = beat
        self._dead_after = dead_after
        self._nonces = itertools.count()
        self._heartbeats: dict[str, _Heartbeat] = {}
        self._seen_reconnections = connection.reconnections
        self._alive_since = 0.0  # when the last stored heartbeat was sent; seconds, monotonic

    async def open(self) -> None:
        """Write the first heartbeat."""
        await self._heartbeat()

    async def run(self) -> None:
        """Write heartbeats until cancelled."""
        while True:
            began = time.monotonic()
            try:
                await self._heartbeat()
            except _FAILURES as error:
                log.warning("ledger: the heartbeat could not be written: %s", error)
            await asyncio.sleep(max(0.0, began + self._beat - time.monotonic()))

    async def claim(
        self, key: str, *, until: int, limit: float, over: LeaseHeld | None = None
    ) -> Lease | RecordedReply | LeaseHeld:
        """Get the lease of ``key``, replacing the one of a dead replica (``over``), or return what is there.

        ``until`` is when work on the action ends, in microseconds since the epoch; ``limit`` is in seconds.
        Raises BrokerError or TimeoutError if the broker cannot be asked: the action must not begin then.
        """
        nonce = str(next(self._nonces))
        value = msgspec.json.encode(_LedgerRecord(owner=self._owner, nonce=nonce, until=until))
        async with asyncio.timeout(limit):
            if revision := await self._bucket.put(key, value, last=over.revision if over else 0):
                return Lease(key=key, revision=revision)
            while True:
                if found := await self._read(key):
                    break
                await asyncio.sleep(_POLL)  # read from a follower that does not have it yet
        if isinstance(found, LeaseHeld) and (found.owner, found.nonce) == (self._owner, nonce):
            return Lease(key=key, revision=found.revision)  # from our first try, whose answer was lost
        return found

    async def outcome(self, held: LeaseHeld, *, limit: float) -> RecordedReply | LeaseHeld | None:
        """Wait for the reply of a lease; return the lease if its replica is dead, None after ``limit`` s."""
        pause = _POLL
        until = time.monotonic() + limit
        while time.monotonic() < until:
            await asyncio.sleep(min(pause, max(0.0, until - time.monotonic())))
            pause = min(2 * pause, _MAX_POLL)
            try:
                found = await self._read(held.key) or held
                if isinstance(found, RecordedReply):
                    return found
                if await self._is_dead(found):
                    # It may have recorded its reply just before it died.
                    last = await self._read(held.key)
                    return last if isinstance(last, RecordedReply) else replace(found, dead=True)
            except _FAILURES as error:
                log.warning("ledger: %s", error)
        return None

    async def record(
        self, lease: Lease, reply: bytes, sent: Callable[[], Awaitable[None]] | None = None
    ) -> bytes:
        """Record ``reply``; return the recorded reply, which is another one if we were taken for dead.

        ``sent`` is called after the record is sent: the broker gets it before anything that ``sent``
        publishes.
        """
        value = msgspec.json.encode(_LedgerRecord(reply=msgspec.Raw(reply)))
        try:
            async with asyncio.timeout(_RECORD_LIMIT):
                recorded = await self._bucket.begin_put(lease.key, value, last=lease.revision)
                if sent is not None:
                    await sent()
                is_recorded = bool(await recorded)
        except _FAILURES as error:
            log.warning("ledger: a reply was not recorded: %s", str(error) or type(error).__name__)
            return reply
        if not is_recorded:
            with contextlib.suppress(*_FAILURES):
                found = await self._read(lease.key)
                if isinstance(found, RecordedReply):
                    return found.reply
        return reply

    @property
    def is_surely_alive(self) -> bool:
        """True if no other replica can take this one for dead within the next moments."""
        return time.monotonic() - self._alive_since < self._dead_after / 2

    async def close(self) -> None:
        """Remove the heartbeat: no action runs any more."""
        if self._connection.client.is_connected:
            await self._connection.publish(
                self._bucket.subject(_heartbeat_key(self._owner)), b"",
                headers={"KV-Operation": "PURGE", "Nats-Rollup": "sub"},
            )  # fmt: skip

    async def _is_dead(self, held: LeaseHeld) -> bool:
        if self._clock() > held.until + _MAX_CLOCK_SKEW:
            return True
        if held.owner == self._owner:
            return False
        now = time.monotonic()
        if self._seen_reconnections != self._connection.reconnections:
            # The broker was away for the other replicas too: their missing heartbeats mean nothing.
            self._seen_reconnections = self._connection.reconnections
            self._heartbeats.clear()
        heartbeat = self._heartbeats.get(held.owner)
        if heartbeat is None or now - heartbeat.read_at >= self._beat / 2:
            found = await self._bucket.get(_heartbeat_key(held.owner))
            if not found.data:
                return True
            if heartbeat is None or heartbeat.revision != found.revision:
                heartbeat = self._heartbeats[held.owner] = _Heartbeat(found.revision, now, now)
            heartbeat.read_at = now
        return now - heartbeat.since >= self._dead_after

    async def _heartbeat(self) -> None:
        sent = time.monotonic()
        async with asyncio.timeout(self._dead_after):
            await self._bucket.put(_heartbeat_key(self._owner), b"{}")
        self._alive_since = sent

    async def _read(self, key: str) -> RecordedReply | LeaseHeld | None:
        found = await self._bucket.get(key)
        if not found.data:
            return None
        try:
            record = msgspec.json.decode(found.data, type=_LedgerRecord)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise NotStored(f"{key} is not a record of the ledger") from error
        if isinstance(record.reply, msgspec.Raw):
            return RecordedReply(reply=bytes(record.reply))
        return LeaseHeld(
            key=key,
            revision=found.revision,
            owner=record.owner,
            nonce=record.nonce,
            until=record.until,
        )


def _heartbeat_key(owner: str) -> str:
    return f"replica.{owner}"
