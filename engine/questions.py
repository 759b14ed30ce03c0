"""What is asked of the values at a path, how questions are put together, and how they explain themselves.

A path may lead to several values, and a value may be a list, whose elements count, those of nested
lists too. Questions put together are asked of one value, and of one element of it where it is a
list; what looks at a list itself is settled for each value before its elements are looked at, and a
negation, wherever it stands, for all values before that. So each is asked once, and the time grows
with the number of elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .operators import Predicate
from .paths import ALL, flatten

Bind = Callable[[Sequence[Any]], Callable[[Any], Predicate]]

# Asked in place of the elements of an empty list: no value to any operator, so `not` holds.
_NOTHING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionResult:
    """How one condition came out. A block holds when every finding of it holds."""

    path: str  # as written in rules; "" for any, all and not over blocks
    operator: str  # "all" where several operators are asked together, and for a block
    expected: Any  # the operator's argument as written
    actual: Any = None  # what the path leads to: a list where that is several values; None where nothing
    present: bool = True  # whether the path leads anywhere; tells an absent value from a null
    holds: bool
    inside: tuple[ConditionResult, ...] = ()  # of what it is made of: one by one, each on its own


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueTest:
    """A condition's operators without its path."""

    operator: str = ""
    expected: Any = None  # the argument as written
    one: Predicate  # asked of a value that is no list
    bind: Bind  # all values -> one of them -> what is asked of each of its elements
    each: bool = False  # it is asked of each element by itself, and there is nothing to bind
    inside: tuple[ValueTest, ...] = ()
    elements: Callable[[Sequence[Any]], tuple[ConditionResult, ...]] | None = (
        None  # what some found in all values
    )

    def among(self, found: Sequence[Any]) -> bool:
        """Whether one of the values is an answer; linear in their elements."""
        if self.each:
            return any(map(self.one, flatten(found)))
        ask = self.bind(found)
        return any(any(map(ask(value), flatten((value,)) or (_NOTHING,))) for value in found)

    def explain(self, path: str, found: Sequence[Any]) -> ConditionResult:
        return ConditionResult(
            path=path,
            operator=self.operator,
            expected=self.expected,
            actual=found[0] if len(found) == 1 else list(found) or None,
            present=bool(found),
            holds=bool(found) and self.among(found),
            inside=self.elements(found)
            if self.elements
            else tuple(question.explain(path, found) for question in self.inside),
        )


def negated(predicate: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: not predicate(value)


def all_hold(predicates: Sequence[Callable[[Any], bool]]) -> Callable[[Any], bool]:
    """One for several; written out, since ``all()`` over a generator takes twice as long."""
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
    """As ``all_hold``, where one is enough."""
    if len(predicates) == 1:
        return predicates[0]
    if len(predicates) == 2:
        first, second = predicates
        return lambda value: first(value) or second(value)

    def holds(value: Any) -> bool:
        for each in predicates:  # noqa: SIM110
            if each(value):
                return True
        return False

    return holds


def element_test(operator: str, expected: Any, predicate: Predicate) -> ValueTest:
    """``predicate``, asked of each element by itself."""
    return ValueTest(
        operator=operator,
        expected=expected,
        one=predicate,
        bind=lambda _: lambda _: predicate,
        each=True,
    )


def whole_value_test(
    operator: str,
    expected: Any,
    predicate: Predicate,
    elements: Callable[[Sequence[Any]], tuple[ConditionResult, ...]] | None = None,
) -> ValueTest:
    """``predicate``, asked of a list itself and not of its elements."""
    return ValueTest(
        operator=operator,
        expected=expected,
        one=predicate,
        bind=lambda _: lambda value: _always if predicate(value) else _never,
        elements=elements,
    )


def negation(expected: Any, inner: ValueTest) -> ValueTest:
    """The question that holds where no value, and no element of one, is an answer to ``inner``."""

    def bind(found: Sequence[Any]) -> Callable[[Any], Predicate]:
        settled = _never if inner.among(found) else _always
        return lambda _: settled

    return ValueTest(
        operator="not",
        expected=expected,
        one=negated(inner.one),
        bind=bind,
        inside=(inner,),
    )


def all_of(
    expected: Mapping[str, Any], questions: tuple[ValueTest, ...], one: Predicate | None = None
) -> ValueTest:
    """The question that holds where one value, or one element of it, is an answer to all ``questions``.

    ``one`` is a quicker predicate that says what those of all ``questions`` say together.
    """
    joined = one or all_hold([question.one for question in questions])
    return _put_together(all, joined, ALL, expected, questions)


def any_of(operator: str, expected: Any, questions: tuple[ValueTest, ...]) -> ValueTest:
    """The question that holds where one value, or one element of it, is an answer to one of ``questions``."""
    joined = one_holds([question.one for question in questions])
    return _put_together(any, joined, operator, expected, questions)


def _put_together(
    join: Callable[..., bool],
    one: Predicate,
    operator: str,
    expected: Any,
    questions: tuple[ValueTest, ...],
) -> ValueTest:
    def bind(found: Sequence[Any]) -> Callable[[Any], Predicate]:
        bound = tuple(question.bind(found) for question in questions)

        def ask(value: Any) -> Predicate:
            asked = tuple(at(value) for at in bound)
            return lambda element: join(predicate(element) for predicate in asked)

        return ask

    return ValueTest(
        operator=operator,
        expected=expected,
        one=one,
        bind=bind,
        each=all(question.each for question in questions),
        inside=questions,
    )


def _always(_: object) -> bool:
    return True


def _never(_: object) -> bool:
    return False


# Where there is a value, and where something is wrong with what should be asked.
ALWAYS = whole_value_test("exists", True, _always)
NEVER = element_test("", None, _never)
