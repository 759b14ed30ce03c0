"""Notices that MSS itself publishes for operators: at most one an hour for each cause.

They are notices like any other, ``notice.mss.<name>``. Each carries a hop count, so notices about MSS's own
deliveries come to an end.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
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

_QUIET = 3600.0  # seconds without another notice for the same cause


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorNotifier:
    """Publishes notices for operators."""

    broker: Broker
    clock: Callable[[], int]  # microseconds since the epoch
    is_enabled: Callable[[], bool] = lambda: True  # whether MSS consumes notices

    async def notify_dead_letter(self, delivery: Delivery, reason: str, detail: str) -> None:
        """Publish a notice about a dead letter; ``detail`` must not contain secrets."""
        payload = {
            "channel": delivery.channel,
            "reason": reason,
            "detail": detail,
            "rule": delivery.rule,
            "event": f"{delivery.kind}.{delivery.key}",
            "reqid": delivery.reqid,
        }
        await self._publish("dead", (delivery.channel, reason), payload, hops=delivery.hops)

    async def notify_budgets_exhausted(self, exhausted: Iterable[BudgetExhausted], *, hops: int) -> None:
        """Publish a notice for each budget that is exhausted, and log it as often."""
        for each in exhausted:
            name, budget = each.name, each.budget
            payload = {
                "rule": "" if name == GLOBAL_BUDGET else name,
                "limit": budget.limit,
                "per": budget.per,
                "until": each.until,
            }
            whose = "the policy" if name == GLOBAL_BUDGET else f"rule {name}"
            log_text = f"the budget of {whose} is exhausted"
            await self._publish("budget", (name,), payload, hops=hops, log_text=log_text)

    async def _publish(
        self, what: str, about: tuple[str, ...], payload: Mapping[str, Any], *, hops: int, log_text: str = ""
    ) -> None:
        """Publish a notice unless the same cause had one within the hour.

        Never raises: a notice that fails must not stop a delivery. ``log_text`` is logged with the notice.
        """
        if hops or not self.is_enabled():
            return  # a notice about a notice of MSS could cause the next one, without end
        now = self.clock()
        window = int(now // (_QUIET * 1e6))
        cause = ".".join(token(each) for each in (what, *about))
        try:
            if not await self._is_first(f"notice.{cause}", window):
                return
            if log_text:
                log.warning("%s", log_text)
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
            log.warning("notice.mss.%s was not published: %s", what, error)

    async def _is_first(self, key: str, window: int) -> bool:
        """Return whether no replica has published the same notice in this window."""
        present = str(window).encode()
        return await self.broker.state.update(
            key, lambda value: (None, False) if value == present else (present, True), ttl=2 * _QUIET
        )
