"""The clock of the process, and what keeps its event loop responsive.

CPython runs one thread at a time, and the garbage collector stops them all. So worker threads get short
turns, the collector runs only if the heap has grown, and large objects are freed piece by piece.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# While a worker thread runs, the loop waits this long each time it returns from a socket, several times per
# event. Python's default is 5 ms.
_SWITCH_INTERVAL = 0.0005  # seconds

_YOUNG = 20_000  # objects; the default is 700, but thousands are in use under load and none is garbage
_GROWN = 1.5  # times the memory in use after the last full collection

_OWN_REFERENCES = 2  # to an object that nothing else refers to: the local variable and the argument


def is_cancelled() -> bool:
    """Return whether this task was cancelled: ``wait_for`` of Python 3.11, in nats-py, may swallow that."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def now() -> int:
    """Return the present time in microseconds since the epoch."""
    return time.time_ns() // 1000


async def run_in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the result of ``work``, which runs in a thread, to its end even if the caller is cancelled.

    When this returns, the thread holds neither the arguments nor the result. A thread of an executor keeps
    both for a moment after the caller has its result; it would then be the one that frees them, all at once.
    """
    calls, results = [partial(work, *args, **kwargs)], list[T]()

    def run() -> None:
        with _switch_interval.short():
            results.append(calls.pop()())

    await asyncio.to_thread(run)
    return results.pop()


@dataclass(slots=True)
class _SwitchInterval:
    """The time that a thread runs while another one waits: short while any worker thread runs."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _workers: int = 0
    _usual: float = 0.0  # seconds, restored when the last worker ends

    @contextmanager
    def short(self) -> Iterator[None]:
        with self._lock:
            if not self._workers:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(min(_SWITCH_INTERVAL, self._usual))
            self._workers += 1
        try:
            yield
        finally:
            with self._lock:
                self._workers -= 1
                if not self._workers:
                    sys.setswitchinterval(self._usual)


_switch_interval = _SwitchInterval()


_last_collection = {"blocks": 0}  # of memory in use right after it


def freeze_heap() -> None:
    """Collect garbage, then exclude all present objects from later collections. Call it for a new policy.

    A full collection visits every object: 35 ms in an idle server, most of a second with 100,000 rules.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG)
    _last_collection["blocks"] = sys.getallocatedblocks()


def heap_has_grown() -> bool:
    """Return whether memory has grown so much since ``freeze_heap`` that a collection is worth its time."""
    return sys.getallocatedblocks() > _GROWN * _last_collection["blocks"]


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the collector. Loading a policy makes little garbage, and the search took half of its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            # Otherwise the next collection, a moment later, would visit all the new objects.
            gc.freeze()
            gc.enable()


def free_gradually(things: list[object]) -> None:
    """Empty ``things`` and free its objects with all that only they refer to, piece by piece, in a thread.

    An object is freed after the one that refers to it. An object with other references stays as it is.
    """
    while things:
        piece = things.pop()
        if gc.is_tracked(piece) and sys.getrefcount(piece) == _OWN_REFERENCES:
            # Here they outlive the piece, so it is freed without them, in a moment.
            things += gc.get_referents(piece)
        del piece
