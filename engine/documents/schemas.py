"""The JSON Schemas that ship with MSS: load them, and check documents against them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from ..model.problems import Diagnostic, DocumentPath, Problem
from ..model.wording import nearest
from .schema_validation import PLAIN, Schema, fast_validator, violations_of
from .yaml import Document

_HERE = Path(__file__).parents[1]
DATA = _HERE / "_data" if (_HERE / "_data").is_dir() else _HERE.parent  # in a wheel; in the source tree

_FIRST = ("policy", "mss", "preferences", "envelope")  # before the events in names()
_SUFFIX = ".schema.json"
_SAMPLES = ("const", "default", "enum", "examples")  # values, in which $ref is a key like another


def names() -> list[str]:
    """The schemas there are: ``policy``, ``mss``, ``envelope``, ``events/notice/login.abnormal``, ..."""
    root = DATA / "schemas"
    found = (file.relative_to(root).as_posix() for file in root.rglob(f"*{_SUFFIX}"))
    rest = sorted(name.removesuffix(_SUFFIX) for name in found)
    return [*(name for name in _FIRST if name in rest), *(name for name in rest if name not in _FIRST)]


@cache
def load(name: str) -> dict[str, Any]:
    """The schema called ``name``; LookupError with the nearest name when there is none.

    The same object each time: do not change it.
    """
    known = names()
    if name not in known:
        hint = nearest(name, known)
        raise LookupError(f"there is no schema '{name}'; {hint or 'there are: ' + ', '.join(known)}")
    schema: dict[str, Any] = json.loads((DATA / "schemas" / f"{name}{_SUFFIX}").read_text("utf-8"))
    return schema


def check(document: Document, schema_name: str) -> list[Problem]:
    """What the schema finds wrong in ``document``, each once, by place. Its own problems are not repeated."""
    if document.problems and document.data == {}:
        return []  # it could not be read: nothing is known of what it lacks
    reported = {problem.place for problem in document.problems}
    problems: dict[tuple[Any, ...], Problem] = {}
    for problem in map(document.problem, violations_of(document.data, _validator(schema_name))):
        if problem.place not in reported:
            problems.setdefault((problem.place, problem.code, problem.message), problem)
    return sorted(problems.values(), key=lambda problem: problem.place)


def check_value(data: Any, schema: Schema | bool) -> list[Diagnostic]:
    """What ``schema``, any valid one of draft 2020-12, finds wrong in ``data``. Nothing is fetched."""
    try:
        return violations_of(data, PLAIN(schema, registry=Registry()))  # an empty one: nothing is fetched
    except Unresolvable as error:
        message = f"the schema refers to '{error.ref}', which is not in it"
        return [Diagnostic(code="bad-schema", message=message)]


def check_schema(schema: Any) -> list[Diagnostic]:
    """What makes ``schema`` no schema of draft 2020-12, or one that refers to what is not in it.

    Only one without may go to ``check_value``.
    """
    draft = Draft202012Validator
    flaws = violations_of(schema, draft(draft.META_SCHEMA, format_checker=draft.FORMAT_CHECKER))
    return flaws or list(_dangling(schema))


def _dangling(schema: Any) -> Iterator[Diagnostic]:
    """References that lead out of the schema: nothing is fetched."""
    resource = Resource.from_contents(schema, DRAFT202012)
    name = resource.id() or ""
    inside = Registry().with_resource(name, resource).resolver(name)
    for path, reference in _references(schema, ()):
        try:
            inside.lookup(reference)
        except (Unresolvable, ValueError):
            message = f"the schema refers to '{reference}', which is not in it"
            yield Diagnostic(path=path, code="bad-schema", message=message, hint="write it under $defs")


def _references(schema: Any, at: DocumentPath) -> Iterator[tuple[DocumentPath, str]]:
    inside: Iterable[tuple[Any, Any]] = schema.items() if isinstance(schema, dict) else ()
    for key, value in enumerate(schema) if isinstance(schema, list) else inside:
        if key in ("$ref", "$dynamicRef") and isinstance(value, str):
            yield (*at, key), value
        elif key not in _SAMPLES:
            yield from _references(value, (*at, key))


@cache
def _validator(name: str) -> Any:
    return fast_validator(load(name))
