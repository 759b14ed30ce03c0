"""Compiled ``when`` blocks: ``holds`` decides, ``explain`` gives the reasons, and both read the same tree.

A path may lead to several values, and a value may be a list, whose elements count, also those of nested
lists. Tests that are combined apply to one value, or to one element of a list. A test of a list itself is
decided for each value before its elements are tested, and a negation for all values before that. So each
test runs once, and the time grows with the number of elements.

Most payloads lead from mappings to a scalar or to nothing, and a path test answers those at once. Only
lists take the longer way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .operators import Predicate
from .paths import ALL, ANY, NOT, FieldPath, flatten, format_path, resolve

Bind = Callable[[Sequence[Any]], Callable[[Any], Predicate]]

# Asked in place of the elements of an empty list: no value to any operator, so `not` holds.
_NOTHING = object()

PathTest = Callable[[Any], bool]

_ABSENT = object()
_SCALARS = frozenset((str, int, float, bool, type(None)))


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """What is asked of the values at one path."""

    path: FieldPath
    operators: Mapping[str, Any]  # as written, a scalar being ``equals`` and a list ``any_of``
    question: ValueTest | None  # all operators together; None is ``exists: false``
    test: Callable[[Mapping[str, Any]], bool]

    @property
    def ignore_case(self) -> bool:
        """Whether its strings are compared case-folded, those inside ``not`` and ``any_of`` too."""
        return self.operators.get("ignore_case") is True

    def explain(self, payload: Mapping[str, Any]) -> ConditionResult:
        found = resolve(payload, self.path)
        path = format_path(self.path)
        if self.question is not None:
            return self.question.explain(path, found)
        return ConditionResult(
            path=path,
            operator="exists",
            expected=False,
            actual=found[0] if len(found) == 1 else found or None,
            present=bool(found),
            holds=not found,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Combination:
    """``any``, ``all`` or ``not`` over blocks."""

    operator: str
    blocks: tuple[Block, ...]
    source: Any  # as written
    test: Callable[[Mapping[str, Any]], bool]

    def explain(self, payload: Mapping[str, Any]) -> ConditionResult:
        inside = tuple(block.finding(payload) for block in self.blocks)
        outcomes = [finding.holds for finding in inside]
        holds = {ANY: any(outcomes), ALL: all(outcomes), NOT: not all(outcomes)}[self.operator]
        return ConditionResult(
            path="", operator=self.operator, expected=self.source, holds=holds, inside=inside
        )


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Conditions of which all must hold; without any it always holds."""

    parts: tuple[Condition | Combination, ...] = ()
    source: Any = None  # as written

    @property
    def test(self) -> Callable[[Mapping[str, Any]], bool]:
        """``holds``, without a detour where the block has one part."""
        return self.parts[0].test if len(self.parts) == 1 else self.holds

    def holds(self, payload: Mapping[str, Any]) -> bool:
        for part in self.parts:  # noqa: SIM110 - half the time of all() over a generator
            if not part.test(payload):
                return False
        return True

    def explain(self, payload: Mapping[str, Any]) -> tuple[ConditionResult, ...]:
        """One finding for each part, also after the first that does not hold."""
        return tuple(part.explain(payload) for part in self.parts)

    def finding(self, payload: Mapping[str, Any]) -> ConditionResult:
        """The block as one finding."""
        inside = self.explain(payload)
        if len(inside) == 1:
            return inside[0]
        holds = all(finding.holds for finding in inside)
        return ConditionResult(path="", operator=ALL, expected=self.source, holds=holds, inside=inside)

    def conditions(self) -> Iterator[Condition]:
        """Every condition, those of inner blocks too, in the order of writing."""
        for part in self.parts:
            if isinstance(part, Condition):
                yield part
            else:
                for block in part.blocks:
                    yield from block.conditions()

    @property
    def paths(self) -> tuple[FieldPath, ...]:
        """Every path that is asked about, each once."""
        return tuple(dict.fromkeys(condition.path for condition in self.conditions()))


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


