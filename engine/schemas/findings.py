"""From the library's errors to what is wrong: each mistake once, where it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema.exceptions import ValidationError

from ..documents import DocumentPath
from ..spelling import nearest
from .validators import Schema, dereference, regex
from .wording import describe, no_alternative, schema_of, unknown_key, wrong_key


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaViolation:
    """Something in a value that its schema does not allow."""

    path: DocumentPath
    code: str
    message: str
    hint: str = ""
    at_key: bool = False  # the key is wrong, not the value


def violations_of(data: Any, validator: Any) -> list[SchemaViolation]:
    """What ``validator`` finds wrong in ``data``, in the order in which it looks."""
    found: dict[SchemaViolation, None] = {}  # in order, each once
    try:
        for error in validator.iter_errors(data):
            found.update(dict.fromkeys(_translate(error, validator.schema)))
    except RecursionError:  # the library takes several frames a level
        message = "mappings and lists too deep inside one another to be checked"
        return [SchemaViolation(path=(), code="too-deep", message=message)]
    return list(found)


def _translate(error: ValidationError, root: Schema) -> Iterator[SchemaViolation]:
    keyword = str(error.validator)
    if keyword in ("anyOf", "oneOf") and error.context:
        yield from _alternatives(error, root)
    elif keyword == "additionalProperties":
        yield from _unknown_keys(error)
    elif keyword in ("required", "dependentRequired"):
        yield from _missing_keys(error, keyword)
    elif keyword == "propertyNames":
        yield _wrong_key(error, root)
    else:
        code, message, hint = describe(error)
        yield SchemaViolation(path=_path(error), code=code, message=message, hint=hint)


def _alternatives(error: ValidationError, root: Schema) -> Iterator[SchemaViolation]:
    """Report what is wrong with the alternative that was meant: the one of the value's own type."""
    branches: dict[Any, list[ValidationError]] = {}
    for inner in error.context or ():
        branches.setdefault(inner.relative_schema_path[0], []).append(inner)
    meant = [inners for inners in branches.values() if not any(_is_other_type(inner) for inner in inners)]
    if not meant:
        code, message, hint = no_alternative(error, root)
        yield SchemaViolation(path=_path(error), code=code, message=message, hint=hint)
        return
    for inner in max(meant, key=lambda inners: (max(len(_path(inner)) for inner in inners), -len(inners))):
        yield from _translate(inner, root)


def _is_other_type(error: ValidationError) -> bool:
    """Whether the value as a whole is of another type than the alternative that ``error`` is about."""
    if error.relative_path:
        return False
    if error.validator in ("anyOf", "oneOf"):
        branches: dict[Any, bool] = {}
        for inner in error.context or ():
            index = inner.relative_schema_path[0]
            branches[index] = branches.get(index, False) or _is_other_type(inner)
        return bool(branches) and all(branches.values())
    return error.validator in ("type", "const")


def _unknown_keys(error: ValidationError) -> Iterator[SchemaViolation]:
    allowed = list(schema_of(error).get("properties", {}))
    for key in _extra_keys(error):
        code, message, hint = unknown_key(key, allowed)
        yield SchemaViolation(path=(*_path(error), key), code=code, message=message, hint=hint, at_key=True)


def _extra_keys(error: ValidationError) -> list[str]:
    schema = schema_of(error)
    patterns = [regex(pattern) for pattern in schema.get("patternProperties", {})]
    known = schema.get("properties", {})
    return [
        key
        for key in _mapping(error.instance)
        if key not in known and not any(pattern.search(key) for pattern in patterns)
    ]


def _missing_keys(error: ValidationError, keyword: str) -> Iterator[SchemaViolation]:
    schema, instance = schema_of(error), _mapping(error.instance)
    wanted: dict[str, str] = {}
    if keyword == "required":
        wanted = {key: f"the key '{key}' is missing" for key in schema["required"]}
    else:
        for beside, keys in schema["dependentRequired"].items():
            if beside in instance:
                wanted |= {key: f"the key '{key}' is missing; '{beside}' needs it" for key in keys}
    closed = schema.get("additionalProperties") is False
    hints = {nearest(key, schema.get("properties", {})) for key in _extra_keys(error)} if closed else set()
    for key, message in wanted.items():
        # A misspelled key is one mistake, reported where it stands.
        if key not in instance and f"did you mean '{key}'?" not in hints:
            yield SchemaViolation(path=_path(error), code="missing-key", message=message)


def _wrong_key(error: ValidationError, root: Schema) -> SchemaViolation:
    names_schema = dereference(root, schema_of(error)["propertyNames"])
    path = _path(error)
    code, message, hint = wrong_key(str(path[-1]), names_schema, schema_of(error).get("properties", {}))
    return SchemaViolation(path=path, code=code, message=message, hint=hint, at_key=True)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _path(error: ValidationError) -> DocumentPath:
    return tuple(error.absolute_path)
