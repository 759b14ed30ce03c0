"""What is left to ask of a rule, made quick for what payloads mostly are.

A test made here answers by itself where mappings lead to a scalar, and leaves lists, missing keys
and all else to the condition's own test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..conditions import Combination, Condition
from .demands import Test

_SCALARS = frozenset((str, int, float, bool))


def quick(part: Condition | Combination) -> Test:
    """The test of ``part``, with a short way for scalars."""
    if isinstance(part, Combination) or part.question is None:
        return part.test
    strings = _strings(part.operators)
    if len(part.path) == 1:
        return _one_step(part, strings)
    return _two_steps(part, strings) if len(part.path) == 2 else part.test


def _strings(operators: Mapping[str, Any]) -> frozenset[str] | None:
    """The strings that fit where that is all that is asked."""
    if len(operators) != 1:
        return None
    ((name, argument),) = operators.items()
    given = argument if name == "any_of" else [argument] if name == "equals" else None
    if not isinstance(given, list) or any(isinstance(each, Mapping) for each in given):
        return None
    return frozenset(each for each in given if isinstance(each, str))


def _one_step(condition: Condition, strings: frozenset[str] | None) -> Test:
    (name,), whole = condition.path, condition.test
    assert condition.question is not None  # noqa: S101 -- asked by the caller
    one = condition.question.one

    def among(payload: Mapping[str, Any]) -> bool:
        value = payload.get(name)
        return value in strings if value.__class__ is str else whole(payload)  # type: ignore[operator]

    def test(payload: Mapping[str, Any]) -> bool:
        value = payload.get(name)
        return one(value) if value.__class__ in _SCALARS else whole(payload)

    return test if strings is None else among


def _two_steps(condition: Condition, strings: frozenset[str] | None) -> Test:
    (outer, name), whole = condition.path, condition.test
    assert condition.question is not None  # noqa: S101 -- asked by the caller
    one = condition.question.one

    def among(payload: Mapping[str, Any]) -> bool:
        inner = payload.get(outer)
        if inner.__class__ is dict:
            value = inner.get(name)
            if value.__class__ is str:
                return value in strings  # type: ignore[operator]
        return whole(payload)

    def test(payload: Mapping[str, Any]) -> bool:
        inner = payload.get(outer)
        if inner.__class__ is dict:
            value = inner.get(name)
            if value.__class__ in _SCALARS:
                return one(value)
        return whole(payload)

    return test if strings is None else among


class Residues:
    """Several tests as one, the same one wherever the same are left."""

    def __init__(self) -> None:
        self._known: dict[tuple[Test, ...], Test] = {}

    def of(self, tests: tuple[Test, ...]) -> Test | None:
        if len(tests) < 2:
            return tests[0] if tests else None
        known = self._known.get(tests)
        if known is None:
            known = self._known[tests] = _all_of(tests)
        return known


def _all_of(tests: tuple[Test, ...]) -> Test:
    if len(tests) == 2:
        first, second = tests
        return lambda payload: first(payload) and second(payload)

    def test(payload: Mapping[str, Any]) -> bool:
        for each in tests:  # noqa: SIM110 - half the time of all() over a generator
            if not each(payload):
                return False
        return True

    return test
