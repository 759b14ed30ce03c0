"""The ``when`` of a rule, compiled once into a tree that is read in two ways.

``Block.holds`` decides, ``Block.explain`` says why; both read the same compiled questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .paths import ALL, ANY, NOT, FieldPath, format_path, resolve
from .questions import ConditionResult, ValueTest

__all__ = ["Block", "Combination", "Condition", "ConditionResult"]


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
