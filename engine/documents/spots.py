"""What stands where in a text, and what is wrong where: offsets, before they are places in a file."""

from __future__ import annotations

from dataclasses import dataclass


class SourceMap:
    """Where a mapping or a list and all inside it stand: offsets into the text.

    A scalar is its bare offset. A tree beside the data costs a fraction of a dict from path to
    place, and an alias shares its part of it as it shares its value.
    """

    __slots__ = ("keys", "start", "values")

    def __init__(self, start: int) -> None:
        self.start = start
        self.keys: dict[str, int] = {}  # of a mapping
        self.values: dict[str, Spot] | list[Spot] = {}


Spot = SourceMap | int


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentDiagnostic:
    """Something wrong in a text."""

    offset: int
    code: str  # stable, for example duplicate-key
    message: str  # what was found
    path: tuple[str | int, ...] = ()  # keys and list positions from the root
    hint: str = ""  # what to do
