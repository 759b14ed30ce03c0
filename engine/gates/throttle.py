"""So many events that are alike in each stretch of time; the others not at all, or together, later."""

from __future__ import annotations

from dataclasses import dataclass

from ..limits import Throttle
from ..model import Event
from .cells import StateSteps, StateUpdate, event_fingerprint, state_key
from .digest import SLACK, DigestState
from .pool import Buffered, append


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
