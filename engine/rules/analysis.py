"""Analyse conditions without an event: find those that can never hold, and those that imply another.

The analysis is sound and incomplete: ``None`` and "not implied" mean that the answer is unknown. A value
may be a list, whose elements are tested one by one. So two conditions on one path contradict each other
only if the path leads to a single value; ``single`` returns whether it does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

from .condition_compiler import At, compile_block, normalise
from .conditions import Block
from .operators import IGNORE_CASE, NUMERIC, OPERATORS, is_number, is_scalar, one_of
from .paths import ALL, ANY, COMBINATORS, NOT, FieldPath, format_path, parse_path
from .payload_schema import TYPES

MAX_CASES = 64  # of a block; with more, the answer is unknown

Single = Callable[[FieldPath], bool]

TEXTUAL = ("prefix", "suffix", "contains", "wildcard", "regex", "cidr")
# These test the value itself, not its elements.
_WHOLE = ("exists", "length", "some", *(name for name, each in OPERATORS.items() if each.tests_whole_value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Literal:
    """A condition that must hold, or must not hold."""

    path: FieldPath
    operators: Mapping[str, Any]
    at: At  # place in the block
    holds: bool = True


LogicCase = tuple[Literal, ...]  # one way in which a block may hold: all its literals are true


@dataclass(frozen=True, slots=True, kw_only=True)
class Clash:
    """The reason why a case is impossible."""

    literal: Literal
    reason: str


class _TooMany(Exception):  # noqa: N818 -- it ends the analysis; nobody outside sees it
    """A block has more than ``MAX_CASES`` cases."""


def conditions(
    block: Mapping[str, Any], at: At = (), has_error: Callable[[At], bool] = lambda _: False
) -> Iterator[tuple[At, FieldPath, Any]]:
    """Yield place, path and source of every condition without an error, those of inner blocks included."""
    for key, value in block.items():
        here = (*at, key)
        if key not in COMBINATORS:
            if not has_error(here):
                yield here, parse_path(key), value
        elif key == NOT:
            yield from conditions(value, here, has_error)
        else:
            for position, inner in enumerate(value):
                yield from conditions(inner, (*here, position), has_error)


def cases(block: Mapping[str, Any], at: At = (), *, holds: bool = True) -> list[LogicCase] | None:
    """Return the cases in which a block without errors holds (or does not hold); None for too many."""
    try:
        return _block(block, at, holds)
    except _TooMany:
        return None


def clash(case: LogicCase, single: Single, added: LogicCase | None = None) -> Clash | None:
    """Return why the case is impossible; None if it may be possible.

    ``added`` are the literals not yet compared with the others; default: all.
    """
    new = case if added is None else added
    given = [literal for literal in case if literal.holds]
    for literal in new:
        if literal.holds:
            if found := _clash_of(literal, given, single):
                return found
        elif _implied(literal, given, single):
            reason = f"{format_path(literal.path)} must satisfy a condition and must not satisfy it"
            return Clash(literal=literal, reason=reason)
    return _nothing_left(case, {literal.path for literal in new}, single)


def implies(narrow: Sequence[LogicCase], denied: Sequence[LogicCase], single: Single) -> bool:
    """Return whether a block certainly holds in all cases of ``narrow``.

    ``denied`` are the cases in which the block does not hold: ``cases(block, holds=False)``.
    """
    if len(denied) * len(narrow) > MAX_CASES:
        return False
    return all(clash((*case, *other), single, other) is not None for case in narrow for other in denied)


def rarest_first(denied: Sequence[LogicCase], common: Mapping[str, int]) -> list[LogicCase]:
    """Sort cases so that ``implies`` finds a counterexample soon: rare cases come first.

    ``common`` is the number of blocks that have a case, by ``signature``.
    """
    return sorted(denied, key=lambda case: common.get(signature(case), 0))


def signature(case: LogicCase) -> str:
    """Return a text that is equal for cases with equal literals."""
    return repr([(literal.path, literal.operators, literal.holds) for literal in case])


def _nothing_left(case: LogicCase, paths: Iterable[FieldPath], single: Single) -> Clash | None:
    """Find a path whose listed values are all denied."""
    for path in paths:
        denied = [literal for literal in case if not literal.holds and literal.path == path]
        required = [each.operators for each in case if each.holds and each.path == path and not _absent(each)]
        excluded = [literal.operators for literal in denied]
        if required and denied and single(path) and is_empty(required, excluded):
            return Clash(literal=denied[0], reason=f"no value of {format_path(path)} remains")
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
    path, operators = parse_path(key), normalise(value)
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
    """Split a list of values and operator mappings into one case each, if that changes nothing."""
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
    """Return why ``literal``, by itself or together with another that must hold, is impossible."""
    name = format_path(literal.path)
    if _absent(literal):
        for other in given:
            if not _absent(other) and other.path[: len(literal.path)] == literal.path:
                reason = f"{format_path(other.path)} must have a value, and {name} must be absent"
                return Clash(literal=literal, reason=reason)
        return None
    required = [literal.operators]
    one = single(literal.path)
    if is_empty(required if one else [without_whole(literal.operators)]) or denies_itself(literal.operators):
        return Clash(literal=literal, reason=f"no value of {name} satisfies all of this together")
    if one:
        for other in given:
            if other is literal:
                break  # the later ones compare themselves with this one
            if other.path == literal.path and not _absent(other):
                required.append(other.operators)
        if len(required) > 1 and is_empty(required):
            reason = f"no value of {name} satisfies this and the conditions above"
            return Clash(literal=literal, reason=reason)
    return None


def _implied(literal: Literal, given: Sequence[Literal], single: Single) -> bool:
    """Return whether the given literals imply the condition of ``literal``."""
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
    remaining = [value for value in candidates if all(satisfies(each, value) for each in here)]
    return bool(remaining) and all(satisfies(wanted, value) for value in remaining)


def denies_itself(operators: Mapping[str, Any]) -> bool:
    """Return whether a ``not`` excludes every value that the other operators accept."""
    if "not" not in operators or IGNORE_CASE in operators:
        return False
    rest = {name: argument for name, argument in operators.items() if name not in ("not", *_WHOLE)}
    return bool(rest) and stronger(rest, normalise(operators["not"]), False)


def without_whole(operators: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: argument for name, argument in operators.items() if name not in _WHOLE}


def is_empty(required: Sequence[Mapping[str, Any]], denied: Sequence[Mapping[str, Any]] = ()) -> bool:
    """Return whether no single value satisfies all ``required`` and none of ``denied`` operators."""
    candidates = candidates_of(required)
    if candidates is not None:
        return not any(
            all(satisfies(each, value) for each in required)
            and not any(satisfies(each, value) for each in denied)
            for value in candidates
        )
    types = TYPES
    for operators in required:
        types &= _types(operators)
    if not types:
        return True
    return _no_number(required) or _no_text(required, "prefix") or _no_text(required, "suffix")


def candidates_of(required: Sequence[Mapping[str, Any]]) -> list[Any] | None:
    """Return the only possible values; None if no operator lists them."""
    for operators in required:
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


def _no_number(required: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether no number is within the bounds."""
    low = max(((o[n], n == "gt") for o in required for n in ("gt", "gte") if n in o), default=None)
    high = min(((o[n], n != "lt") for o in required for n in ("lt", "lte") if n in o), default=None)
    if low is None or high is None:
        return False
    return bool(low[0] > high[0] or (low[0] == high[0] and (low[1] or not high[1])))


