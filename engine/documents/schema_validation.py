"""Validate values against a JSON Schema, and report each error once, in terms an operator knows.

A fast validator accepts most values. Only a value that it rejects goes through the library's validator,
whose errors are reduced to their causes and worded here.
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
from ..model.wording import either, listing, nearest, shorten

Schema = Mapping[str, Any]

_extend: Any = _library_extend  # it has no type information

Wording = tuple[str, str, str]  # code, message, hint

EXPECTS = "x-mss-expects"  # beside a pattern or anyOf: what to write, completing "expected ..."

_MAX_NAMES = 12  # listed in one message
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
    """What ``validator`` finds wrong in ``data``, in the order in which it looks."""
    found: dict[Diagnostic, None] = {}  # in order, each once
    try:
        for error in validator.iter_errors(data):
            found.update(dict.fromkeys(_translate(error, validator.schema)))
    except RecursionError:  # the library takes several frames a level
        message = "mappings and lists too deep inside one another to be checked"
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
        code, message, hint = describe(error)
        yield Diagnostic(path=_path(error), code=code, message=message, hint=hint)


def _alternatives(error: ValidationError, root: Schema) -> Iterator[Diagnostic]:
    """Report what is wrong with the alternative that was meant: the one of the value's own type."""
    branches: dict[Any, list[ValidationError]] = {}
    for inner in error.context or ():
        branches.setdefault(inner.relative_schema_path[0], []).append(inner)
    meant = [inners for inners in branches.values() if not any(_is_other_type(inner) for inner in inners)]
    if not meant:
        code, message, hint = no_alternative(error, root)
        yield Diagnostic(path=_path(error), code=code, message=message, hint=hint)
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


def _unknown_keys(error: ValidationError) -> Iterator[Diagnostic]:
    allowed = list(schema_of(error).get("properties", {}))
    for key in _extra_keys(error):
        code, message, hint = unknown_key(key, allowed)
        yield Diagnostic(path=(*_path(error), key), code=code, message=message, hint=hint, at_key=True)


def _extra_keys(error: ValidationError) -> list[str]:
    schema = schema_of(error)
    patterns = [regex(pattern) for pattern in schema.get("patternProperties", {})]
    known = schema.get("properties", {})
    return [
        key
        for key in _mapping(error.instance)
        if key not in known and not any(pattern.search(key) for pattern in patterns)
    ]


def _missing_keys(error: ValidationError, keyword: str) -> Iterator[Diagnostic]:
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
            yield Diagnostic(path=_path(error), code="missing-key", message=message)


def _wrong_key(error: ValidationError, root: Schema) -> Diagnostic:
    names_schema = dereference(root, schema_of(error)["propertyNames"])
    path = _path(error)
    code, message, hint = wrong_key(str(path[-1]), names_schema, schema_of(error).get("properties", {}))
    return Diagnostic(path=path, code=code, message=message, hint=hint, at_key=True)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _path(error: ValidationError) -> DocumentPath:
    return tuple(error.absolute_path)


def _property_names(
    validator: Any, names_schema: Any, instance: Any, _schema: Any
) -> Iterator[ValidationError]:
    """Like the library's, but each error knows which key it is about."""
    if validator.is_type(instance, "object"):
        checker = validator.evolve(schema=names_schema)
        for name in instance:
            if not checker.is_valid(name):
                yield ValidationError("a key of the wrong form", path=[name])


