"""So many events that are alike in each stretch of time; the others not at all, or together, later."""

from __future__ import annotations

from dataclasses import dataclass

from ..limits import Throttle
from ..model import Event
from .cells import Change, Row, cell_of, event_id
from .digest import SLACK, State
from .pool import Joined, join


@dataclass(frozen=True, slots=True, kw_only=True)
class Beyond:
    """That an event is over the limit, and is not told of."""

    until: int  # microseconds since the epoch; from then on others pass


def pass_throttle(
    rule: str, throttle: Throttle, event: Event, now: int, *, keep: float
) -> Row[Joined | Beyond | None]:
    """None where ``event`` passes; one that comes again meets the same answer, and counts from now on.

    ``keep`` is for how many seconds what is gathered may have to lie there.
    """
    per, digest = int(throttle.per * 1e6), throttle.digest
    key = cell_of("throttle", rule, throttle.key, event)

    def step(value: bytes) -> tuple[bytes | None, Joined | Beyond | None]:
        state, id_ = State.read(value), event_id(event)
        present = state.present(now)
        recent = tuple(each for each in state.passed if each[1] > present - per)
        if any(id_ == known for known, _ in recent):
            others = (each for each in recent if each[0] != id_)
            return State((*others, (id_, present)), state.pool).written(), None
        if state.pool.is_empty and len(recent) < throttle.limit and not state.pool.has(id_):
            return State((*recent, (id_, present)), state.pool).written(), None
        until = recent[-throttle.limit][1] + per if len(recent) >= throttle.limit else present
        if digest is None:
            return None, Beyond(until=until)
        pool, joined = join(key, state.pool, event, digest, due=until)
        changed = None if pool is state.pool else State(recent, pool).written()
        return changed, joined

    answer: Joined | Beyond | None = yield Change(key, step, keep if digest else throttle.per + SLACK)
    return answer
