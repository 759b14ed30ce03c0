"""What stands between an event that matched and a message that is sent, in one order for all.

match, shadow, hops, condition, preferences, address (draft) -> dedupe, throttle, digest, time windows,
budget (here) -> send, retry, fallback. Gates decide from what was asked for, what is remembered,
and the time; whoever calls fetches and stores what is remembered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from ..choices import ChoicesOf
from ..draft import DigestTimer, Notification, Routing
from ..limits import BudgetExhausted
from ..model import Event, Held, Suppressed
from ..rulebook import Rule, Rulebook
from .budget import budget_buffer_key, consume_budget, defer_to_digest
from .cells import (
    StateSteps,
    StateUpdate,
    event_fingerprint,
    run_in_memory,
    run_steps,
    state_key,
    state_prefix,
)
from .dedupe import apply_dedupe
from .digest import (
    GATHERING,
    NotDueYet,
    apply_digest,
    confirm,
    digest_spec,
    leave,
    rejoin,
    take_due,
    ttl_of,
)
from .merge import digest_event, digest_key, digest_reqid, route_digest
from .pool import Batch, Buffered
from .throttle import OverLimit, apply_throttle
from .timing import apply_time_windows, has_schedule

__all__ = [
    "GATHERING",
    "Batch",
    "NotDueYet",
    "StateSteps",
    "StateUpdate",
    "apply_final_limits",
    "apply_limits",
    "apply_time_windows",
    "confirm",
    "digest_event",
    "digest_key",
    "digest_spec",
    "event_fingerprint",
    "has_schedule",
    "route_digest",
    "route_due_digest",
    "run_in_memory",
    "run_steps",
    "state_prefix",
    "take_due",
    "undo_buffering",
]


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
