"""The stages between a matching rule and a sent message, in one order for all.

match, shadow, hops, condition, preferences, address (draft) -> dedupe, throttle, digest, time windows,
budget (here) -> send, retry, fallback. A stage decides from the routed messages, the stored state and the
time; the caller reads and stores the state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from zoneinfo import ZoneInfo

from msgspec import structs

from ...model.messages import Event, Held, Suppressed
from ...rules.rulebook import Rule, Rulebook
from ...rules.schedule import ALWAYS, Schedule
from ..draft import DigestTimer, Notification, Routing, with_fallbacks
from ..recipients import ChoicesOf
from .counters import (
    Withheld,
    apply_dedupe,
    apply_throttle,
    budget_buffer_key,
    consume_budget,
)
from .digest import (
    Batch,
    NotDueYet,
    apply_digest,
    defer_to_digest,
    digest_reqid,
    digest_spec,
    leave,
    rejoin,
    route_digest,
    take_due,
    ttl_of,
)
from .state import StateSteps, state_key


def apply_limits(routing: Routing, now: int, *, comes_again: bool = False) -> StateSteps[Routing]:
    """Return ``routing`` with the messages that the limits suppress or hold recorded as such.

    ``now`` is in microseconds since the epoch. ``comes_again`` means that the event may have been planned
    before: then an event that already waits for a budget keeps waiting. The other limits recognise it.
    """
    event, unlimited = routing.event, {}
    for rule in (match.rule for match in routing.matches if not match.rule.limits.are_none):
        unlimited[rule.id] = notifications = routing.notifications_of(rule)
        if notifications:
            buffered = None
            if comes_again and digest_spec(rule.limits, "budget."):
                key = budget_buffer_key(rule.id, event, notifications)
                buffered = yield from rejoin(key, rule.limits, event)
            withheld = Withheld(reason="budget", buffered=buffered) if buffered else None
            withheld = withheld or (yield from _apply_rule_limits(rule, event, now))
            if withheld is not None:
                routing = _withhold(routing, rule, withheld)
    routing = apply_time_windows(routing, now)
    for rule in (match.rule for match in routing.matches if match.rule.limits.budgets):
        messages = len(routing.notifications_of(rule))
        exhausted = yield from consume_budget(rule.limits.budgets, messages, now)
        if exhausted is not None:
            key = budget_buffer_key(rule.id, event, unlimited[rule.id])
            buffered = yield from defer_to_digest(key, event, exhausted, ttl=ttl_of(rule.limits))
            routing = replace(routing, exhausted_budgets=(*routing.exhausted_budgets, exhausted))
            routing = _withhold(routing, rule, Withheld(reason="budget", buffered=buffered))
    return routing


def undo_buffering(routing: Routing, buffered: Collection[str]) -> StateSteps[tuple[DigestTimer, ...]]:
    """Remove the event from the buffers of all rules but ``buffered``: its recorded plan has no others.

    ``routing`` is the event's before the limits. Returns timers for the events that stay: the removed one
    may have been the first, and have set their timer.
    """
    timers: list[DigestTimer] = []
    for rule in (match.rule for match in routing.matches if match.rule.id not in buffered):
        for key in _buffer_keys(rule, routing.event, routing.notifications_of(rule)):
            due = yield from leave(key, rule.limits, routing.event)
            timers += [DigestTimer(key=key, rule=rule.id, at=due)] if due else []
    return tuple(timers)


def _buffer_keys(rule: Rule, event: Event, notifications: Sequence[Notification]) -> Iterator[str]:
    """Yield the keys under which ``event`` may wait."""
    limits = rule.limits
    if limits.throttle and limits.throttle.digest:
        yield state_key("throttle", rule.id, limits.throttle.key, event)
    if limits.digest:
        yield state_key("digest", rule.id, limits.digest.key, event)
    if notifications and digest_spec(limits, "budget."):
        yield budget_buffer_key(rule.id, event, notifications)


def limit_digest(
    rulebook: Rulebook, rule: Rule, key: str, batch: Batch, *, now: int, choices_of: ChoicesOf
) -> StateSteps[Routing | NotDueYet]:
    """Route the digest of ``batch`` and apply time windows and budgets; its events passed the other limits.

    Returns NotDueYet if a budget that has a digest is exhausted.
    """
    routing = apply_time_windows(route_digest(rulebook, rule, key, batch, choices_of), now)
    messages = len(routing.notifications_of(rule))
    exhausted = yield from consume_budget(rule.limits.budgets, messages, now)
    if exhausted is None:
        return routing
    if exhausted.budget.digest is not None:
        return NotDueYet(until=exhausted.until, exhausted_budgets=(exhausted,))
    return replace(_withhold(routing, rule, Withheld(reason="budget")), exhausted_budgets=(exhausted,))


def route_due_digest(
    rulebook: Rulebook, rule: Rule, key: str, now: int, choices_of: ChoicesOf
) -> StateSteps[Routing | NotDueYet | None]:
    """Return the routing of the digest under ``key`` if it is due ``now``, and None if nothing waits there.

    Returns NotDueYet if it is not due, or a budget is exhausted. The batch stays until it is confirmed.
    """
    batch = yield from take_due(key, rule.limits, now)
    if not isinstance(batch, Batch):
        return batch
    return (yield from limit_digest(rulebook, rule, key, batch, now=now, choices_of=choices_of))


def _apply_rule_limits(rule: Rule, event: Event, now: int) -> StateSteps[Withheld | None]:
    """Apply dedupe, throttle and digest; the first that withholds ``event`` decides."""
    limits = rule.limits
    if limits.dedupe and not (yield from apply_dedupe(rule.id, limits.dedupe, event, now)):
        return Withheld(reason="dedupe")
    if limits.throttle:
        withheld = yield from apply_throttle(rule.id, limits.throttle, event, now, ttl=ttl_of(limits))
        if withheld is not None:
            return withheld
    if limits.digest:
        buffered = yield from apply_digest(rule.id, limits.digest, event, now, ttl=ttl_of(limits))
        return Withheld(reason="digest", buffered=buffered)
    return None


def _withhold(routing: Routing, rule: Rule, withheld: Withheld) -> Routing:
    """Return ``routing`` without the rule's notifications, each recorded as suppressed or held."""
    gone = routing.notifications_of(rule)
    ids = {each.id for each in gone}
    routing = replace(
        routing,
        notifications=tuple(each for each in routing.notifications if each.id not in ids),
        held=tuple(held for held in routing.held if held.delivery not in ids),
    )
    reason, buffered = withheld.reason, withheld.buffered
    if buffered is None:
        dropped = (Suppressed(rule=rule.id, channel=each.channel.name, reason=reason) for each in gone)
        return replace(routing, suppressed=(*routing.suppressed, *dropped))
    until, digest = buffered.until, digest_reqid(buffered.key, buffered.number)
    held = (
        Held(rule=rule.id, channel=each.channel.name, reason=reason, until=until, digest=digest)
        for each in gone
    )
    timers = (DigestTimer(key=buffered.key, rule=rule.id, at=until),) if buffered.needs_timer else ()
    return replace(routing, held=(*routing.held, *held), timers=(*routing.timers, *timers))


