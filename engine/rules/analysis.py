"""Analyse conditions without an event: which can never hold, and which imply another.

The analysis is sound and incomplete: ``None`` and "not implied" mean that the answer is unknown. A value
may be a list, whose elements are tested one by one. So two conditions on one path contradict each other
only where the path leads to a single value; ``single`` says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

from .condition_compiler import At, compile_block
from .conditions import Block
from .operators import IGNORE_CASE, NUMERIC, is_number, is_scalar, one_of
from .paths import ALL, ANY, COMBINATORS, NOT, FieldPath, format_path, parse_path
from .payload_schema import TYPES

MAX_CASES = 64  # ways in which a block may hold; beyond that nothing is said of it

Single = Callable[[FieldPath], bool]

TEXTUAL = ("prefix", "suffix", "contains", "wildcard", "regex", "cidr")
_WHOLE = ("exists", "is", "length", "some")  # look at the value itself, a list as a list


@dataclass(frozen=True, slots=True, kw_only=True)
class Literal:
    """A condition that must hold, or must not."""

    path: FieldPath
    operators: Mapping[str, Any]
    at: At  # where in the block
    holds: bool = True


LogicCase = tuple[Literal, ...]  # literals that all come true: one way in which a block may hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Clash:
    """Why a case cannot come about."""

    literal: Literal
    reason: str


class _TooMany(Exception):  # noqa: N818 -- it ends the reading; nobody outside sees it
    """More cases than are looked at."""


def conditions(
    block: Mapping[str, Any], at: At = (), flawed: Callable[[At], bool] = lambda _: False
) -> Iterator[tuple[At, FieldPath, Any]]:
    """Every condition of a block that is not flawed, those of inner blocks too: where, path, as written."""
    for key, value in block.items():
        here = (*at, key)
        if key not in COMBINATORS:
            if not flawed(here):
                yield here, parse_path(key), value
        elif key == NOT:
            yield from conditions(value, here, flawed)
        else:
            for position, inner in enumerate(value):
                yield from conditions(inner, (*here, position), flawed)


def cases(block: Mapping[str, Any], at: At = (), *, holds: bool = True) -> list[LogicCase] | None:
    """The ways in which a sound block may hold (or not hold); None where they are too many."""
    try:
        return _block(block, at, holds)
    except _TooMany:
        return None


def clash(case: LogicCase, single: Single, added: LogicCase | None = None) -> Clash | None:
    """What makes the case impossible; None where it may come about, as far as is known.

    ``added`` are the literals that have not been looked at beside the others yet; default: all.
    """
    fresh = case if added is None else added
    given = [literal for literal in case if literal.holds]
    for literal in fresh:
        if literal.holds:
            if found := _clash_of(literal, given, single):
                return found
        elif _implied(literal, given, single):
            reason = f"{format_path(literal.path)} has to satisfy a condition here and not to satisfy it"
            return Clash(literal=literal, reason=reason)
    return _nothing_left(case, {literal.path for literal in fresh}, single)


def implies(narrow: Sequence[LogicCase], denied: Sequence[LogicCase], single: Single) -> bool:
    """Whether a block certainly holds wherever one of the cases of ``narrow`` comes true.

    ``denied`` are the cases in which that block does not hold: ``cases(block, holds=False)``.
    """
    if len(denied) * len(narrow) > MAX_CASES:
        return False
    return all(clash((*case, *other), single, other) is not None for case in narrow for other in denied)


def most_telling_first(denied: Sequence[LogicCase], common: Mapping[str, int]) -> list[LogicCase]:
    """In the order in which ``implies`` finds out soonest that it does not: what few ask comes first.

    ``common`` says of each case, by ``signature``, in how many blocks it is.
    """
    return sorted(denied, key=lambda case: common.get(signature(case), 0))


def signature(case: LogicCase) -> str:
    """The same for cases of the same literals."""
    return repr([(literal.path, literal.operators, literal.holds) for literal in case])


def _nothing_left(case: LogicCase, paths: Iterable[FieldPath], single: Single) -> Clash | None:
    """A path whose listed values are all denied."""
    for path in paths:
        denied = [literal for literal in case if not literal.holds and literal.path == path]
        asked = [each.operators for each in case if each.holds and each.path == path and not _absent(each)]
        if asked and denied and single(path) and is_empty(asked, [literal.operators for literal in denied]):
            return Clash(literal=denied[0], reason=f"no value of {format_path(path)} is left over")
    return None


def _block(block: Mapping[str, Any], at: At, holds: bool) -> list[LogicCase]:
    pieces = [_piece(key, value, (*at, key), holds) for key, value in block.items()]
    return _both(pieces) if holds else _either(pieces)


def _piece(key: str, value: Any, at: At, holds: bool) -> list[LogicCase]:
    if key == NOT:
        return _block(value, at, not holds)
    if key in (ANY, ALL):
        blocks = [_block(inner, (*at, position), holds) for position, inner in enumerate(value)]
        return _both(blocks) if (key == ALL) is holds else _either(blocks)
    path, operators = parse_path(key), operators_of(value)
    if not holds:
        return [(Literal(path=path, operators=operators, at=at, holds=False),)]
    return [(Literal(path=path, operators=each, at=at),) for each in _alternatives(operators)]


def _both(groups: Sequence[list[LogicCase]]) -> list[LogicCase]:
    size = 1
    for group in groups:
        size *= len(group)
        if size > MAX_CASES:
            raise _TooMany
    return [tuple(literal for case in chosen for literal in case) for chosen in product(*groups)]


def _either(groups: Sequence[list[LogicCase]]) -> list[LogicCase]:
    found = [case for group in groups for case in group]
    if len(found) > MAX_CASES:
        raise _TooMany
    return found


def _alternatives(operators: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A list of values and operator mappings, taken apart where that changes nothing."""
    items = operators.get("any_of")
    if not isinstance(items, list) or all(is_scalar(item) for item in items):
        return [operators]
    rest = {name: argument for name, argument in operators.items() if name != "any_of"}
    mappings = [item for item in items if isinstance(item, Mapping)]
    if any(IGNORE_CASE in each or set(each) & set(rest) for each in (rest, *mappings) if each is not rest):
        return [operators]
    if IGNORE_CASE in rest or len(items) > MAX_CASES:
        return [operators]
    found: list[Mapping[str, Any]] = []
    if scalars := [item for item in items if is_scalar(item)]:
        found.append({**rest, "any_of": scalars})
    for item in mappings:
        found += [{**rest, **each} for each in _alternatives(item)]
    return found


