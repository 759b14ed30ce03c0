"""Deliveries that go on for others: for a channel that failed, for addresses that were not served.

A fall-back chain is one delivery that carries the others, finished, so that nothing which changes
while it is under way changes them. The next goes out only where the one before definitely failed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from msgspec.structs import replace

from .model import Delivery, FallbackFrom


def link_fallbacks(steps: Sequence[Delivery], within: float) -> Delivery:
    """The first of ``steps`` with the others as its fall-backs.

    The first keeps its id. The others get one of the chain, for the same message may be asked for by
    itself as well. ``within``, in seconds, holds for each but the last.
    """
    *earlier, last = steps
    if not earlier:  # most are no chain, and to copy a delivery takes as long as to write a short text
        return last
    first, *others = [*(replace(step, fallback_after=within) for step in earlier), last]
    return replace(
        first, fallbacks=tuple(replace(step, id=fallback_id(first.id, step.id)) for step in others)
    )


def fallback_id(first: str, own: str) -> str:
    """The id of the delivery ``own`` as a fall-back in the chain that begins with the delivery ``first``."""
    return hashlib.sha256(f"{first}\0instead\0{own}".encode()).hexdigest()[:32]


def next_fallback(delivery: Delivery, *, at: int) -> Delivery:
    """The fall-back that goes on for ``delivery`` from ``at`` on, with those that are left behind it."""
    following, *others = delivery.fallbacks
    before = delivery.fell_back_from.channels if delivery.fell_back_from else ()
    return replace(
        following,
        fallbacks=tuple(others),
        fell_back_from=FallbackFrom(channels=(*before, delivery.channel), at=at),
    )


def drop_last_fallback(delivery: Delivery) -> Delivery:
    """The chain without its last fall-back."""
    *earlier, last = (delivery, *delivery.fallbacks)[:-1]
    first, *others = [*earlier, replace(last, fallback_after=0.0)]
    return replace(first, fallbacks=tuple(others))


def remaining_recipients(delivery: Delivery, remaining: tuple[str, ...]) -> Delivery:
    """The same message for the addresses that are left; the same id whenever they are the same.

    It has no fall-back: its reader has been told over its channel, at another address.
    """
    digest = hashlib.sha256("\0".join((delivery.id, *remaining)).encode())
    return replace(delivery, id=digest.hexdigest()[:32], to=remaining, fallbacks=(), fallback_after=0.0)