def apply_time_windows(routing: Routing, now: int) -> Routing:
    """Return ``routing`` with each message sent now, held until its window opens, or suppressed."""
    notifications: list[Notification] = []
    suppressed: list[Suppressed] = []
    held: list[Held] = []
    if not any(has_schedule(step) for each in routing.notifications for step in (each, *each.fallbacks)):
        return routing
    for chain in routing.notifications:
        steps: list[Notification] = []
        waiting: list[Held] = []
        for step in chain.steps:
            match _check_windows(step, routing.rulebook.defaults.zone, now):
                case None:
                    steps.append(step)
                case Held() as waits:
                    steps.append(structs.replace(step, not_before=waits.until))
                    waiting.append(waits)
                case Suppressed() as dropped:
                    suppressed.append(dropped)
        if not steps:
            continue
        # A chain begins with the first step that may be sent now. If there is none, its first step waits.
        first = next((place for place, step in enumerate(steps) if not step.not_before), 0)
        notifications.append(with_fallbacks(steps[first:], chain.fallback_after))
        held += waiting[:1] if steps[first].not_before else ()
        suppressed += (
            Suppressed(rule=waits.rule, channel=waits.channel, reason=waits.reason)
            for waits in waiting[:first]
        )
    return replace(
        routing,
        notifications=tuple(notifications),
        suppressed=(*routing.suppressed, *suppressed),
        held=(*routing.held, *held),
    )


def has_schedule(notification: Notification) -> bool:
    """Return whether the time decides about ``notification``."""
    return bool(notification.quiet) or notification.notify.timing.schedule is not ALWAYS


def _check_windows(notification: Notification, zone: ZoneInfo, now: int) -> Held | Suppressed | None:
    """Return None if ``notification`` may be sent ``now``; ``zone`` is for recipients without their own."""
    if not has_schedule(notification):
        return None
    timing, local = notification.notify.timing, notification.recipient.zone or zone
    policy, rule, channel = timing.schedule, notification.match.rule.id, notification.channel.name
    if not policy.is_active(now, local):
        return Suppressed(rule=rule, channel=channel, reason="outside_active_time")
    muted = policy.is_mute(now, local)
    if muted and not timing.defers:
        return Suppressed(rule=rule, channel=channel, reason="muted")
    if not muted and not any(each.holds(now, local) for each in notification.quiet):
        return None
    reason = "muted" if muted else "quiet_hours"
    until = Schedule(active=policy.active, mute=(*policy.mute, *notification.quiet)).opens(now, local)
    if until is None:
        detail = "there is no time at which it might be sent"
        return Suppressed(rule=rule, channel=channel, reason=reason, detail=detail)
    return Held(rule=rule, channel=channel, reason=reason, until=until, delivery=notification.id)
