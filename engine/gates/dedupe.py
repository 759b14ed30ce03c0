"""Of events that are alike, only the first in each window passes."""

from __future__ import annotations

import msgspec

from ..limits import Dedupe
from ..model import Event
from .cells import Change, Row, cell_of, event_id


class _Seen(msgspec.Struct, frozen=True):
    by: str = ""  # the event that passed
    until: int = 0  # microseconds since the epoch


_seen = msgspec.json.Decoder(_Seen)


def pass_dedupe(rule: str, dedupe: Dedupe, event: Event, now: int) -> Row[bool]:
    """Whether ``event`` passes; one that comes again passes again."""

    def step(value: bytes) -> tuple[bytes | None, bool]:
        seen = _seen.decode(value) if value else _Seen()
        if now < seen.until:
            return None, seen.by == event_id(event)
        after = _Seen(by=event_id(event), until=now + int(dedupe.window * 1e6))
        return msgspec.json.encode(after), True

    passed: bool = yield Change(cell_of("dedupe", rule, dedupe.key, event), step, dedupe.window)
    return passed
