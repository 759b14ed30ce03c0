"""The operators that ask something of one value, each compiled once into a predicate.

To add one: a function that compiles it, a line in ``OPERATORS``, its schema, its case file.
Operators that contain conditions, or look at where a value is rather than at the value, are in
``condition_compiler``; the walk through lists is in ``paths``. A predicate sees one value that is
there, never raises, and does not hold for what it does not understand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeGuard

Predicate = Callable[[object], bool]
Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Operator:
    """One row of the table of operators."""

    name: str
    description: str  # completes "holds when the value ..."
    compile: Callable[[object], Predicate]  # ValueError, in words for operators, on a bad argument


def is_number(value: object) -> TypeGuard[int | float]:
    """A JSON number: an integer of any size or a finite float; a boolean is none."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def is_scalar(value: object) -> TypeGuard[Scalar]:
    """A value that can be compared for equality: string, number, boolean or null."""
    return value is None or isinstance(value, str | bool) or is_number(value)


def describe(value: object) -> str:
    """``value`` as a message names it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a very large number"  # Python refuses to print thousands of digits
    if isinstance(value, int | float):
        return f"the number {value}"
    name = {"dict": "mapping"}.get(type(value).__name__, type(value).__name__)
    return f"an empty {name}" if value in ([], {}) else f"a {name}"


def one_of(scalars: Iterable[Scalar]) -> Predicate:
    """Is one of ``scalars``, strictly: ``"70"`` is not ``70``, ``true`` is not ``1``, ``1`` is ``1.0``."""
    known = tuple(scalars)
    strings = frozenset(s for s in known if isinstance(s, str))
    booleans = frozenset(s for s in known if isinstance(s, bool))
    numbers = frozenset(s for s in known if is_number(s))
    null = None in known

    def holds(value: object) -> bool:
        if isinstance(value, str):
            return value in strings
        if isinstance(value, bool):  # before numbers: to Python True is 1
            return value in booleans
        if isinstance(value, int | float):
            return value in numbers
        return null and value is None

    return holds


def _equals(argument: object) -> Predicate:
    if not is_scalar(argument):
        hint = (
            "; for several values of which one must fit there is any_of" if isinstance(argument, list) else ""
        )
        raise ValueError(
            f"equals takes a string, a number, true, false or null, not {describe(argument)}{hint}"
        )
    return one_of((argument,))


def _bound(name: str, argument: object) -> int | float:
    if not is_number(argument):
        hint = ": without quotes it is one" if isinstance(argument, str) and _looks_numeric(argument) else ""
        raise ValueError(f"{name} takes a number, not {describe(argument)}{hint}")
    return argument


def _looks_numeric(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _gt(argument: object) -> Predicate:
    bound = _bound("gt", argument)
    return lambda value: is_number(value) and value > bound


def _gte(argument: object) -> Predicate:
    bound = _bound("gte", argument)
    return lambda value: is_number(value) and value >= bound


def _lt(argument: object) -> Predicate:
    bound = _bound("lt", argument)
    return lambda value: is_number(value) and value < bound


def _lte(argument: object) -> Predicate:
    bound = _bound("lte", argument)
    return lambda value: is_number(value) and value <= bound


def _strings(name: str, argument: object) -> tuple[str, ...]:
    """One string or several, as the string operators take them."""
    given = argument if isinstance(argument, list) else [argument]
    strings = tuple(item for item in given if isinstance(item, str))
    if not given:
        raise ValueError(f"{name} has an empty list and could never hold")
    if len(strings) < len(given):
        odd = next(item for item in given if not isinstance(item, str))
        raise ValueError(f"{name} takes a string or a list of strings, not {describe(odd)}")
    return strings


def _prefix(argument: object) -> Predicate:
    starts = _strings("prefix", argument)
    return lambda value: isinstance(value, str) and value.startswith(starts)


def _suffix(argument: object) -> Predicate:
    ends = _strings("suffix", argument)
    return lambda value: isinstance(value, str) and value.endswith(ends)


OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in (
        Operator("equals", "is this scalar", _equals),
        Operator("gt", "is a number greater than this", _gt),
        Operator("gte", "is a number greater than this, or this", _gte),
        Operator("lt", "is a number less than this", _lt),
        Operator("lte", "is a number less than this, or this", _lte),
        Operator("prefix", "is a string that starts with this, or with one of these", _prefix),
        Operator("suffix", "is a string that ends with this, or with one of these", _suffix),
    )
}
