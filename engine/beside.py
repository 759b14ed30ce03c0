"""Long work in a thread beside the event loop, which goes on with hardly a delay."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Python lets one thread run at a time. Each time that the loop comes back from a socket, many times for one
# event, it waits this long until the other thread makes way: usually 5 ms.
_TURN = 0.0005  # seconds


async def run_in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What ``work`` returns, done in a thread. It is done to its end also where nobody waits any more."""
    return await asyncio.to_thread(_switch_interval.short()(work), *args, **kwargs)


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
