"""The small policies under ``tests/cases/check``, and the problems that ``mss check`` finds in each.

A case is a folder: ``policy/``, and ``expected.yaml`` with the problems in order. Files that a repository cannot
contain come from ``limits.yaml``, with limits lower than usual, and ``links.yaml``, with symbolic links to add.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import yaml
from support.locations import ROOT

from engine.model.problems import Problem
from engine.policy.loader import load_policy

CASES = ROOT / "tests/cases/check"


def cases() -> list[Path]:
    return sorted(path.parent for path in CASES.glob("*/expected.yaml"))


@cache
def expected(case: Path) -> list[dict[str, Any]]:
    return yaml.safe_load((case / "expected.yaml").read_text()) or []


def found(case: Path, *, warn: bool = True) -> list[Problem]:
    """Return the problems of a case, without ``untested-rule``, which nearly every small policy has."""
    with lowered(case / "limits.yaml"), linked(case) as folder:
        problems = load_policy(folder, environment={}, warn=warn).problems
    return [p for p in problems if p.code != "untested-rule" or case.name.startswith(p.code)]


@contextmanager
def lowered(limits: Path) -> Iterator[None]:
    """Set the limits in the file, such as ``loader.MAX_FILES: 3``."""
    with ExitStack() as stack:
        for name, limit in (yaml.safe_load(limits.read_text()) if limits.exists() else {}).items():
            stack.enter_context(patch(f"engine.{name}", limit))
        yield


@contextmanager
def linked(case: Path) -> Iterator[Path]:
    """Yield the policy of the case, with its symbolic links."""
    links = case / "links.yaml"
    if not links.exists():
        yield case / "policy"
        return
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "policy"
        copytree(case / "policy", folder)
        for name, target in yaml.safe_load(links.read_text()).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).symlink_to(target)
        yield folder


def shown(problems: list[Problem], wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return ``problems`` in the form of ``expected.yaml``, with the hints that it expects."""
    hints = ["hint" in each for each in wanted] + [False] * len(problems)
    return [
        {
            "file": problem.place.file,
            "line": problem.place.line,
            "column": problem.place.column,
            "code": problem.code,
            "severity": problem.severity,
            **({"hint": problem.hint} if hint else {}),
        }
        for problem, hint in zip(problems, hints, strict=False)
    ]


def wanted(case: Path) -> list[dict[str, Any]]:
    return [{"severity": "error", **problem} for problem in expected(case)]


def is_as_expected(case: Path) -> bool:
    return shown(found(case), expected(case)) == wanted(case)
