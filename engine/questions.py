"""What is asked of the values at a path, and how questions are put together.

Questions put together are asked of one element of a list, but a negation of all of them, wherever it
stands: it is settled before the elements are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .operators import Predicate

# Asked in place of the elements of an empty list: no value to any operator, so `not` holds.
_NOTHING = object()


@dataclass(frozen=True, slots=True)
class Question:
    """A condition's operators without its path."""

    one: Predicate  # asked of a value that is no list
    bind: Callable[[Sequence[Any]], Predicate]  # all elements -> what is asked of each, `not` being settled

    def among(self, elements: Sequence[Any]) -> bool:
        """Whether one of ``elements`` is an answer; linear in their number."""
        return any(map(self.bind(elements), elements or (_NOTHING,)))


def plain(predicate: Predicate) -> Question:
    """``predicate`` as a question, asked of each element by itself."""
    return Question(predicate, lambda _: predicate)


ALWAYS, NEVER = plain(lambda _: True), plain(lambda _: False)


def negation(inner: Question) -> Question:
    """The question that holds where no element is an answer to ``inner``."""

    def bind(elements: Sequence[Any]) -> Predicate:
        return (NEVER if inner.among(elements) else ALWAYS).one

    return Question(lambda value: not inner.one(value), bind)


def together(questions: tuple[Question, ...]) -> Question:
    """The question that holds where one element is an answer to all of ``questions``."""
    if len(questions) == 1:
        return questions[0]
    ones = tuple(question.one for question in questions)

    def bind(elements: Sequence[Any]) -> Predicate:
        bound = tuple(question.bind(elements) for question in questions)
        return lambda element: all(predicate(element) for predicate in bound)

    return Question(lambda value: all(predicate(value) for predicate in ones), bind)


def either(questions: tuple[Question, ...]) -> Question:
    """The question that holds where one element is an answer to one of ``questions``."""
    if len(questions) == 1:
        return questions[0]
    ones = tuple(question.one for question in questions)

    def bind(elements: Sequence[Any]) -> Predicate:
        bound = tuple(question.bind(elements) for question in questions)
        return lambda element: any(predicate(element) for predicate in bound)

    return Question(lambda value: any(predicate(value) for predicate in ones), bind)