def _pattern(validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not regex(pattern).search(instance):
        yield ValidationError("text of the wrong form")


@cache
def regex(pattern: str) -> re.Pattern[str]:
    """A schema's ``pattern``: there ``$`` is the end; in Python it also stands before a last line feed."""
    if pattern.endswith("$") and not pattern.endswith("\\$"):
        pattern = pattern[:-1] + r"\Z"
    return re.compile(pattern)


def dereference(root: Schema, schema: Any) -> Any:
    """``schema``, or what it refers to inside ``root``."""
    while isinstance(schema, Mapping) and str(schema.get("$ref", "")).startswith("#/"):
        target: Any = root
        for step in schema["$ref"][2:].split("/"):
            target = target[step.replace("~1", "/").replace("~0", "~")]
        schema = target
    return schema


def _is_integer(_checker: Any, instance: Any) -> bool:
    """As Python has it: code that asked for a whole number gets an int, never 1.0."""
    return isinstance(instance, int) and not isinstance(instance, bool)


# Draft 2020-12 as the library has it, for any schema.
PLAIN: Any = _extend(
    Draft202012Validator,
    validators={"propertyNames": _property_names, "pattern": _pattern},
)
# Besides, 1.0 is no whole number: for the packaged schemas.
STRICT: Any = _extend(
    PLAIN,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)


def fast_validator(schema: Schema) -> Any:
    """Return STRICT for ``schema``: the same errors, but much faster where a value fits."""
    slow = STRICT.VALIDATORS["$ref"]
    fits: dict[str, Callable[[Any], bool]] = {}

    def ref(validator: Any, target: str, instance: Any, parent: Any) -> Iterator[ValidationError]:
        # The slow validator takes half a millisecond a rule.
        if target not in fits:
            fits[target] = predicate({"$ref": target, "$defs": schema["$defs"]})
        if not fits[target](instance):
            yield from slow(validator, target, instance, parent)

    return _extend(STRICT, validators={"$ref": ref})(schema)


def predicate(schema: Schema) -> Callable[[Any], bool]:
    """Return a fast function that is true only of values in which STRICT finds no error.

    It is false of some others too: those on which the two validators may not agree.
    """
    is_valid = jsonschema_rs.Draft202012Validator(dict(schema)).is_valid
    return lambda value: not _is_ambiguous(value) and is_valid(value)


# White space to Python and not to JSON Schema; surrogates, which the fast validator cannot take.
_AMBIGUOUS = re.compile(r"[\x1c-\x1f\x85\ud800-\udfff]")


def _is_ambiguous(value: Any) -> bool:
    if isinstance(value, str):
        return _AMBIGUOUS.search(value) is not None
    if isinstance(value, float):
        return value.is_integer()  # an integer to the fast validator
    if isinstance(value, dict):
        return any(map(_is_ambiguous, value)) or any(map(_is_ambiguous, value.values()))
    return isinstance(value, list) and any(map(_is_ambiguous, value))


def describe(error: ValidationError) -> Wording:
    """What a keyword about the value itself found wrong."""
    return _IN_WORDS.get(str(error.validator), _unforeseen)(error)


def no_alternative(error: ValidationError, root: Schema) -> Wording:
    """The value is of another type than all that it may be."""
    schema = schema_of(error)
    leaves = list(_leaves(schema, root))
    expected = schema.get(EXPECTS) or _either(kind for leaf in leaves for kind in _kinds(leaf))
    message = f"expected {expected}, found {_found(error.instance)}"
    return "wrong-type", message, _type_hint(error.instance, leaves)


def unknown_key(key: str, allowed: list[str]) -> Wording:
    """A key that is none of those there are."""
    listed = f"; allowed: {listing(allowed, _MAX_NAMES)}" if allowed else ""
    return "unknown-key", f"unknown key '{_cut(key)}'{listed}", nearest(key, allowed)


def wrong_key(key: str, names_schema: Schema, known: Iterable[str]) -> Wording:
    """A key that is not as ``names_schema`` has keys."""
    message = f"expected {_expected(names_schema)}, found the key '{_cut(key)}'"
    return "bad-format", message, nearest(key, known)


def schema_of(error: ValidationError) -> Schema:
    """The part of the schema that was not satisfied; empty where it is ``false``."""
    return error.schema if isinstance(error.schema, Mapping) else {}


def _wrong_type(error: ValidationError) -> Wording:
    schema = schema_of(error)
    types = _listed(schema["type"])
    expected = schema.get(EXPECTS) or _either(_KINDS[name] for name in types)
    hint = _type_hint(error.instance, [schema])
    return "wrong-type", f"expected {expected}, found {_found(error.instance)}", hint


def _not_allowed(error: ValidationError) -> Wording:
    words = [_written(word) for word in schema_of(error)["enum"]]
    hint = nearest(error.instance, words) if isinstance(error.instance, str) else ""
    return (
        "not-allowed",
        f"expected one of {listing(words, _MAX_NAMES)}, found {_found(error.instance)}",
        hint,
    )


def _other_constant(error: ValidationError) -> Wording:
    expected = _written(schema_of(error)["const"])
    return "bad-value", f"expected {expected}, found {_found(error.instance)}", ""


def _bad_format(error: ValidationError) -> Wording:
    return "bad-format", f"expected {_expected(schema_of(error))}, found {_found(error.instance)}", ""


def _out_of_range(error: ValidationError) -> Wording:
    schema = schema_of(error)
    if "minimum" in schema and "maximum" in schema:
        expected = f"{schema['minimum']} to {schema['maximum']}"
        return "out-of-range", f"expected {expected}, found {_found(error.instance)}", ""
    bounds = [
        f"{words} {schema[keyword]}"
        for keyword, words in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "more than"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "less than"),
        )
        if keyword in schema
    ]
    return "out-of-range", f"expected {' and '.join(bounds)}, found {_found(error.instance)}", ""


