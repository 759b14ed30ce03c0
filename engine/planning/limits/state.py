"""The state of limits between events: small values that all replicas share.

A limit names a value and computes its update. The caller applies the update, on the broker or in memory,
and passes the result back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, MutableMapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

import msgspec

from ...model.messages import Event
from ...rules.paths import FieldPath, resolve

REDELIVERY_WINDOW = 600.0  # seconds within which the broker redelivers an event whose plan was not stored

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class StateUpdate:
    """An atomic replacement of one value by the result of ``fn``."""

    key: str
    fn: Callable[[bytes], tuple[bytes | None, Any]]  # gets b"" without a value; None leaves it unchanged
    ttl: float  # seconds after which the value may be forgotten


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


def update_state(
    key: str, type_: type[S], change: Callable[[S], tuple[S | None, T]], ttl: float
) -> StateSteps[T]:
    """Update the ``type_`` under ``key`` by ``change``, and return the second value of ``change``.

    ``change`` gets an empty ``type_`` if nothing is stored. It returns None to leave the value unchanged.
    """

    def fn(value: bytes) -> tuple[bytes | None, T]:
        changed, result = change(_decoder(type_).decode(value) if value else type_())
        return None if changed is None else msgspec.json.encode(changed), result

    returned: T = yield StateUpdate(key, fn, ttl)
    return returned


@cache
def _decoder(type_: type[S]) -> msgspec.json.Decoder[S]:
    return msgspec.json.Decoder(type_)


def state_key(limit: str, rule: str, key: Iterable[FieldPath], event: Event) -> str:
    """Return the key of the state that ``limit`` of ``rule`` keeps for events like this one.

    Each kind of event has its own state, so no notice can contain data of an audit.
    """
    found = [repr(resolve(event.payload, path)) for path in key]
    return state_prefix(limit, rule) + stable_hash(event.kind, *found)


def state_prefix(limit: str, rule: str) -> str:
    """Return the prefix of all state keys of ``limit`` of ``rule``."""
    return f"{limit}.{stable_hash(rule)}."


def event_fingerprint(event: Event) -> str:
    """Return an id of ``event`` that stays the same when the event is redelivered."""
    return stable_hash(event.kind, event.key, event.reqid)


def stable_hash(*parts: str) -> str:
    """Return 24 hex digits that depend on nothing but ``parts``."""
    text = b"".join(b"%d:%s" % (len(part), part.encode()) for part in map(str, parts))
    return hashlib.sha256(text).hexdigest()[:24]