def path_test(path: FieldPath, question: ValueTest | None, operators: Mapping[str, Any]) -> PathTest:
    """Whether ``path`` leads somewhere in a payload and what is there answers the question; None: nowhere.

    ``operators`` are those of the question, as written.
    """
    if question is None:
        return _nowhere(path)
    if len(path) > 2:
        return _many_steps(path, question)
    (strings, within), steps = _strings(operators), len(path)
    if strings is None:
        return _one_step(path[0], question) if steps == 1 else _two_steps(path, question)
    if steps == 1:
        return _one_step_among(path[0], question, strings, within=within)
    return _two_steps_among(path, question, strings, within=within)


def _strings(operators: Mapping[str, Any]) -> tuple[frozenset[str] | None, bool]:
    """The strings that alone fit, or with False do not, where no more is asked of a string."""
    if len(operators) != 1:
        return None, True
    ((name, argument),) = operators.items()
    if name != "not":
        return _equal_strings(operators), True
    if isinstance(argument, Mapping):
        return _equal_strings(argument), False
    return _equal_strings({"any_of" if isinstance(argument, list) else "equals": argument}), False


def _equal_strings(operators: Mapping[str, Any]) -> frozenset[str] | None:
    if len(operators) != 1:
        return None
    ((name, argument),) = operators.items()
    given = argument if name == "any_of" else [argument] if name == "equals" else None
    if not isinstance(given, list) or any(isinstance(each, Mapping) for each in given):
        return None
    return frozenset(each for each in given if isinstance(each, str))


def _nowhere(path: FieldPath) -> PathTest:
    def test(payload: Any) -> bool:
        value = payload
        for key in path:
            if value.__class__ is not dict:
                return not resolve(payload, path)
            value = value.get(key, _ABSENT)
            if value is _ABSENT:
                return True
        return False

    return test


def _through_lists(path: FieldPath, question: ValueTest) -> PathTest:
    def test(payload: Any) -> bool:
        found = resolve(payload, path)
        return bool(found) and question.among(found)

    return test


def _whole(question: ValueTest) -> PathTest:
    """What is asked of a value that is there and is no scalar."""
    one, among = question.one, question.among
    return lambda value: among((value,)) if isinstance(value, list) else one(value)


def _many_steps(path: FieldPath, question: ValueTest) -> PathTest:
    one, whole, through_lists = question.one, _whole(question), _through_lists(path, question)

    def test(payload: Any) -> bool:
        value = payload
        for key in path:
            if value.__class__ is not dict:
                return through_lists(payload)
            value = value.get(key, _ABSENT)
            if value is _ABSENT:
                return False
        return one(value) if value.__class__ in _SCALARS else whole(value)

    return test


def _one_step(name: str, question: ValueTest) -> PathTest:
    one, whole, through_lists = question.one, _whole(question), _through_lists((name,), question)

    def test(payload: Any) -> bool:
        if payload.__class__ is not dict:
            return through_lists(payload)
        value = payload.get(name, _ABSENT)
        if value.__class__ in _SCALARS:
            return one(value)
        return value is not _ABSENT and whole(value)

    return test


def _one_step_among(name: str, question: ValueTest, strings: frozenset[str], *, within: bool) -> PathTest:
    rest = _one_step(name, question)

    def among(payload: Any) -> bool:
        if payload.__class__ is dict:
            value = payload.get(name)
            if value.__class__ is str:
                return (value in strings) is within
        return rest(payload)

    return among


def _two_steps(path: FieldPath, question: ValueTest) -> PathTest:
    outer, name = path
    one, whole, through_lists = question.one, _whole(question), _through_lists(path, question)

    def test(payload: Any) -> bool:
        if payload.__class__ is not dict:
            return through_lists(payload)
        inner = payload.get(outer, _ABSENT)
        if inner.__class__ is not dict:
            return inner is not _ABSENT and through_lists(payload)
        value = inner.get(name, _ABSENT)
        if value.__class__ in _SCALARS:
            return one(value)
        return value is not _ABSENT and whole(value)

    return test


def _two_steps_among(
    path: FieldPath, question: ValueTest, strings: frozenset[str], *, within: bool
) -> PathTest:
    outer, name = path
    rest = _two_steps(path, question)

    def among(payload: Any) -> bool:
        if payload.__class__ is dict:
            inner = payload.get(outer)
            if inner.__class__ is dict:
                value = inner.get(name)
                if value.__class__ is str:
                    return (value in strings) is within
        return rest(payload)

    return among
