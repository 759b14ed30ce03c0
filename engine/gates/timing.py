"""Whether a message may be sent at this hour, and if not, when."""

from __future__ import annotations

from dataclasses import replace
from zoneinfo import ZoneInfo

from msgspec import structs

from ..draft import Notification, Routing, with_fallbacks
from ..intervals import ALWAYS, Schedule
from ..model import Held, Suppressed


def apply_time_windows(drafted: Routing, now: int) -> Routing:
    """``drafted`` as far as it may be sent now, or later."""
    if not any(has_schedule(step) for order in drafted.notifications for step in (order, *order.fallbacks)):
        return drafted
    orders: list[Notification] = []
    suppressed: list[Suppressed] = []
    held: list[Held] = []
    changed = False
    for whole in drafted.notifications:
        steps: list[Notification] = []
        waiting: list[Held] = []
        for order in whole.steps:
            match _timing_of(order, drafted.rulebook.defaults.zone, now):
                case None:
                    steps.append(order)
                case Held() as waits:
                    steps.append(structs.replace(order, not_before=waits.until))
                    waiting.append(waits)
                case Suppressed() as dropped:
                    suppressed.append(dropped)
        changed = changed or bool(waiting or len(steps) < len(whole.steps))
        if steps:
            # A chain begins with what may go out now; where nothing may, it waits.
            first = next((place for place, step in enumerate(steps) if not step.not_before), 0)
            orders.append(with_fallbacks(steps[first:], whole.fallback_after))
            held += waiting[:1] if steps[first].not_before else ()
            suppressed += (
                Suppressed(rule=waits.rule, channel=waits.channel, reason=waits.reason)
                for waits in waiting[:first]
            )
    if not changed:
        return drafted
    return replace(
        drafted,
        notifications=tuple(orders),
        suppressed=(*drafted.suppressed, *suppressed),
        held=(*drafted.held, *held),
    )


def has_schedule(order: Notification) -> bool:
    """Whether the time makes any difference to ``order``."""
    return bool(order.quiet) or order.notify.timing.schedule is not ALWAYS


def _timing_of(order: Notification, zone: ZoneInfo, now: int) -> Held | Suppressed | None:
    """None where ``order`` may be sent ``now``; ``zone`` is for readers whose own is not known."""
    if not has_schedule(order):
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
