"""What gates remember between events: small values that all replicas share.

A gate says which value it wants changed, and how; whoever asks it carries the change out, on the broker
or in memory, and hands back what came of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..model import Event
from ..paths import Path, resolve

COMES_AGAIN = 600.0  # seconds within which an event comes again whose plan was not written down

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change:
    """A value to be replaced by what ``step`` makes of it, all or nothing."""

    key: str
    step: Callable[[bytes], tuple[bytes | None, Any]]  # b"" where there is none; None: stays as it is
    keep: float  # seconds after which the value means nothing any more


Row = Generator[Change, Any, T]


def drive(row: Row[T], carry_out: Callable[[Change], Any]) -> T:
    """What ``row`` returns where ``carry_out`` does what it asks for and says what came of it."""
    answer = None
    while True:
        try:
            change = row.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result
        answer = carry_out(change)


def in_memory(row: Row[T], cells: MutableMapping[str, bytes]) -> T:
    """Carry out what ``row`` asks for on ``cells``."""

    def carry_out(change: Change) -> Any:
        value, answer = change.step(cells.get(change.key, b""))
        if value is not None:
            cells[change.key] = value
        return answer

    return drive(row, carry_out)


def cell_of(gate: str, rule: str, key: Iterable[Path], event: Event) -> str:
    """The name of the value that ``gate`` of ``rule`` keeps for events like this one.

    Kinds are kept apart: what an audit says never gets into a notice.
    """
    found = [repr(resolve(event.payload, path)) for path in key]
    return pool_prefix(gate, rule) + digest_of(event.kind, *found)


def pool_prefix(gate: str, rule: str) -> str:
    """What the names of all values begin with that ``gate`` of ``rule`` keeps."""
    return f"{gate}.{digest_of(rule)}."


def event_id(event: Event) -> str:
    """Tells an event from all others, and not from itself when it comes again."""
    return digest_of(event.kind, event.key, event.reqid)


def digest_of(*parts: str) -> str:
    """24 hex digits."""
    text = b"".join(b"%d:%s" % (len(part), part.encode()) for part in map(str, parts))
    return hashlib.sha256(text).hexdigest()[:24]
