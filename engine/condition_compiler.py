"""From the ``when`` of a rule as written to a tree of conditions, with all that is wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .conditions import Block, Combination, Condition
from .operators import OPERATORS, describe, is_number, is_scalar, one_of
from .paths import ANY, COMBINATORS, NOT, Path, flatten, parse_path, resolve
from .questions import ALWAYS, NEVER, Question, either, negation, plain, together

At = tuple[str | int, ...]  # keys and list positions inside a block as written

DEEPEST = 64  # keys and positions from the top of a block to its innermost condition

# Name -> description, completing "holds when the value ...": all that may stand in a mapping.
ALL_OPERATORS: dict[str, str] = {
    **{operator.name: operator.description for operator in OPERATORS.values()},
    "any_of": "equals one of these, or satisfies one of the operator mappings among them",
    "exists": "true: is there, null included; false: is not there",
    "not": "is there and does not satisfy what is inside",
}
_NAMES = ", ".join(sorted(ALL_OPERATORS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """Something wrong in a block."""

    path: At  # where in the block; the last is the key or position that is wrong
    code: str  # stable, for example unknown-operator
    message: str  # what was found and what is allowed
    hint: str = ""  # what to do


def compile_block(source: object) -> tuple[Block, tuple[Flaw, ...]]:
    """The block that ``source``, as it comes from YAML, describes, and all that is wrong with it.

    Where there are flaws the block leaves out what they touch and must not be used. ``source`` is
    kept for explanations and must not be changed afterwards.
    """
    compiler = _Compiler()
    block = compiler.block(source, ())
    return block, tuple(compiler.flaws)


class _Compiler:
    """One run over one block; ``at`` is the place that the caller has come to."""

    def __init__(self) -> None:
        self.flaws: list[Flaw] = []

    def flaw(self, at: At, code: str, message: str, hint: str = "") -> None:
        self.flaws.append(Flaw(path=at, code=code, message=message, hint=hint))

    def block(self, source: object, at: At) -> Block:
        if not isinstance(source, Mapping):
            self.flaw(at, "bad-block", f"a block maps paths to conditions; this is {describe(source)}")
            return Block()
        if self.too_deep(at):
            return Block()
        parts: list[Condition | Combination] = []
        for key, value in source.items():
            here = (*at, key)
            if key in COMBINATORS:
                parts.append(self.combination(key, value, here))
            elif (condition := self.condition(key, value, here)) is not None:
                parts.append(condition)
        return Block(tuple(parts), source)

    def combination(self, operator: str, source: object, at: At) -> Combination:
        hint = rf"for a payload field of that name write \{operator}"
        if operator == NOT:
            if not isinstance(source, Mapping):
                self.flaw(at, "bad-block", f"not takes one block, not {describe(source)}", hint)
                return Combination(operator, (), source, lambda _: False)
            inner = self.block(source, at)
            return Combination(operator, (inner,), source, lambda payload: not inner.holds(payload))
        if not isinstance(source, list) or not source:
            self.flaw(at, "bad-block", f"{operator} takes a list of blocks, not {describe(source)}", hint)
            return Combination(operator, (), source, lambda _: False)
        blocks = tuple(self.block(item, (*at, position)) for position, item in enumerate(source))
        tests = tuple(block.holds for block in blocks)
        if operator == ANY:
            return Combination(operator, blocks, source, lambda p: any(test(p) for test in tests))
        return Combination(operator, blocks, source, lambda p: all(test(p) for test in tests))

    def condition(self, key: object, source: object, at: At) -> Condition | None:
        path = self.path(key, at)
        operators = _operators(source)
        questions: tuple[Question | None, ...]
        if operators.get("exists") is False:
            self.check_alone(operators, at)
            questions, question = (None,) * len(operators), None
        else:
            questions = asked = self.questions(source, operators, at)
            question = together(asked)
        return None if path is None else Condition(path, operators, _test(path, question), questions)

    def check_alone(self, operators: Mapping[str, Any], at: At) -> None:
        others = {name: argument for name, argument in operators.items() if name != "exists"}
        if others:
            names = ", ".join(map(str, others))
            self.flaw(
                (*at, "exists"),
                "exists-with-others",
                f"exists: false beside {names} can never hold: what is not there has no value",
                "ask for either of the two with any: over two blocks",
            )
            self.questions(others, others, at)  # for what else is wrong

    def path(self, key: object, at: At) -> Path | None:
        if not isinstance(key, str):
            self.flaw(at, "bad-path", f"a path is a string, not {describe(key)}", "put it in quotes")
            return None
        try:
            return parse_path(key)
        except ValueError as error:
            self.flaw(at, "bad-path", str(error))
            return None

    def question(self, source: object, at: At) -> Question:
        """A scalar, a list or a mapping of operators, as it stands at a path or inside an operator."""
        if self.too_deep(at):
            return NEVER
        operators = _operators(source)
        if "exists" in operators:
            self.flaw(
                (*at, "exists"),
                "exists-inside",
                "exists asks about the path and cannot stand inside not or any_of",
                "write exists at the path itself, or combine blocks with any: and not:",
            )
            return NEVER
        return together(self.questions(source, operators, at))

    def questions(self, source: object, operators: Mapping[str, Any], at: At) -> tuple[Question, ...]:
        """One question for each operator; a scalar and a list are their own place."""
        spelled = isinstance(source, Mapping)
        if not operators:
            self.flaw(at, "no-operator", "an empty mapping asks nothing", f"operators are {_NAMES}")
        self.check_range(operators, at)
        return tuple(
            self.operator(name, argument, (*at, name) if spelled else at)
            for name, argument in operators.items()
        )

    def operator(self, name: object, argument: object, at: At) -> Question:
        if name == "exists":
            return self.exists(argument, at)
        if name == "any_of":
            return self.any_of(argument, at)
        if name == "not":
            return negation(self.question(argument, at))
        operator = OPERATORS.get(name) if isinstance(name, str) else None
        if operator is None:
            self.unknown(name, at)
            return NEVER
        try:
            return plain(operator.compile(argument))
        except ValueError as error:
            self.flaw(at, "bad-argument", str(error))
            return NEVER

    def exists(self, argument: object, at: At) -> Question:
        if argument is not True:
            self.flaw(at, "bad-argument", f"exists takes true or false, not {describe(argument)}")
        return ALWAYS  # only asked where there is a value

    def any_of(self, argument: object, at: At) -> Question:
        if not isinstance(argument, list):
            self.flaw(at, "bad-argument", f"any_of takes a list, not {describe(argument)}")
            return NEVER
        if not argument:
            self.flaw(at, "bad-argument", "an empty list could never hold")
            return NEVER
        scalars, questions = [], []
        for position, item in enumerate(argument):
            here = (*at, position)
            if is_scalar(item):
                scalars.append(item)
            elif isinstance(item, Mapping):
                questions.append(self.question(item, here))
            else:
                self.flaw(
                    here, "bad-argument", f"a list holds scalars and operator mappings, not {describe(item)}"
                )
        if scalars:
            questions.append(plain(one_of(scalars)))
        return either(tuple(questions))

    def unknown(self, name: object, at: At) -> None:
        near = difflib.get_close_matches(str(name), ALL_OPERATORS, n=1)
        above = at[-2]  # usually the path; an operator is never at the top
        if near:
            hint = f"did you mean {near[0]!r}?"
        elif isinstance(above, str) and above not in ALL_OPERATORS:
            hint = f"for a field inside {above} write {above}.{name}"
        else:
            hint = ""
        self.flaw(at, "unknown-operator", f"there is no operator {name!r}; there are {_NAMES}", hint)

    def check_range(self, operators: Mapping[str, Any], at: At) -> None:
        """A range that no number is in; bad bounds are reported elsewhere."""
        for low in ("gt", "gte"):
            for high in ("lt", "lte"):
                least, most = operators.get(low), operators.get(high)
                if not (is_number(least) and is_number(most)):
                    continue
                if least > most or (least == most and (low, high) != ("gte", "lte")):
                    self.flaw(
                        (*at, high), "empty-range", f"no number is both {low} {least} and {high} {most}"
                    )

    def too_deep(self, at: At) -> bool:
        if len(at) <= DEEPEST:
            return False
        self.flaw(at, "too-deep", f"conditions are nested more than {DEEPEST} levels deep")
        return True


def _operators(source: object) -> Mapping[str, Any]:
    """A condition in its long form."""
    if isinstance(source, Mapping):
        return source
    return {"any_of": source} if isinstance(source, list) else {"equals": source}


def _test(path: Path, question: Question | None) -> Callable[[Mapping[str, Any]], bool]:
    """Whether ``path`` leads somewhere in a payload and what is there answers the question; None: nowhere."""
    if question is None:
        return lambda payload: not resolve(payload, path)
    one = question.one

    def through_lists(payload: Mapping[str, Any]) -> bool:
        found = resolve(payload, path)
        return bool(found) and question.among(flatten(found))

    def test(payload: Mapping[str, Any]) -> bool:
        value: Any = payload
        for key in path:  # the common way: mappings all along
            if not isinstance(value, dict):
                return through_lists(payload)
            if key not in value:
                return False
            value = value[key]
        return through_lists(payload) if isinstance(value, list) else one(value)

    return test
