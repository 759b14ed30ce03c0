"""The state of limits between events: small values that all replicas share.

A limit names the value and computes its change. The caller carries the change out, on the broker or in
memory, and passes the result back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ...model.messages import Event
from ...rules.paths import FieldPath, resolve

REDELIVERY_WINDOW = 600.0  # seconds within which an event comes again whose plan was not written down

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StateUpdate:
    """A value to be replaced by what ``step`` makes of it, all or nothing."""

    key: str
    fn: Callable[[bytes], tuple[bytes | None, Any]]  # b"" where there is none; None: stays as it is
    ttl: float  # seconds after which the value means nothing any more


StateSteps = Generator[StateUpdate, Any, T]


def run_steps(row: StateSteps[T], carry_out: Callable[[StateUpdate], Any]) -> T:
    """What ``row`` returns where ``run`` does what it asks for and says what came of it."""
    answer = None
    while True:
        try:
            change = row.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result
        answer = carry_out(change)


def run_in_memory(row: StateSteps[T], cells: MutableMapping[str, bytes]) -> T:
    """Carry out what ``row`` asks for on ``cells``."""

    def carry_out(change: StateUpdate) -> Any:
        value, answer = change.fn(cells.get(change.key, b""))
        if value is not None:
            cells[change.key] = value
        return answer

    return run_steps(row, carry_out)


def state_key(gate: str, rule: str, key: Iterable[FieldPath], event: Event) -> str:
    """The name of the value that ``gate`` of ``rule`` keeps for events like this one.

    Kinds are kept apart: what an audit says never gets into a notice.
    """
    found = [repr(resolve(event.payload, path)) for path in key]
    return state_prefix(gate, rule) + stable_hash(event.kind, *found)


def state_prefix(gate: str, rule: str) -> str:
    """What the names of all values begin with that ``gate`` of ``rule`` keeps."""
    return f"{gate}.{stable_hash(rule)}."


def event_fingerprint(event: Event) -> str:
    """Tells an event from all others, and not from itself when it comes again."""
    return stable_hash(event.kind, event.key, event.reqid)


def stable_hash(*parts: str) -> str:
    """24 hex digits."""
    text = b"".join(b"%d:%s" % (len(part), part.encode()) for part in map(str, parts))
    return hashlib.sha256(text).hexdigest()[:24]
