"""Validate values against a JSON Schema, and describe each error once, for operators.

A fast validator accepts most values. Only a value that it refuses goes through the slow validator of the
jsonschema library, whose errors are reduced to their causes and described here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import jsonschema_rs
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend as _library_extend

from ..model.problems import Diagnostic, DocumentPath
from ..model.wording import join_or, listing, nearest, shorten

Schema = Mapping[str, Any]

_extend: Any = _library_extend  # it has no type information

EXPECTS = "x-mss-expects"  # next to a pattern or anyOf: the text after "expected" in a message

_MAX_NAMES = 12  # in one message
_MAX_TEXT_LENGTH = 61  # characters of a value in a message

_KINDS = {
    "string": "a string",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}

_SIZES = {
    "Items": ("an empty list", "values"),
    "Length": ("an empty string", "characters"),
    "Properties": ("an empty mapping", "keys"),
}


def violations_of(data: Any, validator: Any) -> list[Diagnostic]:
    """Return the errors that ``validator`` finds in ``data``, in the order of the schema."""
    found: dict[Diagnostic, None] = {}  # in order, each once
    try:
        for error in validator.iter_errors(data):
            found.update(dict.fromkeys(_translate(error, validator.schema)))
    except RecursionError:  # the library needs several frames for each level
        message = "mappings and lists are nested too deep to be checked"
        return [Diagnostic(code="too-deep", message=message)]
    return list(found)


def _translate(error: ValidationError, root: Schema) -> Iterator[Diagnostic]:
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
        yield _DESCRIPTIONS.get(keyword, _other_keyword)(error)


def _alternatives(error: ValidationError, root: Schema) -> Iterator[Diagnostic]:
    """Describe the errors of the alternative that has the type of the value, else that none has it."""
    branches: dict[Any, list[ValidationError]] = {}
    for inner in error.context or ():
        branches.setdefault(inner.relative_schema_path[0], []).append(inner)
    of_type = [inners for inners in branches.values() if not any(map(_is_other_type, inners))]
    if not of_type:
        yield _no_alternative(error, root)
        return
    for inner in max(of_type, key=lambda inners: (max(len(_path(inner)) for inner in inners), -len(inners))):
        yield from _translate(inner, root)


def _is_other_type(error: ValidationError) -> bool:
    """Return whether the whole value has another type than the alternative of ``error``."""
    if error.relative_path:
        return False
    if error.validator in ("anyOf", "oneOf"):
        branches: dict[Any, bool] = {}
        for inner in error.context or ():
            index = inner.relative_schema_path[0]
            branches[index] = branches.get(index, False) or _is_other_type(inner)
        return bool(branches) and all(branches.values())
    return error.validator in ("type", "const")


def _unknown_keys(error: ValidationError) -> Iterator[Diagnostic]:
    allowed = list(_schema_of(error).get("properties", {}))
    listed = f"; allowed: {listing(allowed, _MAX_NAMES)}" if allowed else ""
    for key in _extra_keys(error):
        yield Diagnostic(
            path=(*_path(error), key),
            code="unknown-key",
            message=f"unknown key '{_cut(key)}'{listed}",
            hint=nearest(key, allowed),
            at_key=True,
        )


def _extra_keys(error: ValidationError) -> list[str]:
    schema = _schema_of(error)
    patterns = [regex(pattern) for pattern in schema.get("patternProperties", {})]
    known = schema.get("properties", {})
    return [
        key
        for key in _mapping(error.instance)
        if key not in known and not any(pattern.search(key) for pattern in patterns)
    ]


def _missing_keys(error: ValidationError, keyword: str) -> Iterator[Diagnostic]:
    schema, instance = _schema_of(error), _mapping(error.instance)
    wanted: dict[str, str] = {}
    if keyword == "required":
        wanted = {key: f"the key '{key}' is missing" for key in schema["required"]}
    else:
        for present, keys in schema["dependentRequired"].items():
            if present in instance:
                wanted |= {key: f"the key '{key}' is missing; '{present}' needs it" for key in keys}
    closed = schema.get("additionalProperties") is False
    hints = {nearest(key, schema.get("properties", {})) for key in _extra_keys(error)} if closed else set()
    for key, message in wanted.items():
        # A misspelled key is one mistake, which is reported as an unknown key.
        if key not in instance and f"did you mean '{key}'?" not in hints:
            yield _diagnostic(error, "missing-key", message)


def _wrong_key(error: ValidationError, root: Schema) -> Diagnostic:
    schema = _schema_of(error)
    key = str(error.absolute_path[-1])
    expected = _expected(dereference(root, schema["propertyNames"]))
    message = f"expected {expected}, found the key '{_cut(key)}'"
    return _diagnostic(error, "bad-format", message, nearest(key, schema.get("properties", {})), at_key=True)


def _no_alternative(error: ValidationError, root: Schema) -> Diagnostic:
    schema = _schema_of(error)
    leaves = list(_leaves(schema, root))
    kinds = list(dict.fromkeys(kind for leaf in leaves for kind in _kinds(leaf)))
    expected = schema.get(EXPECTS) or join_or(kinds or ["something else"])
    return _mismatch(error, "wrong-type", expected, _type_hint(error.instance, leaves))


def _wrong_type(error: ValidationError) -> Diagnostic:
    schema = _schema_of(error)
    expected = schema.get(EXPECTS) or join_or([_KINDS[name] for name in _listed(schema["type"])])
    return _mismatch(error, "wrong-type", expected, _type_hint(error.instance, [schema]))


def _not_allowed(error: ValidationError) -> Diagnostic:
    allowed = [_written(word) for word in _schema_of(error)["enum"]]
    hint = nearest(error.instance, allowed) if isinstance(error.instance, str) else ""
    return _mismatch(error, "not-allowed", f"one of {listing(allowed, _MAX_NAMES)}", hint)


def _other_constant(error: ValidationError) -> Diagnostic:
    return _mismatch(error, "bad-value", _written(_schema_of(error)["const"]))


def _bad_format(error: ValidationError) -> Diagnostic:
    return _mismatch(error, "bad-format", _expected(_schema_of(error)))


def _out_of_range(error: ValidationError) -> Diagnostic:
    schema = _schema_of(error)
    if "minimum" in schema and "maximum" in schema:
        return _mismatch(error, "out-of-range", f"{schema['minimum']} to {schema['maximum']}")
    limits = [
        f"{words} {schema[keyword]}"
        for keyword, words in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "more than"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "less than"),
        )
        if keyword in schema
    ]
    return _mismatch(error, "out-of-range", " and ".join(limits))


def _wrong_size(error: ValidationError) -> Diagnostic:
    keyword = str(error.validator)
    wanted: Any = error.validator_value
    instance: Any = error.instance
    empty, unit = _SIZES[keyword.removeprefix("min").removeprefix("max")]
    if keyword.startswith("min") and not instance:
        message = f"{empty}; expected at least {wanted} {unit if wanted > 1 else unit[:-1]}"
        return _diagnostic(error, "empty", message)
    limit = "at least" if keyword.startswith("min") else "at most"
    return _diagnostic(error, "out-of-range", f"expected {limit} {wanted} {unit}, found {len(instance)}")


def _other_keyword(error: ValidationError) -> Diagnostic:
    """Describe an error of a keyword that the packaged schemas do not use."""
    schema = _schema_of(error)
    if not schema:  # it is false
        return _diagnostic(error, "bad-value", "no value is allowed here")
    if expected := schema.get(EXPECTS) or schema.get("description"):
        return _mismatch(error, "bad-value", expected)
    message = f"{_found(error.instance)} does not satisfy the schema's '{error.validator}'"
    return _diagnostic(error, "bad-value", message)


_DESCRIPTIONS: dict[str, Callable[[ValidationError], Diagnostic]] = {
    "type": _wrong_type,
    "enum": _not_allowed,
    "const": _other_constant,
    "pattern": _bad_format,
    **dict.fromkeys(("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"), _out_of_range),
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), _wrong_size),
    **dict.fromkeys(("minProperties", "maxProperties"), _wrong_size),
}


def _mismatch(error: ValidationError, code: str, expected: str, hint: str = "") -> Diagnostic:
    return _diagnostic(error, code, f"expected {expected}, found {_found(error.instance)}", hint)


def _diagnostic(
    error: ValidationError, code: str, message: str, hint: str = "", *, at_key: bool = False
) -> Diagnostic:
    return Diagnostic(path=_path(error), code=code, message=message, hint=hint, at_key=at_key)


def _type_hint(instance: Any, alternatives: list[Schema]) -> str:
    if instance is None:
        return "give it a value, or remove the key"
    if isinstance(instance, bool | int | float):
        quoted = _written(instance)
        if any(
            "string" in _listed(schema.get("type", [])) and regex(schema.get("pattern", "")).search(quoted)
            for schema in alternatives
        ):
            return "put it in quotes if text is meant"
    if all(schema.get("type") == "array" for schema in alternatives):
        return (
            "write it as a list: start it with '- '"
            if isinstance(instance, dict)
            else f"write [{_cut(instance)}]"
        )
    return ""


def _expected(schema: Schema) -> str:
    text = schema.get(EXPECTS)
    if text:
        return str(text)
    description = str(schema.get("description", "text of another form")).rstrip(".")
    return description[:1].lower() + description[1:]


def _found(value: Any) -> str:
    if isinstance(value, str):
        return f"'{_cut(value)}'" if value else "an empty string"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return _written(value)
    if isinstance(value, int | float):
        return f"the number {_cut(value)}"
    return "a list" if isinstance(value, list) else "a mapping"


def _written(value: Any) -> str:
    """Return a scalar as it is written in YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def _cut(value: Any) -> str:
    return shorten(" ".join(str(value).split()), _MAX_TEXT_LENGTH)


