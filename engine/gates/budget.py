"""So many messages in each stretch of time, of one rule and of all together.

An event's messages of one rule are sent all or none. What there is no budget for waits until there may be
some again, and is then told of together, each reader of what was for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..draft import Order
from ..limits import Budget, UsedUp
from ..model import Event
from .cells import Change, Row, digest_of, pool_prefix
from .digest import SLACK, gather, rejoin
from .pool import Joined


class _Spent(msgspec.Struct, frozen=True):
    window: int = 0
    messages: int = 0


_spent = msgspec.json.Decoder(_Spent)


def spend(budgets: Mapping[str, Budget], messages: int, now: int) -> Row[UsedUp | None]:
    """Count so many ``messages`` in every one of ``budgets``, or, where one has not as many left, in none."""
    counted: list[str] = []
    for name, budget in budgets.items():
        if not (yield _counting(name, budget, messages, now)):
            for earlier in counted:
                yield _counting(earlier, budgets[earlier], -messages, now)
            return UsedUp(name=name, budget=budget, until=budget.ends(now))
        counted.append(name)
    return None


def _counting(name: str, budget: Budget, messages: int, now: int) -> Change:
    """Whether so many messages were counted; fewer than none are given back."""
    window = budget.window(now)

    def step(value: bytes) -> tuple[bytes | None, bool]:
        before = _spent.decode(value) if value else _Spent()
        used = before.messages if before.window == window else 0
        # What is more than a whole budget would else never be sent.
        if used and used + messages > budget.limit:
            return None, False
        return msgspec.json.encode(_Spent(window, max(0, used + messages))), True

    return Change(f"spent.{digest_of(name)}", step, budget.per + SLACK)


def put_off(rule: str, event: Event, orders: Sequence[Order], used_up: UsedUp) -> Row[Joined | None]:
    """``event`` waits with others for the same readers; None where nobody is to be told of it later."""
    digest = used_up.budget.digest
    if digest is None:
        return None
    return (yield from gather(_pool_of(rule, event, orders), digest, event, lambda _: used_up.until))


def was_put_off(
    rule: str, budgets: Mapping[str, Budget], event: Event, orders: Sequence[Order]
) -> Row[Joined | None]:
    """Where ``event``, which comes again, waits since it came first; None where it does not."""
    digest = next(filter(None, (budget.digest for budget in budgets.values())), None)
    return (yield from rejoin(_pool_of(rule, event, orders), digest, event)) if digest else None


def _pool_of(rule: str, event: Event, orders: Sequence[Order]) -> str:
    """The key under which events for the same readers wait."""
    readers = sorted({order.to or (order.channel.name,) for order in orders})
    return pool_prefix("budget", rule) + digest_of(event.kind, *map(repr, readers))