def _absent(literal: Literal) -> bool:
    return literal.operators.get("exists") is False


def _clash_of(literal: Literal, given: Sequence[Literal], single: Single) -> Clash | None:
    """What ``literal`` itself, or it and another that must hold, make impossible."""
    name = format_path(literal.path)
    if _absent(literal):
        for other in given:
            if not _absent(other) and other.path[: len(literal.path)] == literal.path:
                reason = f"{format_path(other.path)} has to have a value, and {name} must not be there"
                return Clash(literal=literal, reason=reason)
        return None
    asked = [literal.operators]
    one = single(literal.path)
    if is_empty(asked if one else [without_whole(literal.operators)]) or denies_itself(literal.operators):
        return Clash(literal=literal, reason=f"no value of {name} satisfies all of this together")
    if one:
        for other in given:
            if other is literal:
                break  # the ones after it find it above them
            if other.path == literal.path and not _absent(other):
                asked.append(other.operators)
        if len(asked) > 1 and is_empty(asked):
            return Clash(literal=literal, reason=f"no value of {name} satisfies this and what is asked above")
    return None


def _implied(literal: Literal, given: Sequence[Literal], single: Single) -> bool:
    """Whether the condition of ``literal`` holds wherever all that is given does."""
    path, wanted = literal.path, literal.operators
    if wanted.get("exists") is False:
        return any(_absent(each) and path[: len(each.path)] == each.path for each in given)
    if dict(wanted) == {"exists": True}:
        return any(not _absent(each) and each.path[: len(path)] == path for each in given)
    here = [each.operators for each in given if each.path == path and not _absent(each)]
    one = single(path)
    if any(stronger(operators, wanted, one) for operators in here):
        return True
    candidates = candidates_of(here) if one and len(here) > 1 else None
    if candidates is None:
        return False
    left = [value for value in candidates if all(satisfies(each, value) for each in here)]
    return bool(left) and all(satisfies(wanted, value) for value in left)


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
