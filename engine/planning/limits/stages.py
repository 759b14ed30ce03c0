"""The stages between a matching rule and a sent message, in one order for all.

match, shadow, hops, condition, preferences, address (draft) -> dedupe, throttle, digest, time windows,
budget (here) -> send, retry, fallback. A stage decides from the routed messages, the stored state and the
time; the caller reads and stores the state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from zoneinfo import ZoneInfo

from msgspec import structs

from ...model.messages import Event, Held, Suppressed
from ...rules.rulebook import BudgetExhausted, Rule, Rulebook
from ...rules.schedule import ALWAYS, Schedule
from ..draft import DigestTimer, Notification, Routing, with_fallbacks
from ..recipients import ChoicesOf
from .counters import (
    OverLimit,
    apply_dedupe,
    apply_throttle,
    budget_buffer_key,
    consume_budget,
    defer_to_digest,
)
from .digest import (
    Batch,
    Buffered,
    NotDueYet,
    apply_digest,
    digest_reqid,
    digest_spec,
    leave,
    rejoin,
    route_digest,
    take_due,
    ttl_of,
)
from .state import StateSteps, state_key


def apply_limits(drafted: Routing, now: int, *, comes_again: bool = False) -> StateSteps[Routing]:
    """``drafted`` without what is held back, and with what waits marked so.

    ``now`` is in microseconds since the epoch. Of an event that ``comes_again`` it is found out first whether
    it waits for a budget: the others know it without being told.
    """
    event, asked = drafted.event, {}
    for rule in (match.rule for match in drafted.matches if not match.rule.limits.are_none):
        asked[rule.id] = orders = drafted.notifications_of(rule)
        if orders:
            stopped = (yield from _find_deferred(rule, event, orders)) if comes_again else None
            stopped = stopped or (yield from _apply_rule_limits(rule, event, now))
            if stopped is not None:
                drafted = _without(drafted, rule, stopped)
    drafted = apply_time_windows(drafted, now)
    for rule in (match.rule for match in drafted.matches if match.rule.limits.budgets):
        used_up = yield from _consume_budgets(drafted, rule, now)
        if used_up is not None:
            joined = yield from defer_to_digest(rule.id, rule.limits, event, asked[rule.id], used_up)
            drafted = replace(drafted, exhausted_budgets=(*drafted.exhausted_budgets, used_up))
            drafted = _without(drafted, rule, _Withheld(reason="budget", joined=joined))
    return drafted


def undo_buffering(drafted: Routing, gathered: Collection[str]) -> StateSteps[tuple[DigestTimer, ...]]:
    """The event waits for no other rules than ``gathered``: something else was written down of it.

    ``drafted`` is what it asks for before the gates. The alarms are for those who wait where it did: it may
    have been the first, and theirs the one that it was to ring.
    """
    alarms: list[DigestTimer] = []
    for rule in (match.rule for match in drafted.matches if match.rule.id not in gathered):
        for key in _buffer_keys(rule, drafted.event, drafted.notifications_of(rule)):
            due = yield from leave(key, rule.limits, drafted.event)
            alarms += [DigestTimer(key=key, rule=rule.id, at=due)] if due else []
    return tuple(alarms)


def _buffer_keys(rule: Rule, event: Event, orders: Sequence[Notification]) -> Iterator[str]:
    """The keys under which ``event`` may wait."""
    limits = rule.limits
    if limits.throttle and limits.throttle.digest:
        yield state_key("throttle", rule.id, limits.throttle.key, event)
    if limits.digest:
        yield state_key("digest", rule.id, limits.digest.key, event)
    if orders and digest_spec(limits, "budget."):
        yield budget_buffer_key(rule.id, event, orders)


def apply_final_limits(drafted: Routing, rule: Rule, now: int) -> StateSteps[Routing | NotDueYet]:
    """``drafted``, a digest, as far as time and budgets let it; all other gates it has passed."""
    drafted = apply_time_windows(drafted, now)
    used_up = yield from _consume_budgets(drafted, rule, now)
    if used_up is None:
        return drafted
    if used_up.budget.digest is not None:
        return NotDueYet(until=used_up.until, exhausted_budgets=(used_up,))
    return replace(_without(drafted, rule, _Withheld(reason="budget")), exhausted_budgets=(used_up,))


def _consume_budgets(drafted: Routing, rule: Rule, now: int) -> StateSteps[BudgetExhausted | None]:
    budgets = rule.limits.budgets
    orders = drafted.notifications_of(rule) if budgets else ()
    return (yield from consume_budget(budgets, len(orders), now)) if orders else None


def route_due_digest(
    rulebook: Rulebook, rule: Rule, key: str, now: int, choices_of: ChoicesOf
) -> StateSteps[Routing | NotDueYet | None]:
    """What lies under ``key`` as the draft of one digest, if it is due ``now``.

    None where nothing is there; Postponed where its time has not come, or there is no budget for it. It lies
    there until it is settled.
    """
    batch = yield from take_due(key, rule.limits, now)
    if not isinstance(batch, Batch):
        return batch
    return (yield from apply_final_limits(route_digest(rulebook, rule, key, batch, choices_of), rule, now))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Withheld:
    """That none of a rule's messages of one event goes out now."""

    reason: str
    joined: Buffered | None = None  # the pool that it waits in


def _find_deferred(rule: Rule, event: Event, orders: Sequence[Notification]) -> StateSteps[_Withheld | None]:
    """That ``event``, which comes again, waits for a budget since it came first."""
    if not rule.limits.budgets:
        return None
    joined = yield from rejoin(budget_buffer_key(rule.id, event, orders), rule.limits, event)
    return _Withheld(reason="budget", joined=joined) if joined else None


def _apply_rule_limits(rule: Rule, event: Event, now: int) -> StateSteps[_Withheld | None]:
    """What the rule's limits make of ``event``; the first that holds it back has the last word."""
    limits = rule.limits
    if limits.dedupe and not (yield from apply_dedupe(rule.id, limits.dedupe, event, now)):
        return _Withheld(reason="dedupe")
    if limits.throttle:
        answer = yield from apply_throttle(rule.id, limits.throttle, event, now, keep=ttl_of(limits))
        if isinstance(answer, Buffered):
            return _Withheld(reason="throttle", joined=answer)
        if isinstance(answer, OverLimit):
            return _Withheld(reason="throttle")
    if limits.digest:
        joined = yield from apply_digest(rule.id, limits.digest, event, now, keep=ttl_of(limits))
        return _Withheld(reason="digest", joined=joined)
    return None


def _without(drafted: Routing, rule: Rule, stopped: _Withheld) -> Routing:
    """``drafted`` without the rule's orders, each of them recorded."""
    gone = drafted.notifications_of(rule)
    ids = {order.id for order in gone}
    drafted = replace(
        drafted,
        notifications=tuple(order for order in drafted.notifications if order.id not in ids),
        held=tuple(held for held in drafted.held if held.delivery not in ids),
    )
    joined = stopped.joined
    if joined is None:
        dropped = (
            Suppressed(rule=rule.id, channel=order.channel.name, reason=stopped.reason) for order in gone
        )
        return replace(drafted, suppressed=(*drafted.suppressed, *dropped))
    digest = digest_reqid(joined.key, joined.number)
    held = (
        Held(
            rule=rule.id,
            channel=order.channel.name,
            reason=stopped.reason,
            until=joined.until,
            digest=digest,
        )
        for order in gone
    )
    rings = (DigestTimer(key=joined.key, rule=rule.id, at=joined.until),) if joined.needs_timer else ()
    return replace(drafted, held=(*drafted.held, *held), timers=(*drafted.timers, *rings))


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
