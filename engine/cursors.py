"""A value in a document, and complaints about it that know their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from . import documents
from .documents import Document
from .model import Place, Problem
from .spelling import nearest


@dataclass(frozen=True, slots=True)
class DocumentNode:
    """A value in a document and the way to it: ``cursor / key`` goes one step further."""

    document: Document
    path: documents.DocumentPath
    value: Any

    def __truediv__(self, step: str | int) -> DocumentNode:
        return DocumentNode(self.document, (*self.path, step), self.value[step])

    def below(self, path: documents.DocumentPath) -> DocumentNode:
        """The place ``path`` further in, of which only the place matters."""
        return DocumentNode(self.document, (*self.path, *path), None)

    def get(self, key: str) -> DocumentNode | None:
        return self / key if isinstance(self.value, dict) and key in self.value else None

    def items(self) -> Iterator[DocumentNode]:
        """The values of a mapping or a list."""
        keys = range(len(self.value)) if isinstance(self.value, list) else list(self.value)
        return (self / key for key in keys)

    def each(self) -> Iterator[DocumentNode]:
        """The entries where it is a list, else itself: what may be written as one or as several."""
        return self.items() if isinstance(self.value, list) else iter((self,))

    @property
    def name(self) -> str:
        """The last step: the key under which the value stands."""
        return str(self.path[-1])

    @property
    def place(self) -> Place:
        return self.document.place(self.path)

    @property
    def key_place(self) -> Place:
        return self.document.key_place(self.path)


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """Collects problems."""

    problems: list[Problem] = field(default_factory=list)

    def add(
        self,
        cursor: DocumentNode,
        code: str,
        message: str,
        *,
        hint: str = "",
        severity: str = "error",
        at_key: bool = False,
    ) -> None:
        self.problems.append(
            Problem(
                place=cursor.key_place if at_key else cursor.place,
                pointer=documents.pointer(cursor.path),
                code=code,
                message=message,
                hint=hint,
                severity=severity,
            )
        )

    def unknown_name(
        self, cursor: DocumentNode, what: str, allowed: Iterable[str], *, at_key: bool = False
    ) -> None:
        """``cursor``, or its key, names something that is not there; says what is, and what may be meant."""
        names = sorted(allowed)
        name = cursor.name if at_key else cursor.value
        self.add(
            cursor,
            f"unknown-{what}",
            f"unknown {what} {name!r}; there are: {', '.join(names) or 'none'}",
            hint=nearest(name, names),
            at_key=at_key,
        )
