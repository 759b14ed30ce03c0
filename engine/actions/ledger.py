"""The ledger: a lease before an action begins, and its reply when it has finished.

Both are under one key of a bucket, and each step is a compare-and-set. A replica writes a key of its own
every second to show that it is alive. If it falls silent, its leases are dead: nobody can say whether their
actions were executed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import nats.errors
from nats.aio.msg import Msg

from ..broker import Bucket
from ..model.errors import BrokerError, NotStored

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL = 1.0  # seconds between two signs of life
DEAD_AFTER = 4.0  # seconds without one
_RESEND_AFTER = 2.0  # seconds without an acknowledgement
_POLL, _SLOWEST_POLL = 0.01, 0.25  # seconds between two looks at a lease
_WRONG_REVISION = 10071
_CLOCKS_APART = 10_000_000  # microseconds by which replicas' clocks may differ
_RECORD_LIMIT = 60.0  # seconds; then a reply that is given is not written down
_TROUBLE = (nats.errors.Error, BrokerError, TimeoutError)


class _LedgerRecord(msgspec.Struct, omit_defaults=True):
    """What lies under a key: a lease, or a reply."""

    owner: str = ""  # the replica that has the lease
    nonce: str = ""  # tells this lease from another of the same replica
    until: int = 0  # microseconds since the epoch; past it nobody is at work any more
    reply: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to carry out an action, and to write down its reply."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedReply:
    """The action is done; this was replied."""

    reply: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHeld:
    """Somebody else has the lease."""

    key: str
    revision: int
    owner: str
    until: int
    dead: bool = False  # and is no more


def action_key(action: str, reqid: str) -> str:
    """The key of one request for one action; neither can be read from it."""
    digest = hashlib.sha256(f"{len(action)}:{action}{reqid}".encode("utf-8", "surrogatepass"))
    return f"action.{digest.hexdigest()[:32]}"


@dataclass(slots=True)
class _Heartbeat:
    """What was last seen of another replica's sign of life."""

    revision: int
    since: float  # seconds, monotonic
    looked: float


