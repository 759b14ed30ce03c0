"""What stands between an event that matched and a message that is sent, in one order for all.

match, shadow, hops, condition, address (draft) -> time windows (here) -> send, retry, fall-back.
Gates decide from what was asked for, what is known, and the time; whoever calls fetches and stores.
"""

from __future__ import annotations

from dataclasses import replace

from ..draft import Draft, Order
from ..model import Held, Suppressed
from .timing import pass_timing

__all__ = ["pass_gates"]


def pass_gates(drafted: Draft, now: int) -> Draft:
    """``drafted`` without what is held back for good, and with what waits marked so.

    ``now`` is in microseconds since the epoch.
    """
    return _in_time(drafted, now)


def _in_time(drafted: Draft, now: int) -> Draft:
    orders: list[Order] = []
    suppressed: list[Suppressed] = []
    held: list[Held] = []
    for order in drafted.orders:
        match pass_timing(order, drafted.rulebook.defaults.zone, now):
            case None:
                orders.append(order)
            case Held() as waits:
                orders.append(replace(order, released=waits.until))
                held.append(waits)
            case Suppressed() as dropped:
                suppressed.append(dropped)
    return replace(
        drafted,
        orders=tuple(orders),
        suppressed=(*drafted.suppressed, *suppressed),
        held=(*drafted.held, *held),
    )
