"""What can be said of conditions without an event: that they never hold, that one implies another.

Everything here is sound and incomplete: ``None`` and "not implied" mean that it is not known. A value
may be a list, whose elements answer each condition on their own; so two conditions on one path clash
only where the path is known to lead to a single value. ``single`` says that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from .condition_compiler import At
from .constraints import (
    IGNORE_CASE,
    candidates_of,
    denies_itself,
    is_empty,
    operators_of,
    satisfies,
    stronger,
    without_whole,
)
from .operators import is_scalar
from .paths import ALL, ANY, COMBINATORS, NOT, FieldPath, format_path, parse_path

MAX_CASES = 64  # ways in which a block may hold; beyond that nothing is said of it

Single = Callable[[FieldPath], bool]


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