def _no_text(required: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Return whether two prefixes (suffixes) exclude each other."""
    step = 1 if name == "prefix" else -1
    sets = [
        [text[::step] for text in _texts(operators[name])]
        for operators in required
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
    """Return whether each value that satisfies ``narrow`` also satisfies ``wide``."""
    if _same(narrow, wide):
        return True
    candidates = candidates_of([narrow])
    if candidates is not None and (one or _is_elementwise(wide)):
        remaining = [value for value in candidates if satisfies(narrow, value)]
        if remaining and all(satisfies(wide, value) for value in remaining):
            return True
    return all(_covers(narrow, wide, name) for name in wide if name != IGNORE_CASE)


def _covers(narrow: Mapping[str, Any], wide: Mapping[str, Any], name: str) -> bool:
    """Return whether each value that satisfies ``narrow`` passes the operator ``name`` of ``wide``."""
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


def _bounds(narrow: Mapping[str, Any], bound: str, wanted: str, limit: Any) -> bool:
    """Return whether the ``bound`` of ``narrow`` implies the bound ``wanted`` with ``limit``."""
    if not is_number(given := narrow.get(bound)):
        return False
    if given == limit:
        return (bound.endswith("e"), wanted.endswith("e")) != (True, False)
    return bool(given > limit if wanted.startswith("g") else given < limit)


def _is_elementwise(operators: Any) -> bool:
    """Return whether a single element of a list can satisfy the operators."""
    if isinstance(operators, Mapping):
        return not set(operators) & {"not", *_WHOLE} and all(map(_is_elementwise, operators.values()))
    return all(map(_is_elementwise, operators)) if isinstance(operators, list) else True


def _same(one: Any, two: Any) -> bool:
    """Return whether both are written alike; Python alone takes ``True`` for ``1``."""
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_same(value, two[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(two) and all(map(_same, one, two))
    return bool(one == two)


def satisfies(operators: Mapping[str, Any], value: Any) -> bool:
    if len(operators) == 1:  # most are, and need not be compiled
        if "equals" in operators:
            return one_of((operators["equals"],))(value)
        if "prefix" in operators:
            return isinstance(value, str) and value.startswith(tuple(_texts(operators["prefix"])))
    text = json.dumps(operators, sort_keys=True, ensure_ascii=False, default=str)
    return _compiled(text).holds({"value": value})


@lru_cache(maxsize=4096)
def _compiled(operators: str) -> Block:
    return compile_block({"value": json.loads(operators)})[0]
