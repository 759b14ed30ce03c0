"""The operators that test one value, each compiled once into a predicate.

CONTRIBUTING.md lists the steps to add an operator. Operators that contain conditions, or test whether a value
exists, are in ``condition_compiler``; ``conditions`` descends into lists. A predicate gets one value that
exists, never raises, and is false for a value of another type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

from .matchers import Network, parse_network, regex, wildcard, within

Predicate = Callable[[object], bool]
Compile = Callable[[object], Predicate]
Scalar = str | int | float | bool | None

IGNORE_CASE = "ignore_case"
NUMERIC = ("gt", "gte", "lt", "lte")


class ArgumentError(ValueError):
    """A bad argument of an operator, described for the author of the rule."""

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position  # of the bad element, if the argument is a list


@dataclass(frozen=True, slots=True)
class Operator:
    """One row of the table of operators."""

    name: str
    description: str  # completes "holds when the value ..."
    compile: Compile  # ArgumentError on a bad argument
    folded: Compile | None = None  # with ignore_case; None if it compares no strings
    tests_whole_value: bool = False  # tests a list itself, not its elements


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether ``value`` is a JSON number: an integer or a finite float, not a boolean."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def is_scalar(value: object) -> TypeGuard[Scalar]:
    """Return whether ``value`` can be compared for equality: string, number, boolean or null."""
    return value is None or isinstance(value, str | bool) or is_number(value)


def describe(value: object) -> str:
    """Return ``value`` in the form of error messages."""
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
    """Test for equality with one of ``scalars``; ``1`` equals ``1.0``, but neither ``"1"`` nor ``true``."""
    known = tuple(scalars)
    strings = frozenset(s for s in known if isinstance(s, str))
    if len(known) == len(strings) == 1:
        (only,) = strings
        return lambda value: value == only
    if len(known) == len(strings):
        return lambda value: isinstance(value, str) and value in strings
    booleans = frozenset(s for s in known if isinstance(s, bool))
    numbers = frozenset(s for s in known if is_number(s))
    null = frozenset(s for s in known if s is None)
    # By class because True == 1 in Python.
    by_class = {str: strings, bool: booleans, int: numbers, float: numbers, type(None): null}.get

    def holds(value: object) -> bool:
        fit = by_class(value.__class__)
        if fit is None:  # no class of JSON values
            return isinstance(value, str) and value in strings
        return value in fit

    return holds


def _equals(argument: object) -> Predicate:
    if not is_scalar(argument):
        hint = "; any_of takes several values" if isinstance(argument, list) else ""
        raise ArgumentError(
            f"equals takes a string, a number, true, false or null, not {describe(argument)}{hint}"
        )
    return one_of((argument,))


def _bound(name: str, argument: object) -> int | float:
    if not is_number(argument):
        hint = ": remove the quotes" if isinstance(argument, str) and _looks_numeric(argument) else ""
        raise ArgumentError(f"{name} takes a number, not {describe(argument)}{hint}")
    return argument


def _looks_numeric(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _gt(argument: object) -> Predicate:
    bound = _bound("gt", argument)
    return lambda value: (value.__class__ is int or is_number(value)) and value > bound


def _gte(argument: object) -> Predicate:
    bound = _bound("gte", argument)
    return lambda value: (value.__class__ is int or is_number(value)) and value >= bound


def _lt(argument: object) -> Predicate:
    bound = _bound("lt", argument)
    return lambda value: (value.__class__ is int or is_number(value)) and value < bound


def _lte(argument: object) -> Predicate:
    bound = _bound("lte", argument)
    return lambda value: (value.__class__ is int or is_number(value)) and value <= bound


def between(operators: Mapping[str, object]) -> Predicate | None:
    """Test a lower and an upper bound in one comparison; None if ``operators`` are anything else."""
    make = _BETWEEN.get(tuple(sorted(map(str, operators))))
    bounds = [operators[name] for name in sorted(operators)] if make else []
    return make(*bounds) if make and all(map(is_number, bounds)) else None


_BETWEEN: dict[tuple[str, ...], Callable[[Any, Any], Predicate]] = {
    ("gt", "lt"): lambda least, most: (
        lambda value: (value.__class__ is int or is_number(value)) and least < value < most
    ),
    ("gt", "lte"): lambda least, most: (
        lambda value: (value.__class__ is int or is_number(value)) and least < value <= most
    ),
    ("gte", "lt"): lambda least, most: (
        lambda value: (value.__class__ is int or is_number(value)) and least <= value < most
    ),
    ("gte", "lte"): lambda least, most: (
        lambda value: (value.__class__ is int or is_number(value)) and least <= value <= most
    ),
}


def length_of(bounds: Mapping[str, int]) -> Predicate:
    """Test the length of a string or a list against ``equals``, ``gt``, ``gte``, ``lt`` and ``lte``."""
    least = max((bound + (name == "gt") for name, bound in bounds.items() if name[0] != "l"), default=0)
    most = min((bound - (name == "lt") for name, bound in bounds.items() if name[0] != "g"), default=None)
    if most is None:
        return lambda value: isinstance(value, (str, list)) and len(value) >= least
    return lambda value: isinstance(value, (str, list)) and least <= len(value) <= most


def _strings(name: str, argument: object) -> tuple[str, ...]:
    """Return the argument of a string operator: one string or several."""
    given = argument if isinstance(argument, list) else [argument]
    if not given:
        raise ArgumentError(f"{name} has an empty list and can never hold")
    for position, item in enumerate(given):
        if not isinstance(item, str):
            message = f"{name} takes a string or a list of strings, not {describe(item)}"
            raise ArgumentError(message, position if given is argument else None)
    return tuple(given)


def _prefix(argument: object) -> Predicate:
    starts = _strings("prefix", argument)
    return lambda value: isinstance(value, str) and value.startswith(starts)


def _suffix(argument: object) -> Predicate:
    ends = _strings("suffix", argument)
    return lambda value: isinstance(value, str) and value.endswith(ends)


def _contains(argument: object) -> Predicate:
    parts = _strings("contains", argument)
    if len(parts) == 1:
        (only,) = parts
        return lambda value: isinstance(value, str) and only in value
    return lambda value: isinstance(value, str) and any(part in value for part in parts)


def _one_string(name: str, argument: object) -> str:
    if not isinstance(argument, str):
        hint = (
            f"; for several patterns write any_of: [{{{name}: ...}}, ...]"
            if isinstance(argument, list)
            else ""
        )
        raise ArgumentError(f"{name} takes one pattern, a string, not {describe(argument)}{hint}")
    return argument


def _wildcard(argument: object) -> Predicate:
    return _pattern("wildcard", argument, wildcard)


def _regex(argument: object) -> Predicate:
    return _pattern("regex", argument, regex)


def _regex_ignoring_case(argument: object) -> Predicate:
    return _pattern("regex", argument, partial(regex, ignore_case=True))


def _pattern(name: str, argument: object, compile_: Callable[[str], Callable[[str], bool]]) -> Predicate:
    pattern = _one_string(name, argument)
    try:
        matches = compile_(pattern)
    except ValueError as error:
        raise ArgumentError(f"{name} {error}") from None
    return lambda value: isinstance(value, str) and matches(value)


def _cidr(argument: object) -> Predicate:
    networks: list[Network] = []
    for position, text in enumerate(_strings("cidr", argument)):
        try:
            networks.append(parse_network(text))
        except ValueError as error:
            raise ArgumentError(f"cidr {error}", position if isinstance(argument, list) else None) from None
    inside = within(networks)
    return lambda value: isinstance(value, str) and inside(value)


_TYPES: dict[str, Predicate] = {
    "null": lambda value: value is None,
    "string": lambda value: isinstance(value, str),
    "number": is_number,
    "boolean": lambda value: isinstance(value, bool),
    "list": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, Mapping),
}


def _is(argument: object) -> Predicate:
    known = _TYPES.get(argument) if isinstance(argument, str) else None
    if known is None:
        hint = ': write "null" in quotes' if argument is None else ""
        raise ArgumentError(f"is takes one of {', '.join(_TYPES)}, not {describe(argument)}{hint}")
    return known


def casefolded(argument: Any) -> Any:
    """Return a scalar, or a list of scalars, with every string case-folded."""
    if isinstance(argument, list):
        return [casefolded(item) for item in argument]
    return argument.casefold() if isinstance(argument, str) else argument


def ignoring_case(predicate: Predicate) -> Predicate:
    """Apply ``predicate`` to strings after they are case-folded."""
    return lambda value: predicate(value.casefold() if isinstance(value, str) else value)


def _folding(compile_: Compile) -> Compile:
    """Wrap ``compile_`` so that both sides are case-folded; errors show the argument as written."""

    def compile_folded(argument: object) -> Predicate:
        compile_(argument)
        return ignoring_case(compile_(casefolded(argument)))

    return compile_folded


OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in (
        Operator("equals", "is this scalar", _equals, _folding(_equals)),
        Operator("gt", "is a number greater than this", _gt),
        Operator("gte", "is a number greater than this, or this", _gte),
        Operator("lt", "is a number less than this", _lt),
        Operator("lte", "is a number less than this, or this", _lte),
        Operator(
            "prefix", "is a string that starts with this, or with one of these", _prefix, _folding(_prefix)
        ),
        Operator(
            "suffix", "is a string that ends with this, or with one of these", _suffix, _folding(_suffix)
        ),
        Operator(
            "contains", "is a string that has this inside, or one of these", _contains, _folding(_contains)
        ),
        Operator(
            "wildcard", "is a string that this pattern of * and ? matches", _wildcard, _folding(_wildcard)
        ),
        Operator("regex", "is a string that this matches in full", _regex, _regex_ignoring_case),
        Operator("cidr", "is an IP address in this network, or in one of these", _cidr),
        Operator("is", "has this type, a list itself being a list", _is, tests_whole_value=True),
    )
}
