"""The direction of imports: pure modules, then edges, then faces; nobody looks down."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[2] / "engine"

PURE = [
    "model",
    "codes",
    "errors",
    "retry",
    "breaker",
    "intervals",
    "choices",
    "locales",
    "subjects",
    "addresses",
    "spelling",
    "networks",
    "regexes",
    "wildcards",
    "operators",
    "contradictions",
    "paths",
    "limits",
    "payload_types",
    "questions",
    "question_compiler",
    "readings",
    "conditions",
    "condition_compiler",
    "constraints",
    "logic",
    "index",
    "templates",
    "template_compiler",
    "catalogue",
    "chain",
    "rulebook",
    "audience",
    "offers",
    "preferring",
    "draft",
    "gates",
    "entries",
    "recorded",
    "plan",
    "remembered",
    "course",
    "passage",
    "explain",
    "telling",
    "cases",
    "comparison",
    "replay",
    "matching",
    "tryout",
    "trial",
    "coverage",
    "codec",
    "dead",
    "dead_payload",
    "trace",
    "packing",
    "revisions",
]
EDGES = [
    "beside",
    "collecting",
    "durations",
    "documents",
    "cursors",
    "interval_compiler",
    "preferences",
    "schemas",
    "references",
    "settings",
    "channels",
    "metrics",
    "broker",
    "ledger",
    "preference_store",
    "preference_cache",
    "actions",
    "sections",
    "limit_compiler",
    "case_compiler",
    "rule_compiler",
    "action_compiler",
    "lint",
    "compiler",
    "loader",
    "bucket",
    "history",
    "notices",
    "letters",
    "tracing",
    "due",
    "dispatch",
    "memory",
    "records",
    "arrival",
    "intake",
    "digests",
    "archive",
    "pace",
    "entrance",
    "claims",
    "attempt",
    "deliver",
    "workers",
    "health",
    "embedded",
    "session",
    "source",
    "control",
    "dismantling",
    "service",
    "server",
    "watching",
    "reload",
]
FACES = [
    "excerpts",
    "layout",
    "report",
    "render",
    "graph",
    "starting",
    "demo",
    "cli",
]
ORDER = [*PURE, *EDGES, *FACES]
FORBIDDEN_IN_PURE = {
    "aiohttp", "asyncio", "datetime.now", "logging", "msc", "nats", "os", "random", "socket", "subprocess",
    "threading", "time",
}  # fmt: skip


def module_of(path: Path) -> str:
    """The module, or the package, below engine/ that a file belongs to."""
    return path.relative_to(ENGINE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, int, bool]]:
    """Every import of a file: what, on which line, and whether it is from engine itself."""
    depth = len(path.relative_to(ENGINE).parts) - 1
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno, alias.name.startswith("engine")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                module = node.module or ""
                found.append((module, node.lineno, module.startswith("engine")))
            elif node.level == depth + 1:  # from the top of engine
                names = [node.module] if node.module else [alias.name for alias in node.names]
                found += [(str(name), node.lineno, True) for name in names]
    return found


def modules() -> list[Path]:
    return sorted(
        path
        for path in ENGINE.rglob("*.py")
        if ("_data" not in path.parts and path.parent != ENGINE)
        or (path.name != "__init__.py" and path.parent == ENGINE)
    )


def test_every_module_has_a_place_in_the_order() -> None:
    assert sorted({module_of(path) for path in modules()}) == sorted(ORDER)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ENGINE)))
def test_a_module_imports_only_from_above(path: Path) -> None:
    own = ORDER.index(module_of(path))
    for name, line, internal in imports(path):
        if not internal:
            continue
        assert not name.startswith("engine"), f"{path.name}:{line}: inside engine imports are relative"
        target = name.split(".")[0]
        assert ORDER.index(target) < own, (
            f"{path.name}:{line}: {module_of(path)} imports {target}, which is below"
        )


@pytest.mark.parametrize(
    "path",
    [path for path in modules() if module_of(path) in PURE],
    ids=lambda path: str(path.relative_to(ENGINE)),
)
def test_the_pure_half_does_no_io(path: Path) -> None:
    for imported, line, _ in imports(path):
        assert imported.split(".")[0] not in FORBIDDEN_IN_PURE, (
            f"{path.name}:{line}: pure, and imports {imported}"
        )
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    named = {ast.unparse(call.func) for call in calls}
    assert not named & {"open", "print", "datetime.now", "datetime.utcnow", "Path.cwd"}
