"""References to what does not belong into a file: ``${NAME}`` and ``file:PATH``.

They are resolved after parsing and inside string values only, so that nothing in the environment
can change the structure of a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_FILE = "file:"
_MAX_FILE_BYTES = 64 * 1024  # bytes; a secret, a token, a key

ReportProblem = Callable[[tuple[str | int, ...], str, str], None]  # path, code, message


def resolve(value: Any, environment: Mapping[str, str], complain: ReportProblem) -> Any:
    """``value`` with every reference in its strings resolved.

    ``${NAME}`` is an environment variable, ``${NAME:-text}`` has a default, a string that begins
    with ``file:`` is the content of that file without its last line break. What cannot be resolved
    is reported through ``complain`` and left empty.
    """
    return _resolve(value, environment, complain, ())


def _resolve(
    value: Any, environment: Mapping[str, str], complain: ReportProblem, path: tuple[str | int, ...]
) -> Any:
    if isinstance(value, str):
        return _text(value, environment, complain, path)
    if isinstance(value, list):
        return [_resolve(item, environment, complain, (*path, i)) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _resolve(item, environment, complain, (*path, key)) for key, item in value.items()}
    return value


def _text(
    text: str, environment: Mapping[str, str], complain: ReportProblem, path: tuple[str | int, ...]
) -> str:
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
