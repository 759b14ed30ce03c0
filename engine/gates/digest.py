"""Events that are alike wait, and are told of together; and when a digest is due, whatever it is of.

What is beyond a throttle or a budget waits in the same way, under the name of that gate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from ..limits import BudgetExhausted, Digest, Limits
from ..model import Event
from .cells import StateSteps, StateUpdate, event_fingerprint, state_key
from .pool import Batch, Buffered, DigestBuffer, append, confirm_flush, remove, seal

GATHERING = ("throttle", "digest", "budget")  # gates under whose names events are gathered
SLACK = 86_400.0  # seconds that a value is kept beyond its use: a broker may be away


class DigestState(msgspec.Struct, frozen=True):
    """What lies under the key of one of these gates."""

    passed: tuple[tuple[str, int], ...] = ()  # of a throttle: ids and times of what went through last
    pool: DigestBuffer = DigestBuffer()

    @classmethod
    def decode(cls, value: bytes) -> DigestState:
        return _states.decode(value) if value else cls()

    def monotonic_now(self, now: int) -> int:
        """The time that counts here: it never goes back, whoever is late or has a clock that is."""
        return max((now, *(at for _, at in self.passed)))

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


_states = msgspec.json.Decoder(DigestState)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotDueYet:
    """That a digest has to wait."""

    until: int  # microseconds since the epoch
    exhausted_budgets: tuple[BudgetExhausted, ...] = ()  # the budget that it waits for


def apply_digest(rule: str, digest: Digest, event: Event, now: int, *, keep: float) -> StateSteps[Buffered]:
    """Every event waits: for ``wait`` from the first, and for ``interval`` from the digest before."""

    def due(pool: DigestBuffer) -> int:
        return max(now + int(digest.wait * 1e6), pool.last + int(digest.interval * 1e6))

    return buffer_event(state_key("digest", rule, digest.key, event), digest, event, due, keep)


def buffer_event(
    key: str, digest: Digest, event: Event, due: Callable[[DigestBuffer], int], keep: float
) -> StateSteps[Buffered]:
    """``event`` waits under ``key``; ``due`` says until when, if it is the first."""

    def step(value: bytes) -> tuple[bytes | None, Buffered]:
        state = DigestState.decode(value)
        pool, joined = append(key, state.pool, event, digest, due=due(state.pool))
        return None if pool is state.pool else DigestState(state.passed, pool).encode(), joined

    joined: Buffered = yield StateUpdate(key, step, keep)
    return joined


def rejoin(key: str, limits: Limits, event: Event) -> StateSteps[Buffered | None]:
    """Where ``event`` waits under ``key``, or did so a while ago; None where it never did."""
    digest = digest_spec(limits, key)
    if digest is None:
        return None

    def step(value: bytes) -> tuple[bytes | None, Buffered | None]:
        pool = DigestState.decode(value).pool
        return None, append(key, pool, event, digest, due=0)[1] if pool.has_seen(
            event_fingerprint(event)
        ) else None

    joined: Buffered | None = yield StateUpdate(key, step, ttl_of(limits))
    return joined


def leave(key: str, limits: Limits, event: Event) -> StateSteps[int]:
    """``event`` waits under ``key`` no more. Says when the others there are due; 0 where there are none."""

    def step(value: bytes) -> tuple[bytes | None, int]:
        state = DigestState.decode(value)
        pool = remove(state.pool, event_fingerprint(event))
        return (None if pool is state.pool else DigestState(state.passed, pool).encode()), pool.next_due

    due: int = yield StateUpdate(key, step, ttl_of(limits))
    return due


def take_due(
    key: str, limits: Limits, now: int, *, early: bool = False
) -> StateSteps[Batch | NotDueYet | None]:
    """What is due under ``key``: None where there is nothing; ``early`` does not wait for its time.

    A digest of a throttle is one of those that may pass, and waits until one may.
    """
    throttle = limits.throttle if _limit_of(key) == "throttle" else None

    def step(value: bytes) -> tuple[bytes | None, Batch | NotDueYet | None]:
        state = DigestState.decode(value)
        pool, passed = state.pool, state.passed
        if pool.sealed is not None:
            return value, pool.sealed  # written again: it is kept for as long as it is asked for
        if pool.is_empty:
            return None, None
        if now < pool.due and not early:
            return None, NotDueYet(until=pool.due)
        if throttle is not None:
            per, present = int(throttle.per * 1e6), state.monotonic_now(now)
            passed = tuple(each for each in passed if each[1] > present - per)
            if len(passed) >= throttle.limit and not early:
                return None, NotDueYet(until=passed[-throttle.limit][1] + per)
            passed = (*passed, (f"digest {pool.number}", present))
        after = seal(pool, now)
        return DigestState(passed, after).encode(), after.sealed

    answer: Batch | NotDueYet | None = yield StateUpdate(key, step, ttl_of(limits))
    return answer


def confirm(key: str, limits: Limits, number: int) -> StateSteps[int]:
    """The digest of that number is stored: its batch may go.

    Says when what came meanwhile is due, in microseconds since the epoch; 0 where nothing did. Its own
    alarm may have found the batch in its way, and be gone.
    """

    def step(value: bytes) -> tuple[bytes | None, int]:
        state = DigestState.decode(value)
        pool = confirm_flush(state.pool, number)
        return (None if pool is state.pool else DigestState(state.passed, pool).encode()), pool.next_due

    due: int = yield StateUpdate(key, step, ttl_of(limits))
    return due


def digest_spec(limits: Limits, key: str) -> Digest | None:
    """The digest whose events lie under ``key``; None where the rule has none any more."""
    match _limit_of(key):
        case "throttle":
            return limits.throttle.digest if limits.throttle else None
        case "budget":
            return next(filter(None, (budget.digest for budget in limits.budgets.values())), None)
        case _:
            return limits.digest


def _limit_of(key: str) -> str:
    """The gate that gathers what lies under ``key``."""
    return key.partition(".")[0]


def ttl_of(limits: Limits) -> float:
    """Seconds after which what was gathered means nothing: a digest may have to wait for a budget too."""
    return limits.longest_wait + SLACK
