"""Budgets, counted over all replicas on the broker, and the word to the operators when one is used up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
from nats.js.kv import KeyValue

from .broker import change
from .budget import EVERYTHING, Budget, Spent, demand
from .codec import encode
from .model import Delivery, Suppressed
from .notices import Herald
from .plan import Plan
from .rulebook import Rulebook
from .subjects import token


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """Lets deliveries through as far as the budgets go."""

    state: KeyValue
    herald: Herald
    clock: Callable[[], int]  # microseconds since the epoch

    def limits(self, rulebook: Rulebook, planned: Plan) -> bool:
        """Whether there is a budget to ask for any of ``planned``."""
        if not planned.deliveries:
            return False
        return rulebook.defaults.budget is not None or any(match.rule.budget for match in planned.matches)

    async def admit(self, rulebook: Rulebook, planned: Plan) -> Plan:
        """``planned`` without the deliveries for which there is no budget. Raises BrokerError."""
        budgets = {match.rule.id: match.rule.budget for match in planned.matches if match.rule.budget}
        whole = rulebook.defaults.budget
        wanted = demand(budgets, Counter(delivery.rule for delivery in planned.deliveries), whole)
        if not wanted:
            return planned
        if whole:
            budgets[EVERYTHING] = whole
        granted = {
            name: await self._take(name, budgets[name], count, planned) for name, count in wanted.items()
        }
        kept: list[Delivery] = []
        held: list[Suppressed] = []
        for delivery in planned.deliveries:
            names = [name for name in (delivery.rule, EVERYTHING) if name in granted]
            if all(granted[name] > 0 for name in names):
                kept.append(delivery)
                for name in names:
                    granted[name] -= 1
            else:
                which = next(name for name in names if granted[name] <= 0)
                held.append(
                    Suppressed(
                        rule=delivery.rule,
                        channel=delivery.channel,
                        reason="budget",
                        detail="the policy's budget" if which == EVERYTHING else "the rule's budget",
                    )
                )
        return replace(planned, deliveries=tuple(kept), suppressed=(*planned.suppressed, *held))

    async def _take(self, name: str, budget: Budget, count: int, planned: Plan) -> int:
        """How many of ``count`` deliveries there is budget for; they are counted as gone out."""
        now = self.clock()

        def take(value: bytes) -> tuple[bytes, int]:
            after, granted = _spent(value).take(budget, count, now=now)
            return encode(after), granted

        granted = await change(self.state, f"budget.{token(name)}", take)
        if granted < count:
            await self.herald.budget_used_up(name, budget, until=budget.ends(now), hops=planned.event.hops)
        return granted


def _spent(value: bytes) -> Spent:
    try:
        return msgspec.json.decode(value, type=Spent)
    except msgspec.MsgspecError:
        return Spent()
