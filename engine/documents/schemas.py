"""The JSON Schemas of MSS: load them, and validate documents with them."""

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
from .schema_validation import fast_validator, violations_of
from .yaml import Document

_HERE = Path(__file__).parents[1]
DATA = _HERE / "_data" if (_HERE / "_data").is_dir() else _HERE.parent  # in a wheel; in the source tree

_FIRST = ("policy", "mss", "preferences", "envelope")  # before the events in names()
_SUFFIX = ".schema.json"
_SAMPLES = ("const", "default", "enum", "examples")  # values, in which $ref is an ordinary key


def names() -> list[str]:
    """Return the names of all schemas: ``policy``, ``mss``, ``events/notice/login.abnormal``, ..."""
    root = DATA / "schemas"
    found = (file.relative_to(root).as_posix() for file in root.rglob(f"*{_SUFFIX}"))
    rest = sorted(name.removesuffix(_SUFFIX) for name in found)
    return [*(name for name in _FIRST if name in rest), *(name for name in rest if name not in _FIRST)]


@cache
def load(name: str) -> dict[str, Any]:
    """Return the schema ``name``, which must not be changed: it is cached.

    Raise LookupError with the most similar name if there is none.
    """
    known = names()
    if name not in known:
        hint = nearest(name, known)
        raise LookupError(f"there is no schema '{name}'; {hint or 'there are: ' + ', '.join(known)}")
    schema: dict[str, Any] = json.loads((DATA / "schemas" / f"{name}{_SUFFIX}").read_text("utf-8"))
    return schema


def check(document: Document, schema_name: str) -> list[Problem]:
    """Return the violations of the schema in ``document``, ordered by place.

    A place that already has a problem in the document gets no second one.
    """
    if document.problems and document.data == {}:
        return []  # a document that could not be read has no content to validate
    reported = {problem.place for problem in document.problems}
    problems: dict[tuple[Any, ...], Problem] = {}
    for problem in map(document.problem, violations_of(document.data, _validator(schema_name))):
        if problem.place not in reported:
            problems.setdefault((problem.place, problem.code, problem.message), problem)
    return sorted(problems.values(), key=lambda problem: problem.place)


def check_schema(schema: Any) -> list[Diagnostic]:
    """Return the errors in ``schema`` as a schema of draft 2020-12, with its references to other schemas."""
    draft = Draft202012Validator
    errors = violations_of(schema, draft(draft.META_SCHEMA, format_checker=draft.FORMAT_CHECKER))
    return errors or list(_dangling(schema))


def _dangling(schema: Any) -> Iterator[Diagnostic]:
    """Yield the references to other schemas, which MSS does not fetch."""
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
