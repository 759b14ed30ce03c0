"""Key-value buckets: values that all replicas change by compare-and-set, and the state of limits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, TypeVar

import nats.errors
import nats.js.errors
from nats.js.kv import KV_DEL, KV_OP, KV_PURGE

from ..model.errors import BrokerError
from ..planning.limits.state import PendingSteps, StateSteps, advance
from .connection import Connection
from .publisher import Publisher
from .reader import StoredMessage, StreamReader, await_permitted

_TRIES = 50  # of a compare-and-set that other replicas win
_MAX_REMEMBERED_BYTES = 16 * 1024 * 1024
_VALUE_BYTES = 250  # of a remembered value, besides its key and its data
_WRONG_REVISION = (10071, 10164)
_NO_MESSAGE = (10037, None)  # in a direct answer the error has no code

T = TypeVar("T")
UpdateFunction: TypeAlias = Callable[[bytes], tuple[bytes | None, T]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """The data under one key: ``b""`` where there is none, or where it was removed."""

    data: bytes = b""
    revision: int = 0  # of the data or of its removal; 0: the key was never written


@dataclass(frozen=True, slots=True)
class Bucket:
    """A key-value bucket.

    Its methods raise NotPermitted where the broker's permissions are too narrow, and BrokerError for every
    other failure. After a write that failed, the value may be written or not.
    """

    connection: Connection
    name: str

    @property
    def stream(self) -> str:
        return f"KV_{self.name}"

    def subject(self, key: str) -> str:
        """Return the subject of a key; ``key`` may have wildcards."""
        return f"$KV.{self.name}.{key}"

    async def get(self, key: str) -> Value:
        """Return the value of ``key``."""
        reading = self.connection.js.get_msg(self.stream, subject=self.subject(key), direct=self._is_own)
        try:
            found = await self._permitted(reading, f"$JS.API.STREAM.MSG.GET.{self.stream}")
        except nats.js.errors.NotFoundError as error:
            if error.err_code not in _NO_MESSAGE:
                raise self._failure(key, "read", error) from error
            return Value()
        except (nats.errors.Error, TimeoutError) as error:
            raise self._failure(key, "read", error) from error
        is_removed = (found.headers or {}).get(KV_OP) in (KV_DEL, KV_PURGE)
        return Value(data=b"" if is_removed else found.data or b"", revision=found.seq or 0)

    async def put(self, key: str, data: bytes, *, last: int | None = None, ttl: float | None = None) -> int:
        """Write ``data`` and return its revision; 0 where the key is not at revision ``last``.

        Without data, the key and its history are removed. The broker removes it after ``ttl`` seconds.
        """
        subject = self.subject(key)
        writing = self.connection.js.publish(subject, data, headers=_headers(data, last, ttl))
        try:
            return (await self._permitted(writing, subject)).seq
        except nats.js.errors.APIError as error:
            if error.err_code in _WRONG_REVISION:
                return 0
            raise self._failure(key, "written", error) from error
        except (nats.errors.Error, TimeoutError) as error:
            raise self._failure(key, "written", error) from error

    async def update(
        self, key: str, step: UpdateFunction[T], *, known: Value | None = None, ttl: float | None = None
    ) -> tuple[T, Value]:
        """Replace a value by compare-and-set; return the result of ``step``, and the value after it.

        ``step`` gets the present data and returns the new data, or None to keep the present data, with a
        result. It is called again when another replica was faster. ``known`` is what the caller expects to be
        the value: it saves a read if the step writes, and the write proves it. ``ttl`` is as for ``put``.
        """
        for _ in range(_TRIES):
            before = known or await self.get(key)
            data, result = step(before.data)
            if data is None:
                if known is None:
                    return result, before
            elif revision := await self.put(key, data, last=before.revision, ttl=ttl):
                return result, Value(data=data, revision=revision)
            known = None
        raise BrokerError(f"{self.name}: {key} cannot be written: too many replicas change it at once")

    async def present(self, keys: str, *, headers_only: bool = False) -> AsyncIterator[StoredMessage]:
        """Yield the last message of each key that matches ``keys`` and was not removed, the oldest first."""
        async with StreamReader(
            self.connection, self.stream, self.subject(keys), latest=True, headers_only=headers_only
        ) as reading:
            while (stored := await reading.next_existing()) is not None:
                if stored.size:
                    yield stored

    async def keys_with_prefix(self, prefix: str) -> list[str]:
        """Return the keys that begin with ``prefix``, which ends with a dot."""
        start = len(self.subject(""))
        return [each.subject[start:] async for each in self.present(f"{prefix}>", headers_only=True)]

    @property
    def _is_own(self) -> bool:
        return False

    def _permitted(self, work: Awaitable[T], subject: str) -> Awaitable[T]:
        return work if self._is_own else await_permitted(self.connection, work, (subject,))

    def _failure(self, key: str, done: str, error: Exception) -> BrokerError:
        self.connection.require_open()
        return BrokerError(f"{self.name}: {key} cannot be {done}: {str(error) or 'no answer'}")


def _headers(data: bytes, last: int | None, ttl: float | None) -> dict[str, str]:
    headers = {} if last is None else {"Nats-Expected-Last-Subject-Sequence": str(last)}
    if ttl is not None:
        headers["Nats-TTL"] = str(math.ceil(ttl))
    if not data:
        headers |= {KV_OP: KV_PURGE, "Nats-Rollup": "sub"}
    return headers


@dataclass(frozen=True, slots=True)
class OwnBucket(Bucket):
    """A bucket that the server created, and whose permissions it has checked.

    Reads are cheaper, and may be a moment old. Writes are pipelined with everything else that the server
    publishes, and are repeated until they are acknowledged: a write that returns 0 may be our own first copy.
    """

    publisher: Publisher

    async def put(self, key: str, data: bytes, *, last: int | None = None, ttl: float | None = None) -> int:
        return await (await self.begin_put(key, data, last=last, ttl=ttl))

    async def begin_put(
        self, key: str, data: bytes, *, last: int | None = None, ttl: float | None = None
    ) -> asyncio.Future[int]:
        """Send a write as ``put`` does, ahead of later messages; return the future of its revision."""
        return await self.publisher.write(self.subject(key), data, _headers(data, last, ttl))

    @property
    def _is_own(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class _PendingUpdate:
    """One update, and the future of its caller."""

    fn: UpdateFunction[Any]
    ttl: float | None  # seconds
    result: asyncio.Future[Any]


class RecentValues:
    """The values that this replica has read or written last, up to a number of bytes.

    Another replica may have written since, so a value may only lead to a compare-and-set.
    """

    def __init__(self, max_bytes: int = _MAX_REMEMBERED_BYTES) -> None:
        self._free = max_bytes
        self._values: dict[str, Value] = {}  # the oldest first

    def get(self, key: str) -> Value | None:
        return self._values.get(key)

    def add(self, key: str, value: Value) -> None:
        self._remove(key)
        self._values[key] = value
        self._free -= _size(key, value)
        while self._free < 0:
            self._remove(next(iter(self._values)))

    def _remove(self, key: str) -> None:
        if (value := self._values.pop(key, None)) is not None:
            self._free += _size(key, value)


def _size(key: str, value: Value) -> int:
    return len(key) + len(value.data) + _VALUE_BYTES


@dataclass(frozen=True, slots=True, eq=False)
class AtomicStore:
    """The values of a bucket that many tasks update at the same time.

    Updates of one value that arrive together are one compare-and-set, in the order in which they arrived.
    Otherwise, a hundred of them would make each other's compare-and-set fail.
    """

    bucket: Bucket
    _recent: RecentValues = field(default_factory=RecentValues)
    _waiting: dict[str, list[_PendingUpdate]] = field(default_factory=dict)  # by key, while a task updates it
    _work: set[asyncio.Task[None]] = field(default_factory=set)

    async def update(self, key: str, step: UpdateFunction[T], *, ttl: float | None = None) -> T:
        """Replace a value as ``Bucket.update`` does, and return the result of ``step``.

        ``ttl`` is as for ``Bucket.put``. Raises BrokerError; the value may be written then.
        """
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        pending = _PendingUpdate(step, ttl, result)
        if key in self._waiting:
            self._waiting[key].append(pending)
        else:
            self._waiting[key] = [pending]
            work = asyncio.create_task(self._update_all(key), name=f"change {key}")
            self._work.add(work)
            work.add_done_callback(self._work.discard)
        return await result

    async def run(self, steps: StateSteps[T]) -> T:
        """Return the value of ``steps``. Raises BrokerError; it is safe to run all of them again then."""
        return await self.resume(advance(steps))

    async def resume(self, current: T | PendingSteps[T]) -> T:
        """Return the value of steps that have begun. Raises BrokerError."""
        while isinstance(current, PendingSteps):
            update = current.update
            result = await self.update(update.key, update.fn, ttl=update.ttl)
            current = advance(current.steps, result)
        return current

    async def _update_all(self, key: str) -> None:
        """Update one value until no update of it waits."""
        batch: list[_PendingUpdate] = []
        try:
            while batch := self._waiting[key]:
                self._waiting[key] = []
                ttl = max(math.inf if pending.ttl is None else pending.ttl for pending in batch)
                try:
                    results, after = await self.bucket.update(
                        key,
                        partial(_apply_updates, batch),
                        # Most keys are new, or were written here: a write proves it, without a read.
                        known=self._recent.get(key) or Value(),
                        ttl=None if ttl == math.inf else ttl,
                    )
                    self._recent.add(key, after)
                except BrokerError as error:
                    results = [BrokerError(str(error)) for _ in batch]
                except Exception as error:  # noqa: BLE001 -- a bug goes to the callers: they would wait for ever
                    results = [error] * len(batch)
                for pending, result in zip(batch, results, strict=True):
                    if pending.result.done():
                        continue
                    if isinstance(result, Exception):
                        pending.result.set_exception(result)
                    else:
                        pending.result.set_result(result)
        finally:
            for pending in (*batch, *self._waiting.pop(key)):  # only if this task was cancelled
                pending.result.cancel()


def _apply_updates(batch: list[_PendingUpdate], data: bytes) -> tuple[bytes | None, list[Any]]:
    """Return ``data`` after every update, None where none changes it, and the result or error of each."""
    changed, outcomes = None, []
    for pending in batch:
        try:
            after, outcome = pending.fn(data if changed is None else changed)
        except Exception as error:  # noqa: BLE001 -- it goes to the caller of this update alone
            after, outcome = None, error
        changed = changed if after is None else after
        outcomes.append(outcome)
    return changed, outcomes
