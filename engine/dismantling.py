"""Letting go of something large without a pause.

When the last reference to a policy of 10,000 rules goes, Python frees all of it at once, for half a
second, and no other thread runs meanwhile. Here it is taken apart piece by piece.
"""

from __future__ import annotations

import gc
import sys

_OURS = 2  # references to a piece that nobody else has: ours, and the argument of the question


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