def _schema_of(error: ValidationError) -> Schema:
    """Return the part of the schema that the value does not satisfy; empty if it is ``false``."""
    return _mapping(error.schema)


def _path(error: ValidationError) -> DocumentPath:
    return tuple(error.absolute_path)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _leaves(schema: Any, root: Schema) -> Iterator[Schema]:
    """Yield the alternatives of ``schema`` that have no alternatives themselves."""
    schema = dereference(root, schema)
    if isinstance(schema, Mapping):
        branches = (*schema.get("anyOf", ()), *schema.get("oneOf", ()))
        if not branches:
            yield schema
        for branch in branches:
            yield from _leaves(branch, root)


def _kinds(schema: Schema) -> Iterable[str]:
    if "const" in schema:
        return [_written(schema["const"])]
    return [_KINDS[name] for name in _listed(schema.get("type", []))]


def dereference(root: Schema, schema: Any) -> Any:
    """Return ``schema``, or the part of ``root`` that it refers to."""
    while isinstance(schema, Mapping) and str(schema.get("$ref", "")).startswith("#/"):
        target: Any = root
        for step in schema["$ref"][2:].split("/"):
            target = target[step.replace("~1", "/").replace("~0", "~")]
        schema = target
    return schema


@cache
def regex(pattern: str) -> re.Pattern[str]:
    """Compile the ``pattern`` of a schema. In Python ``$`` also matches before a line feed at the end."""
    if pattern.endswith("$") and not pattern.endswith("\\$"):
        pattern = pattern[:-1] + r"\Z"
    return re.compile(pattern)


