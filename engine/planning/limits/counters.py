"""Limits that count: dedupe, throttle and budget.

Dedupe lets the first of similar events in each window pass. A throttle lets so many pass, and drops or
digests the others. A budget counts the messages of one rule and of all rules together; an event's messages
of one rule are sent all or none, and those without a budget wait for a digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from ...model.messages import Event
from ...rules.rulebook import Budget, BudgetExhausted, Dedupe, Limits, Throttle
from ..draft import Notification
from .digest import SLACK, Buffered, DigestState, append, buffer_event, ttl_of
from .state import (
    REDELIVERY_WINDOW,
    StateSteps,
    StateUpdate,
    event_fingerprint,
    stable_hash,
    state_key,
    state_prefix,
)

_MAX_EARLIER_IDS = 20  # that are remembered, to know an event that comes again


class _Seen(msgspec.Struct, frozen=True):
    by: str = ""  # the event that passed
    until: int = 0  # microseconds since the epoch
    before: tuple[str, ...] = ()  # those that passed in earlier windows


_seen = msgspec.json.Decoder(_Seen)


def apply_dedupe(rule: str, dedupe: Dedupe, event: Event, now: int) -> StateSteps[bool]:
    """Whether ``event`` passes; one that comes again passes again, also when its window is over."""

    def step(value: bytes) -> tuple[bytes | None, bool]:
        seen, id_ = _seen.decode(value) if value else _Seen(), event_fingerprint(event)
        if id_ in seen.before:
            return None, True
        if now < seen.until:
            return None, id_ == seen.by
        before = seen.before if seen.by in ("", id_) else (*seen.before, seen.by)[-_MAX_EARLIER_IDS:]
        return msgspec.json.encode(_Seen(id_, now + int(dedupe.window * 1e6), before)), True

    passed: bool = yield StateUpdate(
        state_key("dedupe", rule, dedupe.key, event), step, dedupe.window + REDELIVERY_WINDOW
    )
    return passed


@dataclass(frozen=True, slots=True, kw_only=True)
class OverLimit:
    """That an event is over the limit, and is not told of."""

    until: int  # microseconds since the epoch; from then on others pass


def apply_throttle(
    rule: str, throttle: Throttle, event: Event, now: int, *, keep: float
) -> StateSteps[Buffered | OverLimit | None]:
    """None where ``event`` passes; one that comes again meets the same answer, and counts from now on.

    ``keep`` is for how many seconds what is gathered may have to lie there.
    """
    per, digest = int(throttle.per * 1e6), throttle.digest
    key = state_key("throttle", rule, throttle.key, event)

    def step(value: bytes) -> tuple[bytes | None, Buffered | OverLimit | None]:
        state, id_ = DigestState.decode(value), event_fingerprint(event)
        present = state.monotonic_now(now)
        recent = tuple(each for each in state.passed if each[1] > present - per)
        if any(id_ == known for known, _ in recent):
            others = (each for each in recent if each[0] != id_)
            return DigestState((*others, (id_, present)), state.pool).encode(), None
        if state.pool.is_empty and len(recent) < throttle.limit and not state.pool.has_seen(id_):
            return DigestState((*recent, (id_, present)), state.pool).encode(), None
        until = recent[-throttle.limit][1] + per if len(recent) >= throttle.limit else present
        if digest is None:
            return None, OverLimit(until=until)
        pool, joined = append(key, state.pool, event, digest, due=until)
        changed = None if pool is state.pool else DigestState(recent, pool).encode()
        return changed, joined

    answer: Buffered | OverLimit | None = yield StateUpdate(
        key, step, keep if digest else throttle.per + SLACK
    )
    return answer


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
