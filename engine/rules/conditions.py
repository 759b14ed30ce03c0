"""Compiled ``when`` blocks: ``holds`` decides, ``explain`` gives the reasons. Both read the same tree.

A path may lead to several values, and a value may be a list. A test applies to each element of a list,
those of nested lists included. Tests that are combined apply to the same value, or to the same element.

A test of a list itself is decided once for each value, a negation once for all values; only then are the
elements tested. So each test runs once for each element, and the time grows with their number.

Most paths have one or two keys and lead through mappings to a scalar or to nothing. A path test decides
these at once. Only lists and longer paths take the general way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .operators import IGNORE_CASE, Predicate
from .paths import ALL, ANY, NOT, FieldPath, flatten, format_path, resolve

PayloadTest = Callable[[Mapping[str, Any]], bool]
Bind = Callable[[Sequence[Any]], Callable[[Any], Predicate]]

# Stands for the elements of an empty list: no operator accepts it, so `not` holds.
_NOTHING = object()
_ABSENT = object()
_SCALARS = frozenset((str, int, float, bool, type(None)))


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """A test of the values at one path."""

    path: FieldPath
    operators: Mapping[str, Any]  # as written, a scalar being ``equals`` and a list ``any_of``
    value_test: ValueTest | None  # all operators together; None is ``exists: false``
    test: PayloadTest

    @property
    def ignore_case(self) -> bool:
        """True if strings are compared case-folded, those inside ``not`` and ``any_of`` included."""
        return self.operators.get(IGNORE_CASE) is True

    def explain(self, payload: Mapping[str, Any]) -> ConditionResult:
        found = resolve(payload, self.path)
        path = format_path(self.path)
        if self.value_test is not None:
            return self.value_test.explain(path, found)
        return _result(path, "exists", False, found, holds=not found)


@dataclass(frozen=True, slots=True, eq=False)
class Combination:
    """``any``, ``all`` or ``not`` over blocks."""

    operator: str
    blocks: tuple[Block, ...]
    source: Any  # as written
    test: PayloadTest

    def explain(self, payload: Mapping[str, Any]) -> ConditionResult:
        inside = tuple(block.result(payload) for block in self.blocks)
        outcomes = [result.holds for result in inside]
        holds = {ANY: any(outcomes), ALL: all(outcomes), NOT: not all(outcomes)}[self.operator]
        return ConditionResult(
            path="", operator=self.operator, expected=self.source, holds=holds, inside=inside
        )


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Conditions that must all hold; an empty block always holds."""

    parts: tuple[Condition | Combination, ...] = ()
    source: Any = None  # as written

    @property
    def test(self) -> PayloadTest:
        """``holds``, without the loop if the block has one part."""
        return self.parts[0].test if len(self.parts) == 1 else self.holds

    def holds(self, payload: Mapping[str, Any]) -> bool:
        for part in self.parts:  # noqa: SIM110 - half the time of all() over a generator
            if not part.test(payload):
                return False
        return True

    def explain(self, payload: Mapping[str, Any]) -> tuple[ConditionResult, ...]:
        """Return one result for each part, also after the first that does not hold."""
        return tuple(part.explain(payload) for part in self.parts)

    def result(self, payload: Mapping[str, Any]) -> ConditionResult:
        """Return the results of the parts as one."""
        inside = self.explain(payload)
        if len(inside) == 1:
            return inside[0]
        holds = all(result.holds for result in inside)
        return ConditionResult(path="", operator=ALL, expected=self.source, holds=holds, inside=inside)

    def conditions(self) -> Iterator[Condition]:
        """Yield every condition in the order of writing, those of inner blocks included."""
        for part in self.parts:
            if isinstance(part, Condition):
                yield part
            else:
                for block in part.blocks:
                    yield from block.conditions()

    @property
    def paths(self) -> tuple[FieldPath, ...]:
        """The paths of all conditions, each once."""
        return tuple(dict.fromkeys(condition.path for condition in self.conditions()))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionResult:
    """The outcome of one condition. A block holds when all its results hold."""

    path: str  # as written in rules; "" for any, all and not over blocks
    operator: str  # "all" for several operators together, and for a block
    expected: Any  # the operator's argument as written
    actual: Any = None  # the value at the path; a list of several values; None without a value
    present: bool = True  # false if there is no value; distinguishes an absent value from a null
    holds: bool
    inside: tuple[ConditionResult, ...] = ()  # the results of its parts, each decided on its own


