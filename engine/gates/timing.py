"""The last gate before a message goes out: whether it may be sent at this hour, and if not, when."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from ..draft import Order
from ..model import Held, Suppressed


def pass_timing(order: Order, zone: ZoneInfo, now: int) -> Held | Suppressed | None:
    """None where ``order`` may be sent ``now``; ``zone`` is for readers whose own is not known."""
    timing, local = order.notify.timing, order.recipient.zone or zone
    schedule = timing.schedule

    def suppress(reason: str, detail: str = "") -> Suppressed:
        return Suppressed(rule=order.match.rule.id, channel=order.channel.name, reason=reason, detail=detail)

    if not schedule.is_active(now, local):
        return suppress("outside_active_time")
    if not schedule.is_mute(now, local):
        return None
    if not timing.defers:
        return suppress("muted")
    until = schedule.opens(now, local)
    if until is None:
        return suppress("muted", "there is no time at which it might be sent")
    return Held(
        rule=order.match.rule.id,
        channel=order.channel.name,
        reason="muted",
        until=until,
        delivery=order.id,
    )
