"""So many messages in each stretch of time, of one rule and of all together.

An event's messages of one rule are sent all or none. What there is no budget for waits until there may be
some again, and is then told of together, each reader of what was for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..draft import Order
from ..limits import Budget, Limits, UsedUp
from ..model import Event
from .cells import Change, Row, digest_of, pool_prefix
from .digest import SLACK, gather, keep_of
from .pool import Joined


class _Spent(msgspec.Struct, frozen=True):
    since: int = 0  # when the window began, microseconds since the epoch
    messages: int = 0


_spent = msgspec.json.Decoder(_Spent)


def spend(budgets: Mapping[str, Budget], messages: int, now: int) -> Row[UsedUp | None]:
    """Count so many ``messages`` in every one of ``budgets``, or, where one has not as many left, in none."""
    counted: dict[str, int] = {}  # since when, by name
    for name, budget in budgets.items():
        since = yield _counting(name, budget, messages, now)
        if since is None:
            for earlier, its_since in counted.items():
                yield _giving_back(earlier, budgets[earlier], messages, its_since)
            return UsedUp(name=name, budget=budget, until=budget.ends(now))
        counted[name] = since
    return None


def _counting(name: str, budget: Budget, messages: int, now: int) -> Change:
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

    return Change(_spent_at(name), step, budget.per + SLACK)


def _giving_back(name: str, budget: Budget, messages: int, since: int) -> Change:
    """So many messages were not sent after all; nothing comes of it where their window is over."""

    def step(value: bytes) -> tuple[bytes | None, None]:
        before = _spent.decode(value) if value else _Spent()
        if before.since != since:
            return None, None
        return msgspec.json.encode(_Spent(since, max(0, before.messages - messages))), None

    return Change(_spent_at(name), step, budget.per + SLACK)


def _spent_at(name: str) -> str:
    return f"spent.{digest_of(name)}"


def put_off(
    rule: str, limits: Limits, event: Event, orders: Sequence[Order], used_up: UsedUp
) -> Row[Joined | None]:
    """``event`` waits with others for the same readers; None where nobody is to be told of it later."""
    digest, key = used_up.budget.digest, pool_of(rule, event, orders)
    if digest is None:
        return None
    return (yield from gather(key, digest, event, lambda _: used_up.until, keep_of(limits)))


def pool_of(rule: str, event: Event, orders: Sequence[Order]) -> str:
    """The key under which events for the same readers wait.

    ``orders`` are those of the event at any hour: it has to be found again at another.
    """
    readers = sorted({order.to or (order.channel.name,) for order in orders})
    return pool_prefix("budget", rule) + digest_of(event.kind, *map(repr, readers))
