"""Operators that together can never hold, or that change nothing: mistakes that are seen when loading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .operators import OPERATORS, is_number


def empty_ranges(operators: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Of bounds between which no number is: the upper one's name, and what is wrong, in words."""
    for low in ("gt", "gte"):
        for high in ("lt", "lte"):
            least, most = operators.get(low), operators.get(high)
            if not (is_number(least) and is_number(most)):
                continue  # a bad bound is reported where it is compiled
            if least > most or (least == most and (low, high) != ("gte", "lte")):
                yield high, f"no number is both {low} {least} and {high} {most}"


def empty_length(bounds: Mapping[str, int]) -> str:
    """Why no length is within ``bounds``, in words; "" where one is."""
    exact = [bounds["equals"]] if "equals" in bounds else []
    least = max(0, bounds.get("gte", 0), bounds.get("gt", -1) + 1, *exact)
    most = [*exact, *(bounds[name] - (name == "lt") for name in ("lt", "lte") if name in bounds)]
    if not most or least <= min(most):
        return ""
    return f"no length is {' and '.join(f'{name} {bound}' for name, bound in bounds.items())}"


def compares_strings(operators: Mapping[str, Any]) -> bool:
    """Whether case could make a difference to one of ``operators``, or to what is inside them."""
    pending: list[Any] = [operators]  # not recursive: it runs before the depth is checked
    while pending:
        asked = pending.pop()
        if isinstance(asked, str):
            return True
        if isinstance(asked, list):
            pending.extend(asked)
        elif isinstance(asked, Mapping):
            for name, argument in asked.items():
                if name in ("equals", "any_of", "not"):
                    pending.append(argument)
                elif name in OPERATORS and OPERATORS[name].folded:
                    return True
    return False
