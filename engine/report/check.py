"""What ``mss check`` found, as GitHub and as SARIF read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from ..codes import CODES
from ..model import Problem

SARIF_VERSION = "2.1.0"
_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_GITHUB = {"error": "error", "warning": "warning", "info": "notice"}
_SARIF = {"error": "error", "warning": "warning", "info": "note"}


def github_lines(folder: str, problems: Iterable[Problem]) -> Iterator[str]:
    """Workflow commands: GitHub shows each beside the line that it is about."""
    for problem in problems:
        place = problem.place
        properties = {
            "file": file_of(folder, place.file),
            "line": str(place.line),
            "col": str(place.column),
            "title": problem.code,
        }
        listed = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
        hint = f" ({problem.hint})" if problem.hint else ""
        yield f"::{_GITHUB[problem.severity]} {listed}::{_data(problem.message + hint)}"


def sarif_document(folder: str, problems: Iterable[Problem], version: str) -> dict[str, Any]:
    """A SARIF log with one run; ``version`` is that of the command."""
    found = list(problems)
    codes = sorted({problem.code for problem in found})
    return {
        "$schema": _SARIF_SCHEMA,
        "version": SARIF_VERSION,
        "runs": [
            {
                "tool": {
                    "driver": {"name": "mss", "version": version, "rules": [_rule(code) for code in codes]}
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(folder, problem, codes.index(problem.code)) for problem in found],
            }
        ],
    }


def file_of(folder: str, file: str) -> str:
    """A problem's file as the command's caller can open it."""
    if "://" in folder:  # a bucket, whose name a path would spell otherwise
        return f"{folder}/{file}"
    return str(PurePath(folder) / file) if folder else file


def _rule(code: str) -> dict[str, Any]:
    known = CODES.get(code)
    rule: dict[str, Any] = {"id": code}
    if known is not None:
        rule["shortDescription"] = {"text": known.meaning}
        rule["defaultConfiguration"] = {"level": _SARIF[known.severity]}
    return rule


def _result(folder: str, problem: Problem, index: int) -> dict[str, Any]:
    place = problem.place
    hint = f" ({problem.hint})" if problem.hint else ""
    return {
        "ruleId": problem.code,
        "ruleIndex": index,
        "level": _SARIF[problem.severity],
        "message": {"text": problem.message + hint},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": _uri(file_of(folder, place.file))},
                    "region": {"startLine": place.line, "startColumn": place.column},
                }
            }
        ],
    }


def _uri(file: str) -> str:
    path = PurePath(file)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
