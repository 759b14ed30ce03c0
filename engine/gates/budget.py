"""So many messages in each stretch of time, of one rule and of all together.

An event's messages of one rule are sent all or none. What there is no budget for waits until there may be
some again, and is then told of together, each reader of what was for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..draft import Notification
from ..limits import Budget, BudgetExhausted, Limits
from ..model import Event
from .cells import StateSteps, StateUpdate, stable_hash, state_prefix
from .digest import SLACK, buffer_event, ttl_of
from .pool import Buffered


class _Spent(msgspec.Struct, frozen=True):
    since: int = 0  # when the window began, microseconds since the epoch
    messages: int = 0


_spent = msgspec.json.Decoder(_Spent)


def consume_budget(
    budgets: Mapping[str, Budget], messages: int, now: int
) -> StateSteps[BudgetExhausted | None]:
    """Count so many ``messages`` in every one of ``budgets``, or, where one has not as many left, in none."""
    counted: dict[str, int] = {}  # since when, by name
    for name, budget in budgets.items():
        since = yield _charge(name, budget, messages, now)
        if since is None:
            for earlier, its_since in counted.items():
                yield _refund(earlier, budgets[earlier], messages, its_since)
            return BudgetExhausted(name=name, budget=budget, until=budget.ends(now))
        counted[name] = since
    return None


def _charge(name: str, budget: Budget, messages: int, now: int) -> StateUpdate:
    """Since when the window runs in which so many messages were counted; None where they were not."""

    def step(value: bytes) -> tuple[bytes | None, int | None]:
        before = _spent.decode(value) if value else _Spent()
        # It never goes back, whoever is late or has a clock that is: what was counted would be forgotten.
        since = max(before.since, budget.begins(now))
        used = before.messages if before.since == since else 0
        # What is more than a whole budget would else never be sent.
        if used and used + messages > budget.limit:
            return None, None
        return msgspec.json.encode(_Spent(since, used + messages)), since

    return StateUpdate(_budget_key(name), step, budget.per + SLACK)


def _refund(name: str, budget: Budget, messages: int, since: int) -> StateUpdate:
    """So many messages were not sent after all; nothing comes of it where their window is over."""

    def step(value: bytes) -> tuple[bytes | None, None]:
        before = _spent.decode(value) if value else _Spent()
        if before.since != since:
            return None, None
        return msgspec.json.encode(_Spent(since, max(0, before.messages - messages))), None

    return StateUpdate(_budget_key(name), step, budget.per + SLACK)


def _budget_key(name: str) -> str:
    return f"spent.{stable_hash(name)}"


def defer_to_digest(
    rule: str, limits: Limits, event: Event, orders: Sequence[Notification], used_up: BudgetExhausted
) -> StateSteps[Buffered | None]:
    """``event`` waits with others for the same readers; None where nobody is to be told of it later."""
    digest, key = used_up.budget.digest, budget_buffer_key(rule, event, orders)
    if digest is None:
        return None
    return (yield from buffer_event(key, digest, event, lambda _: used_up.until, ttl_of(limits)))


def budget_buffer_key(rule: str, event: Event, orders: Sequence[Notification]) -> str:
    """The key under which events for the same readers wait.

    ``orders`` are those of the event at any hour: it has to be found again at another.
    """
    readers = sorted({order.to or (order.channel.name,) for order in orders})
    return state_prefix("budget", rule) + stable_hash(event.kind, *map(repr, readers))
