"""So many events that are alike in each stretch of time, and the others together, later.

Throttle and digest are the same value: a throttle that lets nothing through at once is a digest.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from ..limits import Digest, Limits, Throttle
from ..model import Event
from .cells import Change, Row, cell_of, event_id
from .pool import Batch, Joined, Pool, join, seal, told


class _State(msgspec.Struct, frozen=True):
    passed: tuple[tuple[str, int], ...] = ()  # ids and times of what went through in the last stretch
    pool: Pool = Pool()


_states = msgspec.json.Decoder(_State)
GATHERING = ("throttle", "digest")  # gates under whose names events are gathered
_SLACK = 86_400.0  # seconds that a value is kept beyond its use: a broker may be away


@dataclass(frozen=True, slots=True, kw_only=True)
class Beyond:
    """That an event is over the limit, and is not told of."""

    until: int  # microseconds since the epoch; from then on others pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Postponed:
    """That a digest has to wait."""

    until: int  # microseconds since the epoch


def pass_throttle(rule: str, throttle: Throttle, event: Event, now: int) -> Row[Joined | Beyond | None]:
    """None where ``event`` passes; one that comes again meets the same answer."""
    per, digest = int(throttle.per * 1e6), throttle.digest
    key = cell_of("throttle", rule, throttle.key, event)

    def step(value: bytes) -> tuple[bytes | None, Joined | Beyond | None]:
        state, id_ = _state(value), event_id(event)
        recent = tuple(each for each in state.passed if each[1] > now - per)
        if any(id_ == known for known, _ in recent):
            return None, None
        if state.pool.is_empty and len(recent) < throttle.limit and not state.pool.has(id_):
            return msgspec.json.encode(_State((*recent, (id_, now)), state.pool)), None
        until = recent[-throttle.limit][1] + per if len(recent) >= throttle.limit else now
        if digest is None:
            return None, Beyond(until=until)
        pool, joined = join(key, state.pool, event, digest, due=until)
        changed = None if pool is state.pool else msgspec.json.encode(_State(recent, pool))
        return changed, joined

    answer: Joined | Beyond | None = yield Change(key, step, throttle.per + _SLACK)
    return answer


def pass_digest(rule: str, digest: Digest, event: Event, now: int) -> Row[Joined]:
    """Every event waits: for ``wait`` from the first, and for ``interval`` from the digest before."""
    key = cell_of("digest", rule, digest.key, event)

    def step(value: bytes) -> tuple[bytes | None, Joined]:
        state = _state(value)
        due = max(now + int(digest.wait * 1e6), state.pool.last + int(digest.interval * 1e6))
        pool, joined = join(key, state.pool, event, digest, due=due)
        return None if pool is state.pool else msgspec.json.encode(_State((), pool)), joined

    joined: Joined = yield Change(key, step, max(digest.wait, digest.interval) + _SLACK)
    return joined


def take_batch(key: str, limits: Limits, now: int, *, early: bool = False) -> Row[Batch | Postponed | None]:
    """What is due under ``key``: None where there is nothing; ``early`` does not wait for its time.

    A digest of a throttle is one of those that may pass, and waits until one may.
    """
    throttle = limits.throttle if is_throttles(key) else None

    def step(value: bytes) -> tuple[bytes | None, Batch | Postponed | None]:
        state = _state(value)
        pool, passed = state.pool, state.passed
        if pool.sealed is not None:
            return None, pool.sealed
        if pool.is_empty:
            return None, None
        if now < pool.due and not early:
            return None, Postponed(until=pool.due)
        if throttle is not None:
            per = int(throttle.per * 1e6)
            passed = tuple(each for each in passed if each[1] > now - per)
            if len(passed) >= throttle.limit and not early:
                return None, Postponed(until=passed[-throttle.limit][1] + per)
            passed = (*passed, (f"digest {pool.number}", now))
        after = seal(pool, now)
        return msgspec.json.encode(_State(passed, after)), after.sealed

    answer: Batch | Postponed | None = yield Change(key, step, _keep(key, limits))
    return answer


def settle_batch(key: str, limits: Limits, number: int) -> Row[None]:
    """The digest of that number is stored: its batch may go."""

    def step(value: bytes) -> tuple[bytes | None, None]:
        state = _state(value)
        pool = told(state.pool, number)
        return (None if pool is state.pool else msgspec.json.encode(_State(state.passed, pool))), None

    yield Change(key, step, _keep(key, limits))


def digest_at(limits: Limits, key: str) -> Digest | None:
    """The digest whose events lie under ``key``; None where the rule has none any more."""
    if is_throttles(key):
        return limits.throttle.digest if limits.throttle else None
    return limits.digest


def is_throttles(key: str) -> bool:
    """Whether what lies under ``key`` is beyond a throttle's limit."""
    return key.startswith("throttle.")


def _keep(key: str, limits: Limits) -> float:
    """Seconds after which what lies under ``key`` means nothing."""
    if is_throttles(key):
        return (limits.throttle.per if limits.throttle else 0.0) + _SLACK
    digest = limits.digest
    return (max(digest.wait, digest.interval) if digest else 0.0) + _SLACK


def _state(value: bytes) -> _State:
    return _states.decode(value) if value else _State()
