"""What was probably meant by a name that is not there."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def nearest(name: str, allowed: Iterable[Any]) -> str:
    """``did you mean 'email'?`` for the nearest of ``allowed``; "" where none is near."""
    spelled = {str(word).lower(): str(word) for word in allowed}
    close = get_close_matches(str(name).lower(), spelled, n=1, cutoff=0.6)
    return f"did you mean '{spelled[close[0]]}'?" if close else ""
