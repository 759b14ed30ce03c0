"""Notices that MSS itself publishes for operators: at most one an hour for each cause.

They are notices like any other, ``notice.mss.<name>``. Each carries a hop count, so notices about MSS's own
deliveries come to an end.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from msc import wire

from ..broker import Broker, OutgoingMessage
from ..broker.codec import encode
from ..model.errors import BrokerError
from ..model.messages import HOPS, Delivery
from ..model.subjects import token
from ..rules.rulebook import GLOBAL_BUDGET, BudgetExhausted

log = logging.getLogger(__name__)

_QUIET = 3600.0  # seconds in which the same is not announced again


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorNotifier:
    """Announces what operators should know."""

    broker: Broker
    clock: Callable[[], int]  # microseconds since the epoch
    is_enabled: Callable[[], bool] = lambda: True  # whether MSS takes notices itself

    async def notify_dead_letter(self, delivery: Delivery, reason: str, detail: str) -> None:
        """A delivery was given up; ``detail`` shows no secret."""
        payload = {
            "channel": delivery.channel,
            "reason": reason,
            "detail": detail,
            "rule": delivery.rule,
            "event": f"{delivery.kind}.{delivery.key}",
            "reqid": delivery.reqid,
        }
        await self._announce("dead", (delivery.channel, reason), payload, hops=delivery.hops)

    async def notify_budget_exhausted(self, used_up: BudgetExhausted, *, hops: int) -> None:
        """A budget is used up: what comes until then waits, or is not sent."""
        name, budget = used_up.name, used_up.budget
        payload = {
            "rule": "" if name == GLOBAL_BUDGET else name,
            "limit": budget.limit,
            "per": budget.per,
            "until": used_up.until,
        }
        whose = "the policy" if name == GLOBAL_BUDGET else f"rule {name}"
        await self._announce("budget", (name,), payload, hops=hops, says=f"the budget of {whose} is used up")

    async def _announce(
        self, what: str, about: tuple[str, ...], payload: Mapping[str, Any], *, hops: int, says: str = ""
    ) -> None:
        """Never raises: an announcement that fails must not keep a delivery from its end.

        The log says what ``says`` does, as often as it is announced.
        """
        if hops or not self.is_enabled():
            return  # what MSS says about its own announcements would never come to rest
        now = self.clock()
        window = int(now // (_QUIET * 1e6))
        cause = ".".join(token(each) for each in (what, *about))
        try:
            if not await self._is_first(f"notice.{cause}", window):
                return
            if says:
                log.warning("%s", says)
            reqid = hashlib.sha256(f"{cause}.{window}".encode()).hexdigest()[:32]
            await self.broker.publisher.store(
                OutgoingMessage(
                    subject=f"{self.broker.topology.prefix}.notice.mss.{what}",
                    payload=wire.seal(encode(payload), time=now, reqid=reqid),
                    id=reqid,
                    headers={HOPS: "1"},
                )
            )
        except BrokerError as error:
            log.warning("notice.mss.%s could not be announced: %s", what, error)

    async def _is_first(self, key: str, window: int) -> bool:
        """Whether no replica has announced it in this window."""
        present = str(window).encode()
        return await self.broker.state.update(
            key, lambda value: (None, False) if value == present else (present, True), ttl=2 * _QUIET
        )
