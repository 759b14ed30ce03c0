"""The values of a document with their places and problems, and ``${NAME}`` and ``file:PATH`` references.

References are resolved after parsing and only inside strings. So the environment cannot change the structure
of a file.
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
_MAX_FILE_BYTES = 64 * 1024  # such a file has a secret, a token or a key

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DocumentNode:
    """A value in a document with its path. ``node / key`` is a value inside it."""

    document: Document
    path: DocumentPath
    value: Any

    def __truediv__(self, step: str | int) -> DocumentNode:
        return DocumentNode(self.document, (*self.path, step), self.value[step])

    def below(self, path: DocumentPath) -> DocumentNode:
        """Return a node for the place of ``path`` below this one; its value is None."""
        return DocumentNode(self.document, (*self.path, *path), None)

    def get(self, key: str) -> DocumentNode | None:
        return self / key if isinstance(self.value, dict) and key in self.value else None

    def children(self, key: str) -> Iterator[DocumentNode]:
        """Yield the entries of the mapping or list at ``key``; nothing if there is none."""
        below = self.get(key)
        return iter(()) if below is None else below.items()

    def items(self) -> Iterator[DocumentNode]:
        """Yield the values of a mapping or a list."""
        keys = range(len(self.value)) if isinstance(self.value, list) else list(self.value)
        return (self / key for key in keys)

    def each(self) -> Iterator[DocumentNode]:
        """Yield the items of a list, else the node itself: for keys that take one value or a list."""
        return self.items() if isinstance(self.value, list) else iter((self,))

    @property
    def name(self) -> str:
        """The last step of the path: the key of the value."""
        return str(self.path[-1])

    @property
    def place(self) -> Place:
        return self.document.place(self.path)

    @property
    def key_place(self) -> Place:
        return self.document.key_place(self.path)


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """A list of problems, and the methods that add to it."""

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
        """Return the value at ``node`` with every reference in its strings resolved.

        ``${NAME}`` is an environment variable, ``${NAME:-text}`` has a default. A string that begins with
        ``file:`` is the content of that file without its last line break. A reference that cannot be resolved
        is reported, and its value is empty.
        """
        if isinstance(node.value, str):
            return self._resolve_text(node, environment)
        if isinstance(node.value, list):
            return [self.resolve(item, environment) for item in node.items()]
        if isinstance(node.value, dict):
            return {item.name: self.resolve(item, environment) for item in node.items()}
        return node.value

    def _resolve_text(self, node: DocumentNode, environment: Mapping[str, str]) -> str:
        def variable(found: re.Match[str]) -> str:
            name, default = found.groups()
            if environment.get(name):
                return environment[name]
            if default is None:
                self.add(node, "unset-variable", f"the environment variable {name} is not set")
            return default or ""

        resolved = _VARIABLE.sub(variable, node.value)
        if not resolved.startswith(_FILE):
            return resolved
        path = resolved.removeprefix(_FILE)
        try:
            return _content(Path(path))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self.add(node, "unreadable", f"{path}: {reason}")
            return ""


def _content(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise ValueError(f"larger than {_MAX_FILE_BYTES} bytes")
    return content.decode().removesuffix("\n").removesuffix("\r")
