"""Compile the ``when`` of a rule to conditions, and report every error in it."""

from __future__ import annotations

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

# Every key of an operator mapping, with a description that completes "holds when the value ...".
ALL_OPERATORS: dict[str, str] = {
    **{operator.name: operator.description for operator in OPERATORS.values()},
    "any_of": "equals one of these, or satisfies one of the operator mappings among them",
    "exists": "true: is there, null included; false: is not there",
    "length": "is a string of this many characters, or a list of this many elements",
    "not": "is there and does not satisfy what is inside",
    "some": "is a list with an element that satisfies this block, whose paths start at the element",
    IGNORE_CASE: "does so when case is ignored: together with operators that compare strings",
}
_NAMES = ", ".join(sorted(ALL_OPERATORS))
_BOUNDS = ("equals", "gt", "gte", "lt", "lte")  # the operators of length


def compile_block(source: object) -> tuple[Block, tuple[Diagnostic, ...]]:
    """Compile ``source``, as read from YAML, and return the block with every error in it.

    A block with errors lacks the conditions concerned and must not be used. The block keeps ``source`` for
    explanations; do not change it afterwards.
    """
    compiler = _ConditionCompiler()
    block = compiler.block(source, ())
    return block, tuple(compiler.diagnostics)


class _ConditionCompiler:
    """The compiler of one block. ``at`` is the place inside it."""

    def __init__(self) -> None:
        self.diagnostics: list[Diagnostic] = []

    def report(self, at: At, code: str, message: str, hint: str = "") -> None:
        at_key = code == "bad-path"  # the path is the key
        self.diagnostics.append(Diagnostic(path=at, code=code, message=message, hint=hint, at_key=at_key))

    def value_test(self, source: object, at: At, *, fold: bool) -> ValueTest:
        """Compile a scalar, a list or a mapping of operators inside another operator."""
        if self.too_deep(at):
            return NEVER
        operators = normalise(source)
        if "exists" in operators:
            self.report(
                (*at, "exists"),
                "exists-inside",
                "exists tests the path and cannot be used inside not or any_of",
                "write exists directly at the path, or combine blocks with any: and not:",
            )
            return NEVER
        return self.operators(source, operators, at, fold=fold)

    def operators(self, source: object, operators: Mapping[str, Any], at: At, *, fold: bool) -> ValueTest:
        """Compile all operators of a condition together."""
        is_mapping = isinstance(source, Mapping)
        if not operators:
            self.report(at, "missing-operator", "an empty mapping tests nothing", f"operators are {_NAMES}")
        if IGNORE_CASE in operators:
            self.check_ignore_case(operators, at)
            fold = True
        for name, message in empty_ranges(operators):
            self.report((*at, name), "empty-range", message)
        tests = tuple(
            self.operator(name, argument, (*at, name) if is_mapping else at, fold=fold)
            for name, argument in operators.items()
            if name != IGNORE_CASE
        )
        if len(tests) == len(operators) == 1:
            return tests[0]
        return all_of(operators, tests, between(operators))

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
        return ALWAYS  # only tested if there is a value

    def any_of(self, argument: object, at: At, fold: bool) -> ValueTest:
        if not isinstance(argument, list):
            self.report(at, "bad-argument", f"any_of takes a list, not {describe(argument)}")
            return NEVER
        if not argument:
            self.report(at, "bad-argument", "an empty list can never hold")
            return NEVER
        scalars, tests = [], []
        for position, item in enumerate(argument):
            here = (*at, position)
            if is_scalar(item):
                scalars.append(item)
            elif isinstance(item, Mapping):
                tests.append(self.value_test(item, here, fold=fold))
            else:
                self.report(
                    here, "bad-argument", f"a list holds scalars and operator mappings, not {describe(item)}"
                )
        if scalars:
            known = one_of(casefolded(scalars) if fold else scalars)
            expected = argument if len(scalars) == len(argument) else scalars
            tests.append(element_test("any_of", expected, ignoring_case(known) if fold else known))
        if scalars and len(tests) == 1:
            return tests[0]
        return any_of("any_of", argument, tuple(tests))

    def negation(self, argument: object, at: At, fold: bool) -> ValueTest:
        return negation(argument, self.value_test(argument, at, fold=fold))

    def length(self, argument: object, at: At, _fold: bool) -> ValueTest:
        is_mapping = isinstance(argument, Mapping)
        bounds: Mapping[Any, Any] = argument if isinstance(argument, Mapping) else {"equals": argument}
        if not bounds:
            self.report(
                at, "missing-operator", "an empty mapping tests nothing", f"length takes {', '.join(_BOUNDS)}"
            )
        sound = {}
        for name, bound in bounds.items():
            here = (*at, name) if is_mapping else at
            if name not in _BOUNDS:
                hint = nearest(name, _BOUNDS)
                self.report(
                    here, "unknown-operator", f"length takes {', '.join(_BOUNDS)}, not {name!r}", hint
                )
            elif not isinstance(bound, int) or isinstance(bound, bool) or bound < 0:
                message = f"a length is a whole number, 0 or more, not {describe(bound)}"
                self.report(here, "bad-argument", message)
            else:
                sound[name] = bound
        if len(sound) == len(bounds) and (message := empty_length(bounds)):
            self.report(at, "empty-range", message)
        return whole_value_test("length", argument, length_of(sound))

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
            message = f"ignore_case takes true, not {describe(operators[IGNORE_CASE])}"
            self.report(here, "bad-argument", message, "remove it to compare with case")
        elif not compares_strings(operators):
            names = ", ".join(name for name, operator in OPERATORS.items() if operator.folded)
            message = f"ignore_case has no effect here: it needs one of {names} with text to compare"
            self.report(here, "bad-argument", message)

    def too_deep(self, at: At) -> bool:
        if len(at) <= MAX_DEPTH:
            return False
        self.report(at, "too-deep", f"conditions are nested more than {MAX_DEPTH} levels deep")
        return True

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
        value_test: ValueTest | None = None
        if operators.get("exists") is False:
            self.check_alone(operators, at)
        else:
            value_test = self.operators(source, operators, at, fold=False)
        return None if path is None else Condition(path, operators, value_test, path_test(path, value_test))

    def check_alone(self, operators: Mapping[str, Any], at: At) -> None:
        others = {name: argument for name, argument in operators.items() if name != "exists"}
        if others:
            names = ", ".join(map(str, others))
            self.report(
                (*at, "exists"),
                "exists-with-others",
                f"exists: false together with {names} can never hold: an absent field has no value",
                "combine the two in separate blocks with any:",
            )
            self.operators(others, others, at, fold=False)  # reports other errors

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

        def explain_elements(found: Sequence[Any]) -> tuple[ConditionResult, ...]:
            """Return the results of the element that satisfies the most conditions."""
            elements = flatten(value for value in found if isinstance(value, list))
            each = (block.explain(element) for element in elements)
            return max(each, key=_share, default=())

        return whole_value_test("some", argument, holds, explain_elements)