def _wrong_size(error: ValidationError) -> Wording:
    keyword = str(error.validator)
    wanted: Any = error.validator_value
    instance: Any = error.instance
    empty, unit = _SIZES[keyword.removeprefix("min").removeprefix("max")]
    if keyword.startswith("min") and not instance:
        return "empty", f"{empty}; expected at least {wanted} {unit if wanted > 1 else unit[:-1]}", ""
    bound = "at least" if keyword.startswith("min") else "at most"
    return "out-of-range", f"expected {bound} {wanted} {unit}, found {len(instance)}", ""


def _unforeseen(error: ValidationError) -> Wording:
    """A keyword that only schemas from elsewhere use."""
    if not schema_of(error):  # it is false
        return "bad-value", "nothing may stand here", ""
    expected = schema_of(error).get(EXPECTS) or schema_of(error).get("description")
    if expected:
        return "bad-value", f"expected {expected}, found {_found(error.instance)}", ""
    return "bad-value", f"{_found(error.instance)} does not satisfy the schema's '{error.validator}'", ""


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
    """A scalar as it is written in YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def _cut(value: Any) -> str:
    return shorten(" ".join(str(value).split()), _MAX_TEXT_LENGTH)


def _either(words: Iterable[str]) -> str:
    return either(list(dict.fromkeys(words)) or ["something else"])


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


_IN_WORDS: dict[str, Callable[[ValidationError], Wording]] = {
    "type": _wrong_type,
    "enum": _not_allowed,
    "const": _other_constant,
    "pattern": _bad_format,
    **dict.fromkeys(("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"), _out_of_range),
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), _wrong_size),
    **dict.fromkeys(("minProperties", "maxProperties"), _wrong_size),
}


def _leaves(schema: Any, root: Schema) -> Iterator[Schema]:
    """The alternatives of ``schema`` that have none themselves."""
    schema = dereference(root, schema)
    if isinstance(schema, Mapping):
        branches = (*schema.get("anyOf", ()), *schema.get("oneOf", ()))
        if not branches:
            yield schema
        for branch in branches:
            yield from _leaves(branch, root)


def _kinds(schema: Schema) -> Iterator[str]:
    if "const" in schema:
        yield _written(schema["const"])
    else:
        yield from (_KINDS[name] for name in _listed(schema.get("type", [])))
