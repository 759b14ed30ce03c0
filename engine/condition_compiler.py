"""From the ``when`` of a rule as written to a tree of conditions, with all that is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from .conditions import Block, Combination, Condition, reading
from .contradictions import compares_strings, empty_length, empty_ranges
from .operators import (
    OPERATORS,
    ArgumentError,
    casefolded,
    describe,
    ignoring_case,
    is_scalar,
    one_of,
)
from .paths import ANY, COMBINATORS, NOT, Path, flatten, parse_path
from .questions import ALWAYS, NEVER, Finding, Question, either, itself, negation, plain, together
from .spelling import nearest

At = tuple[str | int, ...]  # keys and list positions inside a block as written

DEEPEST = 64  # keys and positions from the top of a block to its innermost condition

IGNORE_CASE = "ignore_case"

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
        question: Question | None = None
        if operators.get("exists") is False:
            self.check_alone(operators, at)
        else:
            question = self.operators(source, operators, at, fold=False)
        return None if path is None else Condition(path, operators, question, reading(path, question))

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
            self.operators(others, others, at, fold=False)  # for what else is wrong

    def path(self, key: object, at: At) -> Path | None:
        if not isinstance(key, str):
            self.flaw(at, "bad-path", f"a path is a string, not {describe(key)}", "put it in quotes")
            return None
        try:
            return parse_path(key)
        except ValueError as error:
            self.flaw(at, "bad-path", str(error))
            return None

    def question(self, source: object, at: At, *, fold: bool) -> Question:
        """A scalar, a list or a mapping of operators, as it stands inside an operator."""
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
        return self.operators(source, operators, at, fold=fold)

    def operators(self, source: object, operators: Mapping[str, Any], at: At, *, fold: bool) -> Question:
        """All operators of a mapping together; a scalar and a list are their own place."""
        spelled = isinstance(source, Mapping)
        if not operators:
            self.flaw(at, "no-operator", "an empty mapping asks nothing", f"operators are {_NAMES}")
        if IGNORE_CASE in operators:
            self.check_ignore_case(operators, at)
            fold = True
        for name, words in empty_ranges(operators):
            self.flaw((*at, name), "empty-range", words)
        questions = tuple(
            self.operator(name, argument, (*at, name) if spelled else at, fold=fold)
            for name, argument in operators.items()
            if name != IGNORE_CASE
        )
        return questions[0] if len(questions) == len(operators) == 1 else together(operators, questions)

    def operator(self, name: object, argument: object, at: At, *, fold: bool) -> Question:
        if name in _STRUCTURAL:
            return _STRUCTURAL[name](self, argument, at, fold)
        operator = OPERATORS.get(name) if isinstance(name, str) else None
        if operator is None:
            self.unknown(name, at)
            return NEVER
        compile_ = operator.folded if fold and operator.folded else operator.compile
        try:
            predicate = compile_(argument)
        except ArgumentError as error:
            here = at if error.position is None else (*at, error.position)
            self.flaw(here, "bad-argument", str(error))
            return NEVER
        return (itself if operator.itself else plain)(operator.name, argument, predicate)

    def exists(self, argument: object, at: At, _fold: bool) -> Question:
        if argument is not True:
            self.flaw(at, "bad-argument", f"exists takes true or false, not {describe(argument)}")
        return ALWAYS  # only asked where there is a value

    def any_of(self, argument: object, at: At, fold: bool) -> Question:
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
                questions.append(self.question(item, here, fold=fold))
            else:
                self.flaw(
                    here, "bad-argument", f"a list holds scalars and operator mappings, not {describe(item)}"
                )
        if scalars:
            known = one_of(casefolded(scalars) if fold else scalars)
            expected = argument if len(scalars) == len(argument) else scalars
            questions.append(plain("any_of", expected, ignoring_case(known) if fold else known))
        if scalars and len(questions) == 1:
            return questions[0]
        return either("any_of", argument, tuple(questions))

    def negation(self, argument: object, at: At, fold: bool) -> Question:
        return negation(argument, self.question(argument, at, fold=fold))

    def length(self, argument: object, at: At, _fold: bool) -> Question:
        spelled = isinstance(argument, Mapping)
        bounds: Mapping[Any, Any] = argument if isinstance(argument, Mapping) else {"equals": argument}
        if not bounds:
            self.flaw(
                at, "no-operator", "an empty mapping asks nothing", f"length takes {', '.join(_BOUNDS)}"
            )
        predicates = []
        for name, bound in bounds.items():
            here = (*at, name) if spelled else at
            if name not in _BOUNDS:
                hint = nearest(name, _BOUNDS)
                self.flaw(here, "unknown-operator", f"length takes {', '.join(_BOUNDS)}, not {name!r}", hint)
            elif not isinstance(bound, int) or isinstance(bound, bool) or bound < 0:
                words = f"a length is a whole number, 0 or more, not {describe(bound)}"
                self.flaw(here, "bad-argument", words)
            else:
                predicates.append(OPERATORS[name].compile(bound))
        if len(predicates) == len(bounds) and (words := empty_length(bounds)):
            self.flaw(at, "empty-range", words)
        return itself(
            "length",
            argument,
            lambda value: isinstance(value, str | list) and all(holds(len(value)) for holds in predicates),
        )

    def some(self, argument: object, at: At, _fold: bool) -> Question:
        if not isinstance(argument, Mapping):
            self.flaw(at, "bad-block", f"some takes a block of conditions, not {describe(argument)}")
            return NEVER
        block = self.block(argument, at)

        def holds(value: object) -> bool:
            return isinstance(value, list) and any(map(block.holds, flatten(value)))

        def findings(found: Sequence[Any]) -> tuple[Finding, ...]:
            """Those of the element that comes nearest."""
            elements = flatten(value for value in found if isinstance(value, list))
            each = (block.explain(element) for element in elements)
            return max(each, key=_share, default=())

        return itself("some", argument, holds, findings)

    def unknown(self, name: object, at: At) -> None:
        near = get_close_matches(str(name), ALL_OPERATORS, n=1, cutoff=0.7)
        above = at[-2]  # usually the path; an operator is never at the top
        if near:
            hint = f"did you mean {near[0]!r}?"
        elif isinstance(above, str) and above not in ALL_OPERATORS:
            hint = f"for a field inside {above} write {above}.{name}"
        else:
            hint = ""
        self.flaw(at, "unknown-operator", f"there is no operator {name!r}; there are {_NAMES}", hint)

    def check_ignore_case(self, operators: Mapping[str, Any], at: At) -> None:
        here = (*at, IGNORE_CASE)
        if operators[IGNORE_CASE] is not True:
            words = f"ignore_case takes true, not {describe(operators[IGNORE_CASE])}"
            self.flaw(here, "bad-argument", words, "leave it out where case counts")
        elif not compares_strings(operators):
            names = ", ".join(name for name, operator in OPERATORS.items() if operator.folded)
            words = f"ignore_case changes nothing here: beside it stands none of {names} with text to compare"
            self.flaw(here, "bad-argument", words)

    def too_deep(self, at: At) -> bool:
        if len(at) <= DEEPEST:
            return False
        self.flaw(at, "too-deep", f"conditions are nested more than {DEEPEST} levels deep")
        return True


# The operators that contain conditions, or ask about more than one value; _fold: ignoring case.
_STRUCTURAL: dict[object, Callable[[_Compiler, object, At, bool], Question]] = {
    "any_of": _Compiler.any_of,
    "exists": _Compiler.exists,
    "length": _Compiler.length,
    "not": _Compiler.negation,
    "some": _Compiler.some,
}


def _operators(source: object) -> Mapping[str, Any]:
    """A condition in its long form."""
    if isinstance(source, Mapping):
        return source
    return {"any_of": source} if isinstance(source, list) else {"equals": source}


def _share(findings: tuple[Finding, ...]) -> float:
    """How much of a block holds."""
    return sum(finding.holds for finding in findings) / len(findings) if findings else 1.0
