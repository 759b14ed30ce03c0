"""From the ``when`` of a rule as written to a tree of conditions, with all that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .conditions import Block, Combination, Condition
from .operators import describe
from .paths import ANY, COMBINATORS, NOT, FieldPath, flatten, parse_path
from .question_compiler import ALL_OPERATORS, MAX_DEPTH, At, Diagnostic, ValueTestCompiler, normalise
from .questions import NEVER, ConditionResult, ValueTest, all_hold, negated, one_holds, whole_value_test
from .readings import path_test

__all__ = ["ALL_OPERATORS", "MAX_DEPTH", "At", "Diagnostic", "compile_block"]


def compile_block(source: object) -> tuple[Block, tuple[Diagnostic, ...]]:
    """The block that ``source``, as it comes from YAML, describes, and all that is wrong with it.

    Where there are flaws the block leaves out what they touch and must not be used. ``source`` is
    kept for explanations and must not be changed afterwards.
    """
    compiler = _ConditionCompiler()
    block = compiler.block(source, ())
    return block, tuple(compiler.flaws)


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
        return (
            None
            if path is None
            else Condition(path, operators, question, path_test(path, question, operators))
        )

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
