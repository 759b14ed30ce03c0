"""When Python looks for garbage, which stops the process for as long as looking at every object takes.

Nothing of a policy leads back to itself, so it is freed when it is let go of, and garbage is next to none.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass

_YOUNG = 20_000  # objects; usually 700, of which thousands are in hand under load, and none is garbage
_GROWN = 1.5  # times what was in use after the last full collection


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
