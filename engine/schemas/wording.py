"""What the library found wrong with a value, in words for operators: code, message, hint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jsonschema.exceptions import ValidationError

from ..spelling import nearest
from .validators import Schema, dereference, regex

Wording = tuple[str, str, str]  # code, message, hint

EXPECTS = "x-mss-expects"  # beside a pattern or anyOf: what to write, completing "expected ..."

_MAX_NAMES = 12  # listed in one message
_MAX_TEXT_LENGTH = 60  # characters of a value quoted in a message

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
    listed = f"; allowed: {_list(allowed)}" if allowed else ""
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
    return "not-allowed", f"expected one of {_list(words)}, found {_found(error.instance)}", hint


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
    text = " ".join(str(value).split())
    return text if len(text) <= _MAX_TEXT_LENGTH else f"{text[:_MAX_TEXT_LENGTH]}…"


def _list(words: list[str]) -> str:
    more = ", …" if len(words) > _MAX_NAMES else ""
    return ", ".join(words[:_MAX_NAMES]) + more


def _either(words: Iterable[str]) -> str:
    *most, last = dict.fromkeys(words) or ["something else"]
    return f"{', '.join(most)} or {last}" if most else last


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