class Ledger:
    """One replica's hand in the ledger."""

    def __init__(
        self,
        bucket: Bucket,
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
        self._inbox = connection.client.new_inbox()
        self._tokens = itertools.count()
        self._waiting: dict[str, asyncio.Future[int]] = {}
        self._pulses: dict[str, _Heartbeat] = {}
        self._seen_reconnections = connection.reconnections
        self._alive_since = 0.0  # when the last sign of life that the broker has was sent; monotonic

    async def open(self) -> None:
        """Take acknowledgements, and show that this replica lives."""
        await self._connection.client.subscribe(
            f"{self._inbox}.*", cb=self._acknowledged, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        await self._heartbeat()

    async def run(self) -> None:
        """Show life for ever, until cancelled."""
        while True:
            began = time.monotonic()
            try:
                await self._heartbeat()
            except _TROUBLE as error:
                log.warning("ledger: no sign of life could be written: %s", error)
            await asyncio.sleep(max(0.0, began + self._beat - time.monotonic()))

    async def claim(
        self, key: str, *, until: int, limit: float, over: LeaseHeld | None = None
    ) -> Lease | RecordedReply | LeaseHeld:
        """Take the lease of ``key``, over that of a dead replica where one is given; or say who has it.

        ``until`` is when nobody works on it any more, in microseconds since the epoch; ``limit`` in
        seconds. Raises BrokerError or TimeoutError when the broker cannot be asked: nothing is to be
        begun then.
        """
        nonce = str(next(self._tokens))
        value = msgspec.json.encode(_LedgerRecord(owner=self._owner, nonce=nonce, until=until))
        async with asyncio.timeout(limit):
            if revision := await self._write(key, value, over.revision if over else 0):
                return Lease(key=key, revision=revision)
            while True:
                revision, entry = await self._read(key)
                if (entry.owner, entry.nonce) == (self._owner, nonce):
                    return Lease(key=key, revision=revision)  # our first try, whose answer was lost
                if revision:
                    return self._as_found(key, revision, entry)
                await asyncio.sleep(_POLL)  # a follower that has not heard of it yet

    async def outcome(self, taken: LeaseHeld, *, limit: float) -> RecordedReply | LeaseHeld | None:
        """What becomes of somebody else's lease: its reply, or that it is dead; None after ``limit`` s."""
        pause = _POLL
        until = time.monotonic() + limit
        while time.monotonic() < until:
            await asyncio.sleep(min(pause, max(0.0, until - time.monotonic())))
            pause = min(2 * pause, _SLOWEST_POLL)
            try:
                revision, entry = await self._read(taken.key)
                found = self._as_found(taken.key, revision, entry) if revision else taken
                if isinstance(found, RecordedReply):
                    return found
                if await self._is_dead(found):
                    # It may have written its reply with its last breath.
                    revision, entry = await self._read(taken.key)
                    last = self._as_found(taken.key, revision, entry)
                    return last if isinstance(last, RecordedReply) else _dead(found)
            except _TROUBLE as error:
                log.warning("ledger: %s", error)
        return None

    async def record(
        self, lease: Lease, reply: bytes, sent: Callable[[], Awaitable[None]] | None = None
    ) -> bytes:
        """Write down ``reply``; returns what stands there, which is another's if we were taken for dead.

        ``sent`` is called when it is on its way: the broker has it before what is published then.
        """
        value = msgspec.json.encode(_LedgerRecord(reply=msgspec.Raw(reply)))
        try:
            async with asyncio.timeout(_RECORD_LIMIT):
                is_recorded = bool(await self._write(lease.key, value, lease.revision, sent=sent))
        except _TROUBLE as error:
            log.warning("ledger: a reply is not written down: %s", str(error) or type(error).__name__)
            return reply
        if not is_recorded:
            with contextlib.suppress(*_TROUBLE):
                _, entry = await self._read(lease.key)
                if isinstance(entry.reply, msgspec.Raw):
                    return bytes(entry.reply)
        return reply

    @property
    def is_surely_alive(self) -> bool:
        """Whether no other replica can take this one for dead within the next moments."""
        return time.monotonic() - self._alive_since < self._dead_after / 2

    async def close(self) -> None:
        """Leave without a trace: nothing of ours is running."""
        if self._connection.client.is_connected:
            await self._connection.publish(
                self._bucket.subject(_life(self._owner)), b"",
                headers={"KV-Operation": "PURGE", "Nats-Rollup": "sub"},
            )  # fmt: skip

    def _as_found(self, key: str, revision: int, entry: _LedgerRecord) -> RecordedReply | LeaseHeld:
        if isinstance(entry.reply, msgspec.Raw):
            return RecordedReply(reply=bytes(entry.reply))
        return LeaseHeld(key=key, revision=revision, owner=entry.owner, until=entry.until)

    async def _is_dead(self, taken: LeaseHeld) -> bool:
        if self._clock() > taken.until + _CLOCKS_APART:
            return True
        if taken.owner == self._owner:
            return False
        now = time.monotonic()
        if self._seen_reconnections != self._connection.reconnections:
            # The broker was away, for the others too: what was not heard then says nothing.
            self._seen_reconnections = self._connection.reconnections
            self._pulses.clear()
        pulse = self._pulses.get(taken.owner)
        if pulse is None or now - pulse.looked >= self._beat / 2:
            revision, _ = await self._read(_life(taken.owner))
            if not revision:
                return True
            if pulse is None or pulse.revision != revision:
                pulse = self._pulses[taken.owner] = _Heartbeat(revision, now, now)
            pulse.looked = now
        return now - pulse.since >= self._dead_after

    async def _heartbeat(self) -> None:
        sent = time.monotonic()
        async with asyncio.timeout(self._dead_after):
            await self._write(_life(self._owner), b"{}", None)
        self._alive_since = sent

    async def _read(self, key: str) -> tuple[int, _LedgerRecord]:
        """The revision and the entry of a key; 0 where there is none."""
        found = await self._bucket.get(key)
        if not found.data:
            return 0, _LedgerRecord()
        try:
            return found.revision, msgspec.json.decode(found.data, type=_LedgerRecord)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise NotStored(f"{key} holds what is no entry") from error

    async def _write(
        self, key: str, value: bytes, expected: int | None, sent: Callable[[], Awaitable[None]] | None = None
    ) -> int:
        """Write ``value`` if the key is at revision ``expected``; return the new revision, or 0 if it is not.

        An ``expected`` of 0 is a key that does not exist. The write is repeated until it is acknowledged, so
        limit its time. Raises NotStored if the broker refuses it.
        """
        headers = None if expected is None else {"Nats-Expected-Last-Subject-Sequence": str(expected)}
        while True:
            token = str(next(self._tokens))
            acknowledged: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._waiting[token] = acknowledged
            try:
                await self._connection.publish(
                    self._bucket.subject(key), value, reply=f"{self._inbox}.{token}", headers=headers
                )
                if sent is not None:
                    now, sent = sent, None
                    await now()
                await asyncio.wait((acknowledged,), timeout=_RESEND_AFTER)
                if acknowledged.done():
                    return acknowledged.result()
            except nats.errors.OutboundBufferLimitError:
                await asyncio.sleep(_RESEND_AFTER)  # the broker is away
            finally:
                del self._waiting[token]

    async def _acknowledged(self, msg: Msg) -> None:
        acknowledged = self._waiting.get(msg.subject.rpartition(".")[2])
        if acknowledged is None or acknowledged.done() or not msg.data:
            return  # too late; or no stream just now, perhaps an election
        answer = json.loads(msg.data)
        error = answer.get("error")
        if error is None:
            acknowledged.set_result(answer["seq"])
        elif error.get("err_code") == _WRONG_REVISION:
            acknowledged.set_result(0)
        else:
            acknowledged.set_exception(NotStored(f"the ledger: {error.get('description')}"))


def _life(owner: str) -> str:
    return f"replica.{owner}"


def _dead(taken: LeaseHeld) -> LeaseHeld:
    return LeaseHeld(key=taken.key, revision=taken.revision, owner=taken.owner, until=taken.until, dead=True)
