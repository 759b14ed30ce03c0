"""The last gate before a message goes out: whether it may be sent at this hour, and if not, when."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from ..draft import Order
from ..intervals import ALWAYS, Schedule
from ..model import Held, Suppressed


def is_timed(order: Order) -> bool:
    """Whether the time makes any difference to ``order``."""
    return bool(order.quiet) or order.notify.timing.schedule is not ALWAYS


def pass_timing(order: Order, zone: ZoneInfo, now: int) -> Held | Suppressed | None:
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
