"""A value in a document with its place, and ``${NAME}`` and ``file:PATH`` references.

References are resolved after parsing and inside strings only. So the environment cannot change the
structure of a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ..model.problems import Diagnostic, DocumentPath, Place, Problem
from ..model.wording import nearest
from .yaml import Document

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_FILE = "file:"
_MAX_FILE_BYTES = 64 * 1024  # bytes; a secret, a token, a key

T = TypeVar("T")

ReportProblem = Callable[[DocumentPath, str, str], None]  # path, code, message


@dataclass(frozen=True, slots=True)
class DocumentNode:
    """A value in a document and the way to it: ``cursor / key`` goes one step further."""

    document: Document
    path: DocumentPath
    value: Any

    def __truediv__(self, step: str | int) -> DocumentNode:
        return DocumentNode(self.document, (*self.path, step), self.value[step])

    def below(self, path: DocumentPath) -> DocumentNode:
        """The place ``path`` further in, of which only the place matters."""
        return DocumentNode(self.document, (*self.path, *path), None)

    def get(self, key: str) -> DocumentNode | None:
        return self / key if isinstance(self.value, dict) and key in self.value else None

    def children(self, key: str) -> Iterator[DocumentNode]:
        """Yield the entries of the mapping or list at ``key``; nothing if there is none."""
        below = self.get(key)
        return iter(()) if below is None else below.items()

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
        node: DocumentNode,
        code: str,
        message: str,
        *,
        hint: str = "",
        severity: str = "",
        at_key: bool = False,
    ) -> None:
        """Report a problem with the value at ``node``, or with its key."""
        found = Diagnostic(
            path=node.path, code=code, message=message, hint=hint, severity=severity, at_key=at_key
        )
        self.problems.append(node.document.problem(found))

    def extend(self, node: DocumentNode, found: Iterable[Diagnostic]) -> None:
        """Report problems whose paths begin at ``node``."""
        self.problems.extend(
            node.document.problem(replace(each, path=(*node.path, *each.path))) for each in found
        )

    def check_name(
        self, node: DocumentNode, what: str, allowed: Collection[str], *, at_key: bool = False
    ) -> bool:
        """Return whether the value at ``node``, or its key, is in ``allowed``; report an unknown name."""
        name = node.name if at_key else node.value
        if name in allowed:
            return True
        names = sorted(allowed)
        message = f"unknown {what} {name!r}; there are: {', '.join(names) or 'none'}"
        self.add(node, f"unknown-{what}", message, hint=nearest(name, names), at_key=at_key)
        return False

    def parse(self, node: DocumentNode, parser: Callable[[str], T], code: str) -> T | None:
        """Return the parsed value at ``node``; None, and a problem, if ``parser`` raises ValueError."""
        try:
            return parser(node.value)
        except ValueError as error:
            self.add(node, code, str(error))
            return None

    def resolve(self, node: DocumentNode, environment: Mapping[str, str]) -> Any:
        """Return the value at ``node`` with its references resolved; report those that cannot be."""

        def report(path: DocumentPath, code: str, message: str) -> None:
            self.add(node.below(path), code, message)

        return resolve(node.value, environment, report)


def resolve(value: Any, environment: Mapping[str, str], complain: ReportProblem) -> Any:
    """``value`` with every reference in its strings resolved.

    ``${NAME}`` is an environment variable, ``${NAME:-text}`` has a default, a string that begins
    with ``file:`` is the content of that file without its last line break. What cannot be resolved
    is reported through ``complain`` and left empty.
    """
    return _resolve(value, environment, complain, ())


def _resolve(value: Any, environment: Mapping[str, str], complain: ReportProblem, path: DocumentPath) -> Any:
    if isinstance(value, str):
        return _text(value, environment, complain, path)
    if isinstance(value, list):
        return [_resolve(item, environment, complain, (*path, i)) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _resolve(item, environment, complain, (*path, key)) for key, item in value.items()}
    return value


def _text(text: str, environment: Mapping[str, str], complain: ReportProblem, path: DocumentPath) -> str:
    def variable(found: re.Match[str]) -> str:
        name, default = found.groups()
        if environment.get(name):
            return environment[name]
        if default is None:
            complain(path, "unset-variable", f"the environment variable {name} is not set")
        return default or ""

    resolved = _VARIABLE.sub(variable, text)
    if not resolved.startswith(_FILE):
        return resolved
    try:
        return _content(Path(resolved.removeprefix(_FILE)))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        complain(path, "unreadable", f"{resolved.removeprefix(_FILE)}: {reason}")
        return ""


def _content(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise ValueError(f"larger than {_MAX_FILE_BYTES} bytes")
    return content.decode().removesuffix("\n").removesuffix("\r")
