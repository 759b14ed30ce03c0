"""What stands between an event that matched and a message that is sent, in one order for all.

match, shadow, hops, condition, preferences, address (draft) -> dedupe, throttle, digest, time windows,
budget (here) -> send, retry, fallback. Gates decide from what was asked for, what is remembered,
and the time; whoever calls fetches and stores what is remembered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from ..choices import ChoicesOf
from ..draft import Alarm, Draft, Order
from ..limits import UsedUp
from ..model import Event, Held, Suppressed
from ..rulebook import Rule, Rulebook
from .budget import pool_of, put_off, spend
from .cells import Change, Row, cell_of, drive, event_id, in_memory, pool_prefix
from .dedupe import pass_dedupe
from .digest import (
    GATHERING,
    Postponed,
    digest_at,
    keep_of,
    leave,
    pass_digest,
    rejoin,
    settle_batch,
    take_batch,
)
from .merge import digest_event, key_of, merge, reqid_of
from .pool import Batch, Joined
from .throttle import Beyond, pass_throttle
from .timing import in_time, is_timed

__all__ = [
    "GATHERING",
    "Batch",
    "Change",
    "Postponed",
    "Row",
    "digest_at",
    "digest_due",
    "digest_event",
    "drive",
    "event_id",
    "in_memory",
    "in_time",
    "is_timed",
    "key_of",
    "merge",
    "pass_gates",
    "pass_last",
    "pool_prefix",
    "settle_batch",
    "take_batch",
    "withdraw",
]


def pass_gates(drafted: Draft, now: int, *, comes_again: bool = False) -> Row[Draft]:
    """``drafted`` without what is held back, and with what waits marked so.

    ``now`` is in microseconds since the epoch. Of an event that ``comes_again`` it is found out first whether
    it waits for a budget: the others know it without being told.
    """
    event, asked = drafted.event, {}
    for rule in (match.rule for match in drafted.matches if not match.rule.limits.are_none):
        asked[rule.id] = orders = drafted.orders_of(rule)
        if orders:
            stopped = (yield from _was_put_off(rule, event, orders)) if comes_again else None
            stopped = stopped or (yield from _limits(rule, event, now))
            if stopped is not None:
                drafted = _without(drafted, rule, stopped)
    drafted = in_time(drafted, now)
    for rule in (match.rule for match in drafted.matches if match.rule.limits.budgets):
        used_up = yield from _spend(drafted, rule, now)
        if used_up is not None:
            joined = yield from put_off(rule.id, rule.limits, event, asked[rule.id], used_up)
            drafted = replace(drafted, used_up=(*drafted.used_up, used_up))
            drafted = _without(drafted, rule, _Stopped(reason="budget", joined=joined))
    return drafted


def withdraw(drafted: Draft, gathered: Collection[str]) -> Row[tuple[Alarm, ...]]:
    """The event waits for no other rules than ``gathered``: something else was written down of it.

    ``drafted`` is what it asks for before the gates. The alarms are for those who wait where it did: it may
    have been the first, and theirs the one that it was to ring.
    """
    alarms: list[Alarm] = []
    for rule in (match.rule for match in drafted.matches if match.rule.id not in gathered):
        for key in _pools_of(rule, drafted.event, drafted.orders_of(rule)):
            due = yield from leave(key, rule.limits, drafted.event)
            alarms += [Alarm(key=key, rule=rule.id, at=due)] if due else []
    return tuple(alarms)


def _pools_of(rule: Rule, event: Event, orders: Sequence[Order]) -> Iterator[str]:
    """The keys under which ``event`` may wait."""
    limits = rule.limits
    if limits.throttle and limits.throttle.digest:
        yield cell_of("throttle", rule.id, limits.throttle.key, event)
    if limits.digest:
        yield cell_of("digest", rule.id, limits.digest.key, event)
    if orders and digest_at(limits, "budget."):
        yield pool_of(rule.id, event, orders)


def pass_last(drafted: Draft, rule: Rule, now: int) -> Row[Draft | Postponed]:
    """``drafted``, a digest, as far as time and budgets let it; all other gates it has passed."""
    drafted = in_time(drafted, now)
    used_up = yield from _spend(drafted, rule, now)
    if used_up is None:
        return drafted
    if used_up.budget.digest is not None:
        return Postponed(until=used_up.until, used_up=(used_up,))
    return replace(_without(drafted, rule, _Stopped(reason="budget")), used_up=(used_up,))


def _spend(drafted: Draft, rule: Rule, now: int) -> Row[UsedUp | None]:
    budgets = rule.limits.budgets
    orders = drafted.orders_of(rule) if budgets else ()
    return (yield from spend(budgets, len(orders), now)) if orders else None


def digest_due(
    rulebook: Rulebook, rule: Rule, key: str, now: int, choices_of: ChoicesOf
) -> Row[Draft | Postponed | None]:
    """What lies under ``key`` as the draft of one digest, if it is due ``now``.

    None where nothing is there; Postponed where its time has not come, or there is no budget for it. It lies
    there until it is settled.
    """
    batch = yield from take_batch(key, rule.limits, now)
    if not isinstance(batch, Batch):
        return batch
    return (yield from pass_last(merge(rulebook, rule, key, batch, choices_of), rule, now))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stopped:
    """That none of a rule's messages of one event goes out now."""

    reason: str
    joined: Joined | None = None  # the pool that it waits in


def _was_put_off(rule: Rule, event: Event, orders: Sequence[Order]) -> Row[_Stopped | None]:
    """That ``event``, which comes again, waits for a budget since it came first."""
    if not rule.limits.budgets:
        return None
    joined = yield from rejoin(pool_of(rule.id, event, orders), rule.limits, event)
    return _Stopped(reason="budget", joined=joined) if joined else None


def _limits(rule: Rule, event: Event, now: int) -> Row[_Stopped | None]:
    """What the rule's limits make of ``event``; the first that holds it back has the last word."""
    limits = rule.limits
    if limits.dedupe and not (yield from pass_dedupe(rule.id, limits.dedupe, event, now)):
        return _Stopped(reason="dedupe")
    if limits.throttle:
        answer = yield from pass_throttle(rule.id, limits.throttle, event, now, keep=keep_of(limits))
        if isinstance(answer, Joined):
            return _Stopped(reason="throttle", joined=answer)
        if isinstance(answer, Beyond):
            return _Stopped(reason="throttle")
    if limits.digest:
        joined = yield from pass_digest(rule.id, limits.digest, event, now, keep=keep_of(limits))
        return _Stopped(reason="digest", joined=joined)
    return None


def _without(drafted: Draft, rule: Rule, stopped: _Stopped) -> Draft:
    """``drafted`` without the rule's orders, each of them recorded."""
    gone = drafted.orders_of(rule)
    ids = {order.id for order in gone}
    drafted = replace(
        drafted,
        orders=tuple(order for order in drafted.orders if order.id not in ids),
        held=tuple(held for held in drafted.held if held.delivery not in ids),
    )
    joined = stopped.joined
    if joined is None:
        dropped = (
            Suppressed(rule=rule.id, channel=order.channel.name, reason=stopped.reason) for order in gone
        )
        return replace(drafted, suppressed=(*drafted.suppressed, *dropped))
    digest = reqid_of(joined.key, joined.number)
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
    rings = (Alarm(key=joined.key, rule=rule.id, at=joined.until),) if joined.rings else ()
    return replace(drafted, held=(*drafted.held, *held), alarms=(*drafted.alarms, *rings))
