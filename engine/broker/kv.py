"""Key-value buckets: values that all replicas change by compare-and-set, and the state of limits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import nats.errors
import nats.js.errors
from nats.js.kv import KeyValue

from ..model.errors import BrokerError
from ..planning.limits.state import PendingSteps, StateSteps, advance

_TRIES = 50  # of a compare-and-set that others win

T = TypeVar("T")
UpdateFunction: TypeAlias = Callable[[bytes], tuple[bytes | None, T]]


@dataclass(frozen=True, slots=True)
class _PendingUpdate:
    """One change, and who waits for it."""

    fn: UpdateFunction[Any]
    ttl: float | None  # seconds
    result: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Value:
    """What lies under a key; revision 0 where nothing does."""

    revision: int
    data: bytes


class AtomicStore:
    """The values of one bucket.

    Changes of one value that come together are made together, in the order in which they came: each for
    itself, a hundred of them would spoil one another's.
    """

    def __init__(self, bucket: KeyValue) -> None:
        self._bucket = bucket
        self._waiting: dict[str, list[_PendingUpdate]] = {}  # by key, while something is done about it
        self._work: set[asyncio.Task[None]] = set()

    async def update(self, key: str, step: UpdateFunction[T], *, keep: float | None = None) -> T:
        """Replace what lies under ``key`` by what ``step`` makes of it, and return what it says besides.

        After ``keep`` seconds the broker forgets it.

        ``step`` gets ``b""`` where there is nothing yet, and gives None for what is to stay; it may be
        called several times. Raises BrokerError, and then nothing was written or nobody knows.
        """
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        wanted = _PendingUpdate(step, keep, result)
        if key in self._waiting:
            self._waiting[key].append(wanted)
        else:
            self._waiting[key] = [wanted]
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
            result = await self.update(update.key, update.fn, keep=update.ttl)
            current = advance(current.steps, result)
        return current

    async def keys_with_prefix(self, prefix: str) -> list[str]:
        """The keys that begin with ``prefix``, which ends with a dot. Raises BrokerError."""
        keys: list[str] = []
        try:
            watcher = await self._bucket.watch(f"{prefix}>", ignore_deletes=True, meta_only=True)
            try:
                async for entry in watcher:
                    if entry is None:  # that was all
                        break
                    keys.append(entry.key)
            finally:
                await watcher.stop()  # type: ignore[no-untyped-call]
        except (nats.errors.Error, TimeoutError) as error:
            raise BrokerError(f"{prefix}*: the keys cannot be read: {error or 'no answer'}") from error
        return keys

    async def _update_all(self, key: str) -> None:
        """Make what is wanted of one value, until nothing is."""
        value: _Value | None = None
        together: list[_PendingUpdate] = []
        try:
            while together := self._waiting[key]:
                self._waiting[key] = []
                try:
                    value = await self._update_batch(key, together, value)
                except BrokerError as error:
                    value = None
                    for wanted in together:
                        _fail(wanted, BrokerError(str(error)))
                except Exception as error:  # noqa: BLE001 -- a bug is for those who met it: they would wait for ever
                    value = None
                    for wanted in together:
                        _fail(wanted, error)
        finally:
            for wanted in (*together, *self._waiting.pop(key)):  # where this was cancelled
                wanted.result.cancel()

    async def _update_batch(self, key: str, together: list[_PendingUpdate], value: _Value | None) -> _Value:
        """``value`` after all of them; None where it is not known and has to be asked for."""
        try:
            for _ in range(_TRIES):
                before = value or await self._read(key)
                data, outcomes = _apply_updates(before.data, together)
                after = before
                if data is not None:
                    keep = max(math.inf if wanted.ttl is None else wanted.ttl for wanted in together)
                    ttl = None if keep == math.inf else float(math.ceil(keep))
                    try:
                        # ``update`` does the same, and takes no time to live.
                        revision = await self._bucket._update(key, data, last=before.revision, msg_ttl=ttl)  # noqa: SLF001
                    except nats.js.errors.KeyWrongLastSequenceError:
                        value = None
                        continue
                    after = _Value(revision, data)
                for wanted, outcome in zip(together, outcomes, strict=True):
                    if isinstance(outcome, Exception):
                        _fail(wanted, outcome)
                    elif not wanted.result.done():
                        wanted.result.set_result(outcome)
                return after
        except (nats.errors.Error, TimeoutError) as error:
            raise BrokerError(f"{key} cannot be read or written: {error or 'no answer'}") from error
        raise BrokerError(f"{key} cannot be written: too many replicas change it at once")

    async def _read(self, key: str) -> _Value:
        try:
            entry = await self._bucket.get(key)
        except nats.js.errors.KeyNotFoundError as error:
            deleted = error.entry.revision if error.entry else None
            return _Value(deleted or 0, b"")
        return _Value(entry.revision or 0, entry.value or b"")


def _apply_updates(data: bytes, together: list[_PendingUpdate]) -> tuple[bytes | None, list[Any]]:
    """What one change after the other makes of ``data``, None where nothing does, and what each says."""
    changed, outcomes = None, []
    for wanted in together:
        try:
            after, outcome = wanted.fn(data if changed is None else changed)
        except Exception as error:  # noqa: BLE001 -- it is for the one who wanted this, and for nobody else
            after, outcome = None, error
        changed = changed if after is None else after
        outcomes.append(outcome)
    return changed, outcomes


def _fail(wanted: _PendingUpdate, error: Exception) -> None:
    if not wanted.result.done():
        wanted.result.set_exception(error)