def _property_names(
    validator: Any, names_schema: Any, instance: Any, _schema: Any
) -> Iterator[ValidationError]:
    """Yield the library's errors with the key in their path."""
    if validator.is_type(instance, "object"):
        checker = validator.evolve(schema=names_schema)
        for name in instance:
            if not checker.is_valid(name):
                yield ValidationError("a key in the wrong format", path=[name])


def _pattern(validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not regex(pattern).search(instance):
        yield ValidationError("text in the wrong format")


def _is_integer(_checker: Any, instance: Any) -> bool:
    """Return whether Python has an integer: the library also accepts 1.0."""
    return isinstance(instance, int) and not isinstance(instance, bool)


# Draft 2020-12 as the library implements it, except for the types and keywords above.
STRICT: Any = _extend(
    Draft202012Validator,
    validators={"propertyNames": _property_names, "pattern": _pattern},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)


def fast_validator(schema: Schema) -> Any:
    """Return a validator with the errors of STRICT that is much faster for valid values."""
    slow = STRICT.VALIDATORS["$ref"]
    fits: dict[str, Callable[[Any], bool]] = {}

    def ref(validator: Any, target: str, instance: Any, parent: Any) -> Iterator[ValidationError]:
        # The slow validator takes half a millisecond for a rule.
        if target not in fits:
            fits[target] = predicate({"$ref": target, "$defs": schema["$defs"]})
        if not fits[target](instance):
            yield from slow(validator, target, instance, parent)

    return _extend(STRICT, validators={"$ref": ref})(schema)


def predicate(schema: Schema) -> Callable[[Any], bool]:
    """Return a fast function that is true only for values in which STRICT finds no error.

    It is false for other values, and for valid ones on which the two validators can disagree.
    """
    is_valid = jsonschema_rs.Draft202012Validator(dict(schema)).is_valid
    return lambda value: not _is_ambiguous(value) and is_valid(value)


# White space in Python but not in JSON Schema, and surrogates, which the fast validator cannot encode.
_AMBIGUOUS = re.compile(r"[\x1c-\x1f\x85\ud800-\udfff]")


def _is_ambiguous(value: Any) -> bool:
    if isinstance(value, str):
        return _AMBIGUOUS.search(value) is not None
    if isinstance(value, float):
        return value.is_integer()  # an integer for the fast validator
    if isinstance(value, dict):
        return any(map(_is_ambiguous, value)) or any(map(_is_ambiguous, value.values()))
    return isinstance(value, list) and any(map(_is_ambiguous, value))
