"""The ``when`` of a rule, compiled once into a tree that is read in two ways.

``Block.holds`` decides, ``Block.explain`` says why; both read the same compiled conditions.

What a path leads to may be several values (it goes into the elements of lists), and a value may be
a list, whose elements count, those of nested lists too. Operators in one mapping are asked of one
element together, but ``not`` of all of them, wherever it stands: a mapping holds for less, never
for more, when an operator is added to it, and a list of alternatives holds where one of them does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .paths import ALL, ANY, NOT, Path, flatten, format_path, resolve
from .questions import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How one condition came out. A block holds when every finding of it holds."""

    path: str  # as written in rules; "" for any, all and not over blocks
    operator: str  # "all" where several operators are asked together, and for a block
    expected: Any  # the operator's argument as written
    actual: Any = None  # what the path leads to: a list where that is several values; None where nothing
    present: bool = True  # whether the path leads anywhere; tells an absent value from a null
    holds: bool
    inside: tuple[Finding, ...] = ()  # of blocks and of several operators: one by one, on its own


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """What is asked of the values at one path."""

    path: Path
    operators: Mapping[str, Any]  # as written, a scalar being ``equals`` and a list ``any_of``
    test: Callable[[Mapping[str, Any]], bool]
    questions: tuple[Question | None, ...]  # per operator; None is ``exists: false``

    def explain(self, payload: Mapping[str, Any]) -> Finding:
        found = resolve(payload, self.path)
        elements = flatten(found)

        def finding(operator: str, expected: Any, holds: bool, inside: tuple[Finding, ...] = ()) -> Finding:
            return Finding(
                path=format_path(self.path),
                operator=operator,
                expected=expected,
                actual=found[0] if len(found) == 1 else found or None,
                present=bool(found),
                holds=holds,
                inside=inside,
            )

        inside = tuple(
            finding(
                name, argument, not found if question is None else bool(found) and question.among(elements)
            )
            for (name, argument), question in zip(self.operators.items(), self.questions, strict=True)
        )
        return inside[0] if len(inside) == 1 else finding(ALL, self.operators, self.test(payload), inside)


@dataclass(frozen=True, slots=True, eq=False)
class Combination:
    """``any``, ``all`` or ``not`` over blocks."""

    operator: str
    blocks: tuple[Block, ...]
    source: Any  # as written
    test: Callable[[Mapping[str, Any]], bool]

    def explain(self, payload: Mapping[str, Any]) -> Finding:
        inside = tuple(block.finding(payload) for block in self.blocks)
        outcomes = [finding.holds for finding in inside]
        holds = {ANY: any(outcomes), ALL: all(outcomes), NOT: not all(outcomes)}[self.operator]
        return Finding(path="", operator=self.operator, expected=self.source, holds=holds, inside=inside)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Conditions of which all must hold; without any it always holds."""

    parts: tuple[Condition | Combination, ...] = ()
    source: Any = None  # as written

    def holds(self, payload: Mapping[str, Any]) -> bool:
        for part in self.parts:  # noqa: SIM110 - half the time of all() over a generator
            if not part.test(payload):
                return False
        return True

    def explain(self, payload: Mapping[str, Any]) -> tuple[Finding, ...]:
        """One finding for each part, also after the first that does not hold."""
        return tuple(part.explain(payload) for part in self.parts)

    def finding(self, payload: Mapping[str, Any]) -> Finding:
        """The block as one finding."""
        inside = self.explain(payload)
        if len(inside) == 1:
            return inside[0]
        holds = all(finding.holds for finding in inside)
        return Finding(path="", operator=ALL, expected=self.source, holds=holds, inside=inside)

    def conditions(self) -> Iterator[Condition]:
        """Every condition, those of inner blocks too, in the order of writing."""
        for part in self.parts:
            if isinstance(part, Condition):
                yield part
            else:
                for block in part.blocks:
                    yield from block.conditions()

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every path that is asked about, each once."""
        return tuple(dict.fromkeys(condition.path for condition in self.conditions()))
