"""From a path and a question to a test of payloads, quick for what payloads mostly are.

A test answers by itself where mappings lead to a scalar or to nothing. Only what meets a list is
taken apart first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .paths import FieldPath, resolve
from .questions import ValueTest

PathTest = Callable[[Any], bool]

_ABSENT = object()
_SCALARS = frozenset((str, int, float, bool, type(None)))


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
