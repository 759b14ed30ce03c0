"""The direction of imports: a package imports only from the packages above it, and some packages do no I/O."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINE, MSC = ROOT / "engine", ROOT / "msc"

# One line for each package, bottom first.
ORDER = [
    "model",
    "documents",
    "settings",
    "metrics",
    "runtime",
    "templates",
    "rules",
    "planning",
    "broker",
    "channels",
    "preferences",
    "history",
    "pipeline",
    "actions",
    "policy",
    "server",
    "cli",
]
# Packages that stand level: neither imports the other.
LEVEL = [
    {"settings", "metrics", "runtime"},
    {"planning", "channels"},
    {"history", "preferences"},
    {"pipeline", "actions"},
]

# A package, or a module of one, that has no clock, no network, no files and no log.
PURE = [
    "model",
    "templates",
    "rules",
    "planning",
    "broker/codec.py",
    "channels/circuit_breaker.py",
    "history/dead_letters.py",
    "history/entries.py",
    "history/replay",
    "history/trace.py",
    "policy/testing",
    "preferences/options.py",
]
PURE_OF_THE_CLIENT = ["errors.py", "gojson.py", "wire.py"]
NOT_PURE = {
    "aiohttp", "asyncio", "logging", "msc", "nats", "os", "random", "socket", "subprocess", "threading", "time",
}  # fmt: skip

# Packages that hand names on: registries, the broker, and the command itself. Every other `__init__` is a docstring.
HANDS_ON = ["actions", "broker", "channels", "cli", "policy/lint"]


def files(folder: Path = ENGINE) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "_data" not in path.parts)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def package_of(path: Path) -> str:
    """The package of a file, or the module that stands at the root; "" for ``engine/__init__.py``."""
    first = path.relative_to(ENGINE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def may_import(package: str, other: str) -> bool:
    if package == other:
        return True
    level = any({package, other} <= level for level in LEVEL)
    return ORDER.index(other) < ORDER.index(package) and not level


def imports(path: Path) -> Iterator[tuple[int, str, int]]:
    """Every import of a file: its line, the absolute name of what is imported, and its leading dots."""
    package = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, 0
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = [*above, *(node.module or "").split(".")] if node.module else above
            for alias in node.names:
                yield node.lineno, ".".join([*module, alias.name]), node.level


def test_every_package_has_a_place_in_the_order() -> None:
    assert sorted({package_of(path) for path in files()} - {""}) == sorted(ORDER)


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_a_package_imports_only_from_those_above_it(path: Path) -> None:
    own = package_of(path)
    for line, name, dots in imports(path):
        top, _, rest = name.partition(".")
        if top != "engine":
            continue
        assert dots, f"{name_of(path)}:{line}: inside engine/ imports are relative"
        other = rest.partition(".")[0]
        assert may_import(own, other), f"{name_of(path)}:{line}: {own} imports {other}, which is not above it"


@pytest.mark.parametrize("path", files(MSC), ids=name_of)
def test_the_client_imports_nothing_of_the_server(path: Path) -> None:
    for line, name, dots in imports(path):
        top = name.partition(".")[0]
        assert top != "engine", f"{name_of(path)}:{line}: the client imports {name}"
        assert top != "msc" or dots, f"{name_of(path)}:{line}: inside msc/ imports are relative"


def pure() -> list[Path]:
    of_engine = [ENGINE / name for name in PURE]
    found = [file for path in of_engine for file in (files(path) if path.is_dir() else [path])]
    return [*found, *(MSC / name for name in PURE_OF_THE_CLIENT)]


@pytest.mark.parametrize("path", pure(), ids=name_of)
def test_a_pure_package_does_no_io(path: Path) -> None:
    for line, name, _ in imports(path):
        if name.startswith(tuple(f"msc.{module.removesuffix('.py')}" for module in PURE_OF_THE_CLIENT)):
            continue
        assert name.partition(".")[0] not in NOT_PURE, f"{name_of(path)}:{line}: pure, and imports {name}"
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    named = {ast.unparse(call.func) for call in calls}
    assert not named & {"open", "print", "datetime.now", "datetime.utcnow", "Path.cwd"}


@pytest.mark.parametrize("path", [path for path in files() if path.name == "__init__.py"], ids=name_of)
def test_a_package_says_what_lives_in_it_and_no_more(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    if path.parent.relative_to(ENGINE).as_posix() not in HANDS_ON:
        assert len(tree.body) == 1, (
            f"{name_of(path)}: an `__init__` is a docstring; import from the module itself"
        )
