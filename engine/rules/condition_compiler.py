"""Compile the ``when`` of a rule to conditions, and report every error in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from ..model.problems import Diagnostic
from ..model.wording import nearest
from .conditions import (
    ALWAYS,
    NEVER,
    Block,
    Combination,
    Condition,
    ConditionResult,
    ValueTest,
    all_hold,
    all_of,
    any_of,
    element_test,
    negated,
    negation,
    one_holds,
    path_test,
    whole_value_test,
)
from .operators import (
    IGNORE_CASE,
    OPERATORS,
    ArgumentError,
    between,
    casefolded,
    describe,
    ignoring_case,
    is_number,
    is_scalar,
    length_of,
    one_of,
)
from .paths import ANY, COMBINATORS, NOT, FieldPath, flatten, parse_path

At = tuple[str | int, ...]  # keys and list positions inside a block as written

MAX_DEPTH = 64  # keys and positions from the top of a block to its innermost condition

# Name -> description, completing "holds when the value ...": all that may stand in a mapping.
ALL_OPERATORS: dict[str, str] = {
    **{operator.name: operator.description for operator in OPERATORS.values()},
    "any_of": "equals one of these, or satisfies one of the operator mappings among them",
    "exists": "true: is there, null included; false: is not there",
    "length": "is a string of this many characters, or a list of this many elements",
    "not": "is there and does not satisfy what is inside",
    "some": "is a list with an element that satisfies this block, whose paths start at the element",
    IGNORE_CASE: "does so when case is ignored: beside operators that compare strings",
}
_NAMES = ", ".join(sorted(ALL_OPERATORS))
_BOUNDS = ("equals", "gt", "gte", "lt", "lte")  # what length may be asked


def compile_block(source: object) -> tuple[Block, tuple[Diagnostic, ...]]:
    """The block that ``source``, as it comes from YAML, describes, and all that is wrong with it.

    Where there are flaws the block leaves out what they touch and must not be used. ``source`` is
    kept for explanations and must not be changed afterwards.
    """
    compiler = _ConditionCompiler()
    block = compiler.block(source, ())
    return block, tuple(compiler.flaws)


class ValueTestCompiler(ABC):
    """One run over one block; ``at`` is the place that the caller has come to."""

    def __init__(self) -> None:
        self.flaws: list[Diagnostic] = []

    def report(self, at: At, code: str, message: str, hint: str = "") -> None:
        at_key = code == "bad-path"  # the path is the key
        self.flaws.append(Diagnostic(path=at, code=code, message=message, hint=hint, at_key=at_key))

    def question(self, source: object, at: At, *, fold: bool) -> ValueTest:
        """A scalar, a list or a mapping of operators, as it stands inside an operator."""
        if self.too_deep(at):
            return NEVER
        operators = normalise(source)
        if "exists" in operators:
            self.report(
                (*at, "exists"),
                "exists-inside",
                "exists asks about the path and cannot stand inside not or any_of",
                "write exists at the path itself, or combine blocks with any: and not:",
            )
            return NEVER
        return self.operators(source, operators, at, fold=fold)

    def operators(self, source: object, operators: Mapping[str, Any], at: At, *, fold: bool) -> ValueTest:
        """All operators of a mapping together; a scalar and a list are their own place."""
        spelled = isinstance(source, Mapping)
        if not operators:
            self.report(at, "missing-operator", "an empty mapping asks nothing", f"operators are {_NAMES}")
        if IGNORE_CASE in operators:
            self.check_ignore_case(operators, at)
            fold = True
        for name, words in empty_ranges(operators):
            self.report((*at, name), "empty-range", words)
        questions = tuple(
            self.operator(name, argument, (*at, name) if spelled else at, fold=fold)
            for name, argument in operators.items()
            if name != IGNORE_CASE
        )
        if len(questions) == len(operators) == 1:
            return questions[0]
        return all_of(operators, questions, between(operators))

    def operator(self, name: object, argument: object, at: At, *, fold: bool) -> ValueTest:
        if name in _STRUCTURAL:
            return _STRUCTURAL[name](self, argument, at, fold)
        operator = OPERATORS.get(name) if isinstance(name, str) else None
        if operator is None:
            self.unknown_name(name, at)
            return NEVER
        compile_ = operator.folded if fold and operator.folded else operator.compile
        try:
            predicate = compile_(argument)
        except ArgumentError as error:
            here = at if error.position is None else (*at, error.position)
            self.report(here, "bad-argument", str(error))
            return NEVER
        return (whole_value_test if operator.tests_whole_value else element_test)(
            operator.name, argument, predicate
        )

    def exists(self, argument: object, at: At, _fold: bool) -> ValueTest:
        if argument is not True:
            self.report(at, "bad-argument", f"exists takes true or false, not {describe(argument)}")
        return ALWAYS  # only asked where there is a value

    def any_of(self, argument: object, at: At, fold: bool) -> ValueTest:
        if not isinstance(argument, list):
            self.report(at, "bad-argument", f"any_of takes a list, not {describe(argument)}")
            return NEVER
        if not argument:
            self.report(at, "bad-argument", "an empty list could never hold")
            return NEVER
        scalars, questions = [], []
        for position, item in enumerate(argument):
            here = (*at, position)
            if is_scalar(item):
                scalars.append(item)
            elif isinstance(item, Mapping):
                questions.append(self.question(item, here, fold=fold))
            else:
                self.report(
                    here, "bad-argument", f"a list holds scalars and operator mappings, not {describe(item)}"
                )
        if scalars:
            known = one_of(casefolded(scalars) if fold else scalars)
            expected = argument if len(scalars) == len(argument) else scalars
            questions.append(element_test("any_of", expected, ignoring_case(known) if fold else known))
        if scalars and len(questions) == 1:
            return questions[0]
        return any_of("any_of", argument, tuple(questions))

    def negation(self, argument: object, at: At, fold: bool) -> ValueTest:
        return negation(argument, self.question(argument, at, fold=fold))

    def length(self, argument: object, at: At, _fold: bool) -> ValueTest:
        spelled = isinstance(argument, Mapping)
        bounds: Mapping[Any, Any] = argument if isinstance(argument, Mapping) else {"equals": argument}
        if not bounds:
            self.report(
                at, "missing-operator", "an empty mapping asks nothing", f"length takes {', '.join(_BOUNDS)}"
            )
        sound = {}
        for name, bound in bounds.items():
            here = (*at, name) if spelled else at
            if name not in _BOUNDS:
                hint = nearest(name, _BOUNDS)
                self.report(
                    here, "unknown-operator", f"length takes {', '.join(_BOUNDS)}, not {name!r}", hint
                )
            elif not isinstance(bound, int) or isinstance(bound, bool) or bound < 0:
                words = f"a length is a whole number, 0 or more, not {describe(bound)}"
                self.report(here, "bad-argument", words)
            else:
                sound[name] = bound
        if len(sound) == len(bounds) and (words := empty_length(bounds)):
            self.report(at, "empty-range", words)
        return whole_value_test("length", argument, length_of(sound))

    @abstractmethod
    def some(self, argument: object, at: At, _fold: bool) -> ValueTest:
        """The question that asks elements a block of conditions, which only a compiler of blocks knows."""

    def unknown_name(self, name: object, at: At) -> None:
        near = get_close_matches(str(name), ALL_OPERATORS, n=1, cutoff=0.7)
        above = at[-2]  # usually the path; an operator is never at the top
        if near:
            hint = f"did you mean {near[0]!r}?"
        elif isinstance(above, str) and above not in ALL_OPERATORS:
            hint = f"for a field inside {above} write {above}.{name}"
        else:
            hint = ""
        self.report(at, "unknown-operator", f"there is no operator {name!r}; there are {_NAMES}", hint)

    def check_ignore_case(self, operators: Mapping[str, Any], at: At) -> None:
        here = (*at, IGNORE_CASE)
        if operators[IGNORE_CASE] is not True:
            words = f"ignore_case takes true, not {describe(operators[IGNORE_CASE])}"
            self.report(here, "bad-argument", words, "leave it out where case counts")
        elif not compares_strings(operators):
            names = ", ".join(name for name, operator in OPERATORS.items() if operator.folded)
            words = f"ignore_case changes nothing here: beside it stands none of {names} with text to compare"
            self.report(here, "bad-argument", words)

    def too_deep(self, at: At) -> bool:
        if len(at) <= MAX_DEPTH:
            return False
        self.report(at, "too-deep", f"conditions are nested more than {MAX_DEPTH} levels deep")
        return True


class _ConditionCompiler(ValueTestCompiler):
    """Blocks, and the paths of conditions."""

    def block(self, source: object, at: At) -> Block:
        if not isinstance(source, Mapping):
            self.report(
                at, "invalid-condition-block", f"a block maps paths to conditions; this is {describe(source)}"
            )
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
                self.report(
                    at, "invalid-condition-block", f"not takes one block, not {describe(source)}", hint
                )
                return Combination(operator, (), source, lambda _: False)
            inner = self.block(source, at)
            return Combination(operator, (inner,), source, negated(inner.test))
        if not isinstance(source, list) or not source:
            self.report(
                at,
                "invalid-condition-block",
                f"{operator} takes a list of blocks, not {describe(source)}",
                hint,
            )
            return Combination(operator, (), source, lambda _: False)
        blocks = tuple(self.block(item, (*at, position)) for position, item in enumerate(source))
        join = one_holds if operator == ANY else all_hold
        return Combination(operator, blocks, source, join([block.test for block in blocks]))

    def condition(self, key: object, source: object, at: At) -> Condition | None:
        path = self.path(key, at)
        operators = normalise(source)
        question: ValueTest | None = None
        if operators.get("exists") is False:
            self.check_alone(operators, at)
        else:
            question = self.operators(source, operators, at, fold=False)
        return None if path is None else Condition(path, operators, question, path_test(path, question))

    def check_alone(self, operators: Mapping[str, Any], at: At) -> None:
        others = {name: argument for name, argument in operators.items() if name != "exists"}
        if others:
            names = ", ".join(map(str, others))
            self.report(
                (*at, "exists"),
                "exists-with-others",
                f"exists: false beside {names} can never hold: what is not there has no value",
                "ask for either of the two with any: over two blocks",
            )
            self.operators(others, others, at, fold=False)  # for what else is wrong

    def path(self, key: object, at: At) -> FieldPath | None:
        if not isinstance(key, str):
            self.report(at, "bad-path", f"a path is a string, not {describe(key)}", "put it in quotes")
            return None
        try:
            return parse_path(key)
        except ValueError as error:
            self.report(at, "bad-path", str(error))
            return None

    def some(self, argument: object, at: At, _fold: bool) -> ValueTest:
        if not isinstance(argument, Mapping):
            self.report(
                at, "invalid-condition-block", f"some takes a block of conditions, not {describe(argument)}"
            )
            return NEVER
        block = self.block(argument, at)
        test = block.test

        def holds(value: object) -> bool:
            return isinstance(value, list) and any(map(test, flatten(value)))

        def findings(found: Sequence[Any]) -> tuple[ConditionResult, ...]:
            """Those of the element that comes nearest."""
            elements = flatten(value for value in found if isinstance(value, list))
            each = (block.explain(element) for element in elements)
            return max(each, key=_share, default=())

        return whole_value_test("some", argument, holds, findings)


def _share(findings: tuple[ConditionResult, ...]) -> float:
    """How much of a block holds."""
    return sum(finding.holds for finding in findings) / len(findings) if findings else 1.0


def normalise(source: object) -> Mapping[str, Any]:
    """A condition in its long form."""
    if isinstance(source, Mapping):
        return source
    return {"any_of": source} if isinstance(source, list) else {"equals": source}


def empty_ranges(operators: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Of bounds between which no number is: the upper one's name, and what is wrong, in words."""
    for low in ("gt", "gte"):
        for high in ("lt", "lte"):
            least, most = operators.get(low), operators.get(high)
            if not (is_number(least) and is_number(most)):
                continue  # a bad bound is reported where it is compiled
            if least > most or (least == most and (low, high) != ("gte", "lte")):
                yield high, f"no number is both {low} {least} and {high} {most}"


