"""The state of limits between events: small values that all replicas share.

A limit names the value and computes its change. The caller carries the change out, on the broker or in
memory, and passes the result back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

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


@dataclass(frozen=True, slots=True)
class PendingSteps(Generic[T]):
    """Steps that have asked for an update and wait for its result."""

    steps: StateSteps[T]
    update: StateUpdate


def advance(steps: StateSteps[T], result: Any = None) -> T | PendingSteps[T]:
    """Run ``steps`` up to the next update that they ask for, or to their end.

    ``result`` is that of the update before; None for steps that have not begun.
    """
    try:
        return PendingSteps(steps, steps.send(result))
    except StopIteration as end:
        returned: T = end.value
        return returned


def run_steps(steps: StateSteps[T], apply: Callable[[StateUpdate], Any]) -> T:
    """Return the value of ``steps``, with each update carried out by ``apply``, which returns its result."""
    current = advance(steps)
    while isinstance(current, PendingSteps):
        current = advance(current.steps, apply(current.update))
    return current


def run_in_memory(steps: StateSteps[T], values: MutableMapping[str, bytes]) -> T:
    """Return the value of ``steps``, with each update carried out on ``values``."""

    def apply(update: StateUpdate) -> Any:
        value, result = update.fn(values.get(update.key, b""))
        if value is not None:
            values[update.key] = value
        return result

    return run_steps(steps, apply)


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
