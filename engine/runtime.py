"""The clock of the process, and an event loop that stays responsive: worker threads, short collector pauses.

CPython runs one thread at a time, and the collector stops them all. This module shortens the turns of
worker threads, runs the collector only when the heap has grown, and frees large objects piece by piece.
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

# Python lets one thread run at a time. Each time that the loop comes back from a socket, many times for one
# event, it waits this long until the other thread makes way: usually 5 ms.
_TURN = 0.0005  # seconds

_YOUNG = 20_000  # objects; usually 700, of which thousands are in hand under load, and none is garbage
_GROWN = 1.5  # times what was in use after the last full collection

_OURS = 2  # references to a piece that nobody else has: ours, and the argument of the question


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
    """How long a thread runs while another one waits; short while anybody asks for it."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _askers: int = 0
    _usual: float = 0.0  # seconds, put back when the last one is done

    @contextmanager
    def short(self) -> Iterator[None]:
        with self._lock:
            if not self._askers:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(min(_TURN, self._usual))
            self._askers += 1
        try:
            yield
        finally:
            with self._lock:
                self._askers -= 1
                if not self._askers:
                    sys.setswitchinterval(self._usual)


_switch_interval = _SwitchInterval()


@dataclass(slots=True)
class _Collected:
    """The last full collection."""

    blocks: int = 0  # of memory in use right after it


_last = _Collected()


def freeze_heap() -> None:
    """Collect, and have the collector leave alone what is there; to be called once a policy is in use.

    A full collection looks at every object: of an idle server for some 35 ms, with 100,000 rules for the
    better part of a second.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG)
    _last.blocks = sys.getallocatedblocks()


def heap_has_grown() -> bool:
    """Whether so much more is in use than after ``settle`` that looking for garbage is worth its time."""
    return sys.getallocatedblocks() > _GROWN * _last.blocks


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Loading makes much that stays and little garbage: looking for it took half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            # Else the next collection, a moment later, would look at all that has been made.
            gc.freeze()
            gc.enable()


def free_gradually(things: list[object]) -> None:
    """Free what is in ``things``, which is emptied, and all that only it refers to; for a thread.

    A piece is freed when what refers to it is gone; what anybody else refers to stays as it is.
    """
    while things:
        piece = things.pop()
        if gc.is_tracked(piece) and sys.getrefcount(piece) == _OURS:
            # Held here, they outlive the piece, and freeing it is a matter of a moment.
            things += gc.get_referents(piece)
        del piece