def empty_length(bounds: Mapping[str, int]) -> str:
    """Why no length is within ``bounds``, in words; "" where one is."""
    exact = [bounds["equals"]] if "equals" in bounds else []
    least = max(0, bounds.get("gte", 0), bounds.get("gt", -1) + 1, *exact)
    most = [*exact, *(bounds[name] - (name == "lt") for name in ("lt", "lte") if name in bounds)]
    if not most or least <= min(most):
        return ""
    return f"no length is {' and '.join(f'{name} {bound}' for name, bound in bounds.items())}"


def compares_strings(operators: Mapping[str, Any]) -> bool:
    """Whether case could make a difference to one of ``operators``, or to what is inside them."""
    pending: list[Any] = [operators]  # not recursive: it runs before the depth is checked
    while pending:
        asked = pending.pop()
        if isinstance(asked, str):
            return True
        if isinstance(asked, list):
            pending.extend(asked)
        elif isinstance(asked, Mapping):
            for name, argument in asked.items():
                if name in ("equals", "any_of", "not"):
                    pending.append(argument)
                elif name in OPERATORS and OPERATORS[name].folded:
                    return True
    return False


# The operators that contain conditions, or ask about more than one value; _fold: ignoring case.
_STRUCTURAL: dict[object, Callable[[ValueTestCompiler, object, At, bool], ValueTest]] = {
    "any_of": ValueTestCompiler.any_of,
    "exists": ValueTestCompiler.exists,
    "length": ValueTestCompiler.length,
    "not": ValueTestCompiler.negation,
    "some": lambda compiler, *given: compiler.some(*given),
}
