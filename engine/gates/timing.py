"""Whether a message may be sent at this hour, and if not, when."""

from __future__ import annotations

from dataclasses import replace
from zoneinfo import ZoneInfo

from msgspec import structs

from ..draft import Draft, Order, chained
from ..intervals import ALWAYS, Schedule
from ..model import Held, Suppressed


def in_time(drafted: Draft, now: int) -> Draft:
    """``drafted`` as far as it may be sent now, or later."""
    if not any(is_timed(step) for order in drafted.orders for step in (order, *order.instead)):
        return drafted
    orders: list[Order] = []
    suppressed: list[Suppressed] = []
    held: list[Held] = []
    changed = False
    for whole in drafted.orders:
        steps: list[Order] = []
        waiting: list[Held] = []
        for order in whole.steps:
            match _timing_of(order, drafted.rulebook.defaults.zone, now):
                case None:
                    steps.append(order)
                case Held() as waits:
                    steps.append(structs.replace(order, released=waits.until))
                    waiting.append(waits)
                case Suppressed() as dropped:
                    suppressed.append(dropped)
        changed = changed or bool(waiting or len(steps) < len(whole.steps))
        if steps:
            # A chain begins with what may go out now; where nothing may, it waits.
            first = next((place for place, step in enumerate(steps) if not step.released), 0)
            orders.append(chained(steps[first:], whole.within))
            held += waiting[:1] if steps[first].released else ()
            suppressed += (
                Suppressed(rule=waits.rule, channel=waits.channel, reason=waits.reason)
                for waits in waiting[:first]
            )
    if not changed:
        return drafted
    return replace(
        drafted,
        orders=tuple(orders),
        suppressed=(*drafted.suppressed, *suppressed),
        held=(*drafted.held, *held),
    )


def is_timed(order: Order) -> bool:
    """Whether the time makes any difference to ``order``."""
    return bool(order.quiet) or order.notify.timing.schedule is not ALWAYS


def _timing_of(order: Order, zone: ZoneInfo, now: int) -> Held | Suppressed | None:
    """None where ``order`` may be sent ``now``; ``zone`` is for readers whose own is not known."""
    if not is_timed(order):
        return None
    timing, local = order.notify.timing, order.recipient.zone or zone
    policy = timing.schedule

    def suppress(reason: str, detail: str = "") -> Suppressed:
        return Suppressed(rule=order.match.rule.id, channel=order.channel.name, reason=reason, detail=detail)

    if not policy.is_active(now, local):
        return suppress("outside_active_time")
    muted = policy.is_mute(now, local)
    if muted and not timing.defers:
        return suppress("muted")
    quiet = any(each.holds(now, local) for each in order.quiet)
    if not muted and not quiet:
        return None
    reason = "muted" if muted else "quiet_hours"
    both = Schedule(active=policy.active, mute=(*policy.mute, *order.quiet))
    until = both.opens(now, local)
    if until is None:
        return suppress(reason, "there is no time at which it might be sent")
    return Held(
        rule=order.match.rule.id,
        channel=order.channel.name,
        reason=reason,
        until=until,
        delivery=order.id,
    )
