"""Of events that are alike, only the first in each window passes."""

from __future__ import annotations

import msgspec

from ..limits import Dedupe
from ..model import Event
from .cells import COMES_AGAIN, Change, Row, cell_of, event_id

_MOST_BEFORE = 20  # that are remembered, to know an event that comes again


class _Seen(msgspec.Struct, frozen=True):
    by: str = ""  # the event that passed
    until: int = 0  # microseconds since the epoch
    before: tuple[str, ...] = ()  # those that passed in earlier windows


_seen = msgspec.json.Decoder(_Seen)


def pass_dedupe(rule: str, dedupe: Dedupe, event: Event, now: int) -> Row[bool]:
    """Whether ``event`` passes; one that comes again passes again, also when its window is over."""

    def step(value: bytes) -> tuple[bytes | None, bool]:
        seen, id_ = _seen.decode(value) if value else _Seen(), event_id(event)
        if id_ in seen.before:
            return None, True
        if now < seen.until:
            return None, id_ == seen.by
        before = seen.before if seen.by in ("", id_) else (*seen.before, seen.by)[-_MOST_BEFORE:]
        return msgspec.json.encode(_Seen(id_, now + int(dedupe.window * 1e6), before)), True

    passed: bool = yield Change(cell_of("dedupe", rule, dedupe.key, event), step, dedupe.window + COMES_AGAIN)
    return passed
