"""What operators ask of one value: what they exclude, and what they make certain.

Everything here is sound and incomplete: "not empty" and "not stronger" mean that it is not known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from .condition_compiler import compile_block
from .conditions import Block
from .operators import is_number, is_scalar, one_of
from .payload_types import TYPES

NUMERIC = ("gt", "gte", "lt", "lte")
TEXTUAL = ("prefix", "suffix", "contains", "wildcard", "regex", "cidr")
IGNORE_CASE = "ignore_case"
_WHOLE = ("exists", "is", "length", "some")  # look at the value itself, a list as a list


def operators_of(written: object) -> Mapping[str, Any]:
    """A condition in its long form."""
    if isinstance(written, Mapping):
        return written
    return {"any_of": written} if isinstance(written, list) else {"equals": written}


def denies_itself(operators: Mapping[str, Any]) -> bool:
    """Whether a ``not`` excludes all that the operators beside it ask for."""
    if "not" not in operators or IGNORE_CASE in operators:
        return False
    rest = {name: argument for name, argument in operators.items() if name not in ("not", *_WHOLE)}
    return bool(rest) and stronger(rest, operators_of(operators["not"]), False)


def without_whole(operators: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: argument for name, argument in operators.items() if name not in _WHOLE}


def is_empty(asked: Sequence[Mapping[str, Any]], denied: Sequence[Mapping[str, Any]] = ()) -> bool:
    """Whether no single value satisfies all that is asked and nothing that is denied."""
    candidates = candidates_of(asked)
    if candidates is not None:
        return not any(
            all(satisfies(each, value) for each in asked)
            and not any(satisfies(each, value) for each in denied)
            for value in candidates
        )
    types = TYPES
    for operators in asked:
        types &= _types(operators)
    if not types:
        return True
    return _no_number(asked) or _no_text(asked, "prefix") or _no_text(asked, "suffix")


def candidates_of(asked: Sequence[Mapping[str, Any]]) -> list[Any] | None:
    """The values of which one it must be; None where they are not listed."""
    for operators in asked:
        if IGNORE_CASE in operators:
            continue
        if "equals" in operators:
            return [operators["equals"]]
        items = operators.get("any_of")
        if isinstance(items, list) and all(is_scalar(item) for item in items):
            return list(items)
    return None


def _types(operators: Mapping[str, Any]) -> frozenset[str]:
    types = TYPES
    for name, argument in operators.items():
        if name in NUMERIC:
            types &= {"number"}
        elif name in TEXTUAL:
            types &= {"string"}
        elif name == "is":
            types &= {argument} if isinstance(argument, str) else set(argument)
        elif name == "length":
            types &= {"string", "list"}
        elif name == "some":
            types &= {"list"}
    return types


def _no_number(asked: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the bounds leave no number."""
    low = max(((o[n], n == "gt") for o in asked for n in ("gt", "gte") if n in o), default=None)
    high = min(((o[n], n != "lt") for o in asked for n in ("lt", "lte") if n in o), default=None)
    if low is None or high is None:
        return False
    return bool(low[0] > high[0] or (low[0] == high[0] and (low[1] or not high[1])))


def _no_text(asked: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether two demands on the start (the end) of a string exclude each other."""
    turned = 1 if name == "prefix" else -1
    sets = [
        [text[::turned] for text in _texts(operators[name])]
        for operators in asked
        if name in operators and IGNORE_CASE not in operators
    ]
    return any(
        not any(one.startswith(two) or two.startswith(one) for one in first for two in second)
        for place, first in enumerate(sets)
        for second in sets[place + 1 :]
    )


def _texts(argument: Any) -> list[str]:
    return [argument] if isinstance(argument, str) else list(argument)


def stronger(narrow: Mapping[str, Any], wide: Mapping[str, Any], one: bool) -> bool:
    """Whether a value that satisfies all of ``narrow`` satisfies all of ``wide``."""
    if _same(narrow, wide):
        return True
    candidates = candidates_of([narrow])
    if candidates is not None and (one or _is_elementwise(wide)):
        left = [value for value in candidates if satisfies(narrow, value)]
        if left and all(satisfies(wide, value) for value in left):
            return True
    return all(_covers(narrow, wide, name) for name in wide if name != IGNORE_CASE)


def _covers(narrow: Mapping[str, Any], wide: Mapping[str, Any], name: str) -> bool:
    """Whether ``narrow`` makes certain what the operator ``name`` of ``wide`` asks."""
    argument = wide[name]
    folded = narrow.get(IGNORE_CASE, False), wide.get(IGNORE_CASE, False)
    if name in narrow and folded[0] == folded[1] and _same(narrow[name], argument):
        return True
    if name == "exists" or folded != (False, False):
        return name == "exists"
    if name in NUMERIC:
        return any(_bounds(narrow, each, name, argument) for each in (name[:2], f"{name[:2]}e"))
    if name in ("prefix", "suffix", "contains") and name in narrow:
        fits = {"prefix": str.startswith, "suffix": str.endswith, "contains": str.__contains__}[name]
        return all(any(fits(text, part) for part in _texts(argument)) for text in _texts(narrow[name]))
    if name == "any_of":
        return any(stronger(narrow, item, False) for item in argument if isinstance(item, Mapping))
    return False


def _bounds(narrow: Mapping[str, Any], bound: str, asked: str, limit: Any) -> bool:
    """Whether the ``bound`` that ``narrow`` has keeps a number within what ``asked`` allows."""
    if not is_number(given := narrow.get(bound)):
        return False
    if given == limit:
        return (bound.endswith("e"), asked.endswith("e")) != (True, False)
    return bool(given > limit if asked.startswith("g") else given < limit)


def _is_elementwise(operators: Any) -> bool:
    """Whether one element of a list is enough to satisfy it, whatever the others are."""
    if isinstance(operators, Mapping):
        return not set(operators) & {"not", *_WHOLE} and all(map(_is_elementwise, operators.values()))
    return all(map(_is_elementwise, operators)) if isinstance(operators, list) else True


def _same(one: Any, two: Any) -> bool:
    """Whether both are written alike: to Python ``True`` is ``1``."""
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_same(value, two[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(two) and all(map(_same, one, two))
    return bool(one == two)


def satisfies(operators: Mapping[str, Any], value: Any) -> bool:
    if len(operators) == 1:  # by far the most, and quick to say
        if "equals" in operators:
            return one_of((operators["equals"],))(value)
        if "prefix" in operators:
            return isinstance(value, str) and value.startswith(tuple(_texts(operators["prefix"])))
    text = json.dumps(operators, sort_keys=True, ensure_ascii=False, default=str)
    return _compiled(text).holds({"value": value})


@lru_cache(maxsize=4096)
def _compiled(operators: str) -> Block:
    return compile_block({"value": json.loads(operators)})[0]