def _share(results: tuple[ConditionResult, ...]) -> float:
    """Return the share of the conditions that hold."""
    return sum(result.holds for result in results) / len(results) if results else 1.0


def normalise(source: object) -> Mapping[str, Any]:
    """Return a condition in its long form, as a mapping of operators."""
    if isinstance(source, Mapping):
        return source
    return {"any_of": source} if isinstance(source, list) else {"equals": source}


def empty_ranges(operators: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the upper bound and a message for each pair of bounds without a number between them."""
    for low in ("gt", "gte"):
        for high in ("lt", "lte"):
            least, most = operators.get(low), operators.get(high)
            if not (is_number(least) and is_number(most)):
                continue  # the compilation of the operator reports it
            if least > most or (least == most and (low, high) != ("gte", "lte")):
                yield high, f"no number is both {low} {least} and {high} {most}"


def empty_length(bounds: Mapping[str, int]) -> str:
    """Return a message if no length is within ``bounds``; else ""."""
    exact = [bounds["equals"]] if "equals" in bounds else []
    least = max(0, bounds.get("gte", 0), bounds.get("gt", -1) + 1, *exact)
    most = [*exact, *(bounds[name] - (name == "lt") for name in ("lt", "lte") if name in bounds)]
    if not most or least <= min(most):
        return ""
    return f"no length is {' and '.join(f'{name} {bound}' for name, bound in bounds.items())}"


def compares_strings(operators: Mapping[str, Any]) -> bool:
    """Return whether case can make a difference to one of ``operators`` or of those inside them."""
    pending: list[Any] = [operators]  # not recursive: the depth is not yet checked
    while pending:
        inner = pending.pop()
        if isinstance(inner, str):
            return True
        if isinstance(inner, list):
            pending.extend(inner)
        elif isinstance(inner, Mapping):
            for name, argument in inner.items():
                if name in ("equals", "any_of", "not"):
                    pending.append(argument)
                elif name in OPERATORS and OPERATORS[name].folded:
                    return True
    return False


# The operators that contain conditions, or test more than one value.
_STRUCTURAL: dict[object, Callable[[_ConditionCompiler, object, At, bool], ValueTest]] = {
    "any_of": _ConditionCompiler.any_of,
    "exists": _ConditionCompiler.exists,
    "length": _ConditionCompiler.length,
    "not": _ConditionCompiler.negation,
    "some": _ConditionCompiler.some,
}