def _result(path: str, operator: str, expected: Any, found: Sequence[Any], **more: Any) -> ConditionResult:
    actual = found[0] if len(found) == 1 else list(found) or None
    return ConditionResult(
        path=path, operator=operator, expected=expected, actual=actual, present=bool(found), **more
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueTest:
    """The operators of a condition without its path."""

    operator: str = ""
    expected: Any = None  # the argument as written
    predicate: Predicate  # tests a value that is not a list
    bind: Bind  # from all values and one of them to the test of its elements
    elementwise: bool = False  # the predicate tests each element by itself; there is nothing to bind
    inside: tuple[ValueTest, ...] = ()
    explain_elements: Callable[[Sequence[Any]], tuple[ConditionResult, ...]] | None = None  # of ``some``

    def any_holds(self, found: Sequence[Any]) -> bool:
        """Return whether one of the values passes. The time is linear in their elements."""
        if self.elementwise:
            return any(map(self.predicate, flatten(found)))
        bound = self.bind(found)
        return any(any(map(bound(value), flatten((value,)) or (_NOTHING,))) for value in found)

    def explain(self, path: str, found: Sequence[Any]) -> ConditionResult:
        inside = (
            self.explain_elements(found)
            if self.explain_elements
            else tuple(each.explain(path, found) for each in self.inside)
        )
        holds = bool(found) and self.any_holds(found)
        return _result(path, self.operator, self.expected, found, holds=holds, inside=inside)


def negated(predicate: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: not predicate(value)


def all_hold(predicates: Sequence[Callable[[Any], bool]]) -> Callable[[Any], bool]:
    """Combine predicates with "and". ``all()`` over a generator would take twice as long."""
    if len(predicates) == 1:
        return predicates[0]
    if len(predicates) == 2:
        first, second = predicates
        return lambda value: first(value) and second(value)

    def holds(value: Any) -> bool:
        for each in predicates:  # noqa: SIM110
            if not each(value):
                return False
        return True

    return holds


def one_holds(predicates: Sequence[Callable[[Any], bool]]) -> Callable[[Any], bool]:
    """Combine predicates with "or"."""
    if len(predicates) == 1:
        return predicates[0]

    def holds(value: Any) -> bool:
        for each in predicates:  # noqa: SIM110
            if each(value):
                return True
        return False

    return holds


def element_test(operator: str, expected: Any, predicate: Predicate) -> ValueTest:
    """Test each element by itself."""
    return ValueTest(
        operator=operator,
        expected=expected,
        predicate=predicate,
        bind=lambda _: lambda _: predicate,
        elementwise=True,
    )


def whole_value_test(
    operator: str,
    expected: Any,
    predicate: Predicate,
    explain_elements: Callable[[Sequence[Any]], tuple[ConditionResult, ...]] | None = None,
) -> ValueTest:
    """Test a list itself, not its elements."""
    return ValueTest(
        operator=operator,
        expected=expected,
        predicate=predicate,
        bind=lambda _: lambda value: _always if predicate(value) else _never,
        explain_elements=explain_elements,
    )


def negation(expected: Any, inner: ValueTest) -> ValueTest:
    """Test that no value, and no element of one, passes ``inner``."""

    def bind(found: Sequence[Any]) -> Callable[[Any], Predicate]:
        decided = _never if inner.any_holds(found) else _always
        return lambda _: decided

    return ValueTest(
        operator=NOT, expected=expected, predicate=negated(inner.predicate), bind=bind, inside=(inner,)
    )


def all_of(
    expected: Mapping[str, Any], tests: tuple[ValueTest, ...], predicate: Predicate | None = None
) -> ValueTest:
    """Test that one value, or one element of it, passes all ``tests``.

    ``predicate`` is a faster equivalent of the predicates of all ``tests`` together.
    """
    return _combined(all, predicate or all_hold([test.predicate for test in tests]), ALL, expected, tests)


def any_of(operator: str, expected: Any, tests: tuple[ValueTest, ...]) -> ValueTest:
    """Test that one value, or one element of it, passes one of ``tests``."""
    return _combined(any, one_holds([test.predicate for test in tests]), operator, expected, tests)


def _combined(
    join: Callable[..., bool],
    predicate: Predicate,
    operator: str,
    expected: Any,
    tests: tuple[ValueTest, ...],
) -> ValueTest:
    def bind(found: Sequence[Any]) -> Callable[[Any], Predicate]:
        bound = tuple(test.bind(found) for test in tests)

        def of_value(value: Any) -> Predicate:
            predicates = tuple(each(value) for each in bound)
            return lambda element: join(holds(element) for holds in predicates)

        return of_value

    return ValueTest(
        operator=operator,
        expected=expected,
        predicate=predicate,
        bind=bind,
        elementwise=all(test.elementwise for test in tests),
        inside=tests,
    )


def _always(_: object) -> bool:
    return True


def _never(_: object) -> bool:
    return False


ALWAYS = whole_value_test("exists", True, _always)  # passes any value
NEVER = element_test("", None, _never)  # stands for a test that has an error


def _general_path_test(path: FieldPath, value_test: ValueTest) -> PayloadTest:
    predicate, any_holds = value_test.predicate, value_test.any_holds

    def test(payload: Mapping[str, Any]) -> bool:
        found = resolve(payload, path)
        if len(found) == 1 and not isinstance(found[0], list):
            return predicate(found[0])
        return bool(found) and any_holds(found)

    return test


def path_test(path: FieldPath, value_test: ValueTest | None) -> PayloadTest:
    """Test the values at ``path`` of a payload; None tests that there are none."""
    if value_test is None:
        return lambda payload: not resolve(payload, path)
    predicate, general = value_test.predicate, _general_path_test(path, value_test)
    if len(path) > 2:
        return general
    outer, name = path[0], path[-1]

    # Most paths have one or two keys and lead to a scalar or to nothing.
    def one_key(payload: Mapping[str, Any]) -> bool:
        if payload.__class__ is not dict:
            return general(payload)
        value = payload.get(name, _ABSENT)
        if value.__class__ in _SCALARS:
            return predicate(value)
        return value is not _ABSENT and general(payload)

    def two_keys(payload: Mapping[str, Any]) -> bool:
        if payload.__class__ is not dict:
            return general(payload)
        inner = payload.get(outer)
        if inner.__class__ is not dict:
            return inner is not None and general(payload)
        value = inner.get(name, _ABSENT)
        if value.__class__ in _SCALARS:
            return predicate(value)
        return value is not _ABSENT and general(payload)

    return one_key if len(path) == 1 else two_keys
