"""Limits that count: dedupe, throttle and budget.

Dedupe passes the first of similar events in each window. A throttle passes a number of events in any
stretch of time, and drops or digests the others. A budget counts the messages of one rule, and of all rules
together. The messages of a rule for one event are sent all or none; without budget they wait for a digest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from ...model.messages import Event
from ...rules.rulebook import Budget, BudgetExhausted, Dedupe, Throttle
from ..draft import Notification
from .digest import SLACK, Buffered, DigestState, append
from .state import (
    REDELIVERY_WINDOW,
    StateSteps,
    T,
    event_fingerprint,
    stable_hash,
    state_key,
    state_prefix,
    update_state,
)

_MAX_EARLIER_IDS = 20  # of events that passed before, to recognise a redelivered one


@dataclass(frozen=True, slots=True, kw_only=True)
class Withheld:
    """An event for which a rule sends no message now."""

    reason: str
    buffered: Buffered | None = None  # None: it is dropped


class _DedupeState(msgspec.Struct, frozen=True):
    by: str = ""  # the event that passed
    until: int = 0  # microseconds since the epoch
    before: tuple[str, ...] = ()  # events that passed in earlier windows


def apply_dedupe(rule: str, dedupe: Dedupe, event: Event, now: int) -> StateSteps[bool]:
    """Return whether ``event`` passes. A redelivered event passes again, even after its window."""

    def change(state: _DedupeState) -> tuple[_DedupeState | None, bool]:
        id_ = event_fingerprint(event)
        if id_ in state.before:
            return None, True
        if now < state.until:
            return None, id_ == state.by
        before = state.before if state.by in ("", id_) else (*state.before, state.by)[-_MAX_EARLIER_IDS:]
        return _DedupeState(id_, now + int(dedupe.window * 1e6), before), True

    key, ttl = state_key("dedupe", rule, dedupe.key, event), dedupe.window + REDELIVERY_WINDOW
    return update_state(key, _DedupeState, change, ttl)


def apply_throttle(
    rule: str, throttle: Throttle, event: Event, now: int, *, ttl: float
) -> StateSteps[Withheld | None]:
    """Return None if ``event`` passes. A redelivered event gets the same result, and counts from ``now``.

    Buffered events are kept for ``ttl`` seconds.
    """
    digest, key = throttle.digest, state_key("throttle", rule, throttle.key, event)

    def change(state: DigestState) -> tuple[DigestState | None, Withheld | None]:
        id_, buffer = event_fingerprint(event), state.buffer
        recent, present, until = state.throttle_window(throttle, now)
        others = tuple(each for each in recent if each[0] != id_)
        has_passed = len(others) < len(recent)
        if has_passed or (buffer.is_empty and until <= present and not buffer.find_digest(id_)):
            return DigestState((*others, (id_, present)), buffer), None
        if digest is None:
            return None, Withheld(reason="throttle")
        after, buffered = append(key, buffer, event, digest, due=until)
        changed = None if after is buffer else DigestState(recent, after)
        return changed, Withheld(reason="throttle", buffered=buffered)

    return update_state(key, DigestState, change, ttl if digest else throttle.per + SLACK)


class _BudgetState(msgspec.Struct, frozen=True):
    since: int = 0  # when the window began, microseconds since the epoch
    messages: int = 0


def consume_budget(
    budgets: Mapping[str, Budget], messages: int, now: int
) -> StateSteps[BudgetExhausted | None]:
    """Charge ``messages`` to every budget. If one is exhausted, charge none, and return which one it is."""
    charged: dict[str, int] = {}  # the start of the window, by name
    for name, budget in budgets.items() if messages else ():
        since = yield from _charge(name, budget, messages, now)
        if since is None:
            for earlier, window in charged.items():
                yield from _refund(earlier, budgets[earlier], messages, window)
            return BudgetExhausted(name=name, budget=budget, until=budget.ends(now))
        charged[name] = since
    return None


def _charge(name: str, budget: Budget, messages: int, now: int) -> StateSteps[int | None]:
    """Charge ``messages`` to the current window and return its start; None if too few are left."""

    def change(state: _BudgetState) -> tuple[_BudgetState | None, int | None]:
        # The window never moves back, even if the clock of this replica is behind: the count would be lost.
        since = max(state.since, budget.begins(now))
        used = state.messages if state.since == since else 0
        # An unused budget takes any number: more messages than a whole budget would otherwise never be sent.
        if used and used + messages > budget.limit:
            return None, None
        return _BudgetState(since, used + messages), since

    return _update_budget(name, budget, change)


def _refund(name: str, budget: Budget, messages: int, since: int) -> StateSteps[None]:
    """Take back a charge, unless its window is over."""

    def change(state: _BudgetState) -> tuple[_BudgetState | None, None]:
        left = max(0, state.messages - messages)
        return None if state.since != since else _BudgetState(since, left), None

    return _update_budget(name, budget, change)


def _update_budget(
    name: str, budget: Budget, change: Callable[[_BudgetState], tuple[_BudgetState | None, T]]
) -> StateSteps[T]:
    return update_state(f"spent.{stable_hash(name)}", _BudgetState, change, budget.per + SLACK)


def budget_buffer_key(rule: str, event: Event, notifications: Sequence[Notification]) -> str:
    """Return the key under which events for the same recipients wait.

    ``notifications`` are those before time windows apply: the key must be the same at any hour.
    """
    recipients = sorted({each.to or (each.channel.name,) for each in notifications})
    return state_prefix("budget", rule) + stable_hash(event.kind, *map(repr, recipients))
