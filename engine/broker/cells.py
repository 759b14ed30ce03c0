"""One value that all replicas change: read, reckoned, and written only if nobody wrote meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import nats.errors
import nats.js.errors
from nats.js.kv import KeyValue

from ..errors import BrokerError

_TRIES = 50  # of a compare-and-set that others win

T = TypeVar("T")


async def keys_below(bucket: KeyValue, prefix: str) -> list[str]:
    """The keys that begin with ``prefix``, which ends with a dot. Raises BrokerError."""
    keys: list[str] = []
    try:
        watcher = await bucket.watch(f"{prefix}>", ignore_deletes=True, meta_only=True)
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


async def change(
    bucket: KeyValue, key: str, step: Callable[[bytes], tuple[bytes | None, T]], *, keep: float | None = None
) -> T:
    """Replace what lies under ``key`` by what ``step`` makes of it, and return what it says besides.

    After ``keep`` seconds the broker forgets it.

    ``step`` gets ``b""`` where there is nothing yet, and gives None for what is to stay; it may be
    called several times. Raises BrokerError, and then nothing was written or nobody knows.
    """
    ttl = None if keep is None else float(math.ceil(keep))
    try:
        for _ in range(_TRIES):
            try:
                entry = await bucket.get(key)
                revision, value = entry.revision or 0, entry.value or b""
            except nats.js.errors.KeyNotFoundError:
                revision, value = 0, b""
            changed, result = step(value)
            if changed is None:
                return result
            try:
                # ``update`` does the same, and takes no time to live.
                await bucket._update(key, changed, last=revision, msg_ttl=ttl)  # noqa: SLF001
            except nats.js.errors.KeyWrongLastSequenceError:
                continue
            return result
    except (nats.errors.Error, TimeoutError) as error:
        raise BrokerError(f"{key} cannot be read or written: {error or 'no answer'}") from error
    raise BrokerError(f"{key} cannot be written: too many replicas change it at once")
