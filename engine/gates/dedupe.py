"""Of events that are alike, only the first in each window passes."""

from __future__ import annotations

import msgspec

from ..limits import Dedupe
from ..model import Event
from .cells import REDELIVERY_WINDOW, StateSteps, StateUpdate, event_fingerprint, state_key

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
