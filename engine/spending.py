"""Budgets, counted over all replicas on the broker, and the word to the operators when one is used up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import nats.errors
import nats.js.errors
from nats.js.kv import KeyValue

from .budget import EVERYTHING, Budget, Spent, demand
from .errors import BrokerError
from .model import Delivery, Suppressed
from .notices import Herald
from .plan import Plan
from .rulebook import Rulebook
from .subjects import token

_TRIES = 50  # of a compare-and-set that others win


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """Lets deliveries through as far as the budgets go."""

    state: KeyValue
    herald: Herald
    clock: Callable[[], int]  # microseconds since the epoch

    async def admit(self, rulebook: Rulebook, planned: Plan) -> Plan:
        """``planned`` without the deliveries for which there is no budget. Raises BrokerError."""
        budgets = {match.rule.id: match.rule.budget for match in planned.matches if match.rule.budget}
        whole = rulebook.defaults.budget
        wanted = demand(budgets, Counter(delivery.rule for delivery in planned.deliveries), whole)
        if not wanted:
            return planned
        granted = {
            name: await self._take(name, budgets.get(name, whole), count, planned)
            for name, count in wanted.items()
            if name in budgets or whole
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

    async def _take(self, name: str, budget: Budget | None, count: int, planned: Plan) -> int:
        assert budget is not None  # noqa: S101 -- only those that have one are asked for
        key = f"budget.{token(name)}"
        try:
            for _ in range(_TRIES):
                revision, spent = await self._read(key)
                now = self.clock()
                after, granted = spent.take(budget, count, now=now)
                try:
                    await self.state.update(key, msgspec.json.encode(after), last=revision)
                except nats.js.errors.KeyWrongLastSequenceError:
                    continue
                if granted < count:
                    await self.herald.budget_used_up(
                        name, budget, until=budget.ends(now), hops=planned.event.hops
                    )
                return granted
        except (nats.errors.Error, TimeoutError) as error:
            raise BrokerError(f"the budget of {name} cannot be read: {error or 'no answer'}") from error
        raise BrokerError(f"the budget of {name} cannot be written: too many replicas ask at once")

    async def _read(self, key: str) -> tuple[int, Spent]:
        try:
            entry = await self.state.get(key)
        except nats.js.errors.KeyNotFoundError:
            return 0, Spent()
        try:
            return entry.revision or 0, msgspec.json.decode(entry.value or b"", type=Spent)
        except msgspec.MsgspecError:
            return entry.revision or 0, Spent()
