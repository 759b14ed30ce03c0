"""From a JSON Schema to what checks a value: the library's validator, and a fast way past it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend as _library_extend

Schema = Mapping[str, Any]

_extend: Any = _library_extend  # it has no type information


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
    """STRICT for ``schema``, with the same errors, but much faster where a value fits."""
    predicates = Predicates(schema)
    slow = STRICT.VALIDATORS["$ref"]

    def ref(validator: Any, target: str, instance: Any, parent: Any) -> Iterator[ValidationError]:
        # The library takes half a millisecond a rule; what fits is not worth it.
        if not predicates.ref(target)(instance):
            yield from slow(validator, target, instance, parent)

    return _extend(STRICT, validators={"$ref": ref})(schema)


_Predicate = Callable[[Any], bool]
_IGNORED = frozenset({"$schema", "$id", "$defs", "title", "description", "default", "examples", "then"})


class Predicates:
    """A schema as functions that only say whether a value fits, and say it fast.

    They know the keywords that the packaged schemas use. A definition with any other never "fits",
    which leaves it to the library. A test holds the two together.
    """

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._refs: dict[str, _Predicate] = {}

    def ref(self, target: str) -> _Predicate:
        if target not in self._refs:

            def later(value: Any) -> bool:  # for a definition that is inside itself
                return self._refs[target](value)

            self._refs[target] = later
            self._refs[target] = self.of(dereference(self._root, {"$ref": target}))
        return self._refs[target]

    def of(self, schema: Any) -> _Predicate:
        if isinstance(schema, bool):
            return lambda _value: schema
        parts = [
            self._part(keyword, value, schema)
            for keyword, value in schema.items()
            if keyword not in _IGNORED and not keyword.startswith("x-")
        ]
        if len(parts) == 1:
            return parts[0]
        return lambda value: all(part(value) for part in parts)

    def _part(self, keyword: str, wanted: Any, schema: Schema) -> _Predicate:  # noqa: PLR0911  a line a keyword
        if keyword in _SIMPLE:
            return _SIMPLE[keyword](wanted)
        if keyword == "$ref":
            return self.ref(wanted)
        if keyword in ("anyOf", "allOf"):
            branches = [self.of(branch) for branch in wanted]
            some = any if keyword == "anyOf" else all
            return lambda value: some(branch(value) for branch in branches)
        if keyword == "items":
            item = self.of(wanted)
            return lambda value: not isinstance(value, list) or all(item(entry) for entry in value)
        if keyword == "propertyNames":
            name = self.of(wanted)
            return lambda value: not isinstance(value, dict) or all(name(key) for key in value)
        if keyword in ("properties", "additionalProperties"):
            return self._properties(keyword, schema)
        if keyword == "if" and "else" not in schema:
            condition, then = self.of(wanted), self.of(schema.get("then", True))
            return lambda value: not condition(value) or then(value)
        return lambda _value: False

    def _properties(self, keyword: str, schema: Schema) -> _Predicate:
        known = {name: self.of(inside) for name, inside in schema.get("properties", {}).items()}
        if keyword == "properties":
            return lambda value: (
                not isinstance(value, dict)
                or all(known[key](inside) for key, inside in value.items() if key in known)
            )
        other = self.of(schema["additionalProperties"]) if "patternProperties" not in schema else _never
        return lambda value: (
            not isinstance(value, dict)
            or all(other(inside) for key, inside in value.items() if key not in known)
        )


def _never(_value: Any) -> bool:
    return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: dict[str, _Predicate] = {
    "string": lambda value: isinstance(value, str),
    "number": _is_number,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}


def _of_type(wanted: str | list[str]) -> _Predicate:
    if isinstance(wanted, str):
        return _TYPES[wanted]
    kinds = [_TYPES[name] for name in wanted]
    return lambda value: any(kind(value) for kind in kinds)


def _one_of(wanted: list[Any]) -> _Predicate:
    """Scalars only; true is not 1, and 1 is 1.0."""
    pairs = [(isinstance(word, bool), word) for word in wanted]
    return lambda value: (isinstance(value, bool), value) in pairs


def _matching(pattern: str) -> _Predicate:
    search = regex(pattern).search
    return lambda value: not isinstance(value, str) or search(value) is not None


def _together(wanted: Mapping[str, list[str]]) -> _Predicate:
    return lambda value: (
        not isinstance(value, dict)
        or all(key in value for beside, keys in wanted.items() if beside in value for key in keys)
    )


_SIMPLE: dict[str, Callable[[Any], _Predicate]] = {
    "type": _of_type,
    "enum": _one_of,
    "const": lambda wanted: _one_of([wanted]),
    "pattern": _matching,
    "dependentRequired": _together,
    "minLength": lambda least: lambda value: not isinstance(value, str) or len(value) >= least,
    "minItems": lambda least: lambda value: not isinstance(value, list) or len(value) >= least,
    "minProperties": lambda least: lambda value: not isinstance(value, dict) or len(value) >= least,
    "minimum": lambda least: lambda value: not _is_number(value) or value >= least,
    "maximum": lambda most: lambda value: not _is_number(value) or value <= most,
    "required": lambda wanted: (
        lambda value: not isinstance(value, dict) or all(key in value for key in wanted)
    ),
}
