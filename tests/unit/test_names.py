"""One noun, one meaning, one owner: a class is called as no other class is."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def types(path: Path) -> Iterator[str]:
    """The classes and type aliases that a module defines at its top."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if is_type(node.targets[0].id, node.value):
                yield node.targets[0].id
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).endswith("TypeAlias"):
            yield ast.unparse(node.target)


def is_type(name: str, value: ast.expr) -> bool:
    """Whether a name is written like a class and given something that a type is made of."""
    if name.upper() == name or not name.strip("_")[:1].isupper():
        return False
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rpartition(".")[2] in ("NewType", "NamedTuple", "TypedDict")
    return isinstance(value, (ast.Name, ast.Attribute, ast.Subscript, ast.BinOp))


def test_no_type_is_defined_twice() -> None:
    owners: dict[str, list[str]] = defaultdict(list)
    for package in ("engine", "msc"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if "_data" not in path.parts:
                for name in types(path):
                    owners[name].append(path.relative_to(ROOT).as_posix())
    assert {name: paths for name, paths in owners.items() if len(paths) > 1} == {}
