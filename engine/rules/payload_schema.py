"""Look up a path in a payload schema: does the field exist, and which values may it have?

Where a schema says nothing (no type, no properties, an external reference), any value is possible.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..model.wording import join_or
from .paths import FieldPath, format_path

PayloadSchema = Mapping[str, Any]
_Part = tuple[PayloadSchema, ...]  # schemas that apply to the same value

_FROM_JSON = {
    "null": "null", "boolean": "boolean", "integer": "number", "number": "number",
    "string": "string", "array": "list", "object": "object",
}  # fmt: skip
_TO_JSON = {"list": "array"}
TYPES = frozenset(_FROM_JSON.values())  # as the operator `is` names them
_DESCRIPTIONS = {
    "null": "null",
    "boolean": "true or false",
    "number": "a number",
    "string": "a string",
    "list": "a list",
    "object": "a mapping",
}
_MAX_PARTS = 64  # alternatives; with more, any value is possible
_MAX_DEPTH = 16  # nested references and combinations
_MAX_FIELD_DEPTH, _MAX_FIELDS = 5, 500  # of the fields offered as "did you mean"
_OPENING = ("if", "then", "else", "dependentSchemas", "$dynamicRef")  # not analysed here


def type_of(value: object) -> str:
    """Return the type of a JSON value by its name in the operator ``is``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "list" if isinstance(value, list) else "object"


def describe_types(types: frozenset[str]) -> str:
    """Return types as text: ``a string or null``. Null comes last."""
    described = [_DESCRIPTIONS[name] for name in sorted(types, key=lambda name: (name == "null", name))]
    return join_or(described or ["nothing"])


@dataclass(frozen=True, slots=True)
class Shape:
    """The values that are possible at one place of a payload."""

    root: PayloadSchema  # that references refer to
    parts: tuple[_Part, ...]  # the alternatives

    @classmethod
    def of(cls, schema: PayloadSchema) -> Shape:
        return cls(schema, tuple(_expand(schema, schema)))

    @property
    def types(self) -> frozenset[str]:
        return frozenset().union(*map(_types, self.parts))

    @property
    def values(self) -> tuple[Any, ...] | None:
        """The only possible values; None if the schema does not list them."""
        listed = [_values(part) for part in self.parts]
        if not listed or any(values is None for values in listed):
            return None
        return tuple(value for values in listed for value in values or ())

    @property
    def names(self) -> tuple[str, ...]:
        """The keys that the schema describes."""
        parts = [part for part in self.parts if "object" in _types(part)]
        return tuple(dict.fromkeys(name for part in parts for schema in part for name in _properties(schema)))

    def key(self, key: str) -> Shape | None:
        """Return the shape under ``key`` of a mapping; None if the schema has no such key."""
        found: list[_Part] = []
        for part in self.parts:
            if "object" in _types(part):
                found += self._under(part, key)
        return Shape(self.root, tuple(found[:_MAX_PARTS])) if found else None

    def elements(self) -> Shape | None:
        """Return the shape of the elements of a list; None if no list is possible."""
        found: list[_Part] = []
        for part in self.parts:
            if "list" not in _types(part):
                continue
            schemas = [s for schema in part for s in (*schema.get("prefixItems", ()), schema.get("items"))]
            for each in [s for s in schemas if s is not None] or [True]:
                found += _expand(self.root, each)
        return Shape(self.root, tuple(found[:_MAX_PARTS])) if found else None

    def step(self, key: str, depth: int = 0) -> Shape | None:
        """Return the shape one key further on a path, which descends into the elements of lists."""
        found = list((self.key(key) or Shape(self.root, ())).parts)
        inside = self.elements() if depth < _MAX_DEPTH else None
        if inside is not None:
            if key.isascii() and key.isdigit():
                found += inside.parts
            else:
                found += (inside.step(key, depth + 1) or Shape(self.root, ())).parts
        return Shape(self.root, tuple(found[:_MAX_PARTS])) if found else None

    def at(self, path: Sequence[str]) -> Shape | None:
        """Return the shape at ``path``; None if the schema has no such field."""
        shape: Shape | None = self
        for key in path:
            shape = shape.step(key) if shape is not None else None
        return shape

    def tested(self, depth: int = 0) -> Shape:
        """Return the shape that operators test: elements in place of lists."""
        found: list[_Part] = []
        for part in self.parts:
            types = _types(part)
            if "list" not in types:
                found.append(part)
            elif types - {"list"}:
                kept = [_TO_JSON.get(name, name) for name in sorted(types - {"list"})]
                found.append((*part, {"type": kept}))
        inside = self.elements() if depth < _MAX_DEPTH else None
        if inside is not None:
            found += inside.tested(depth + 1).parts
        return Shape(self.root, tuple(found[:_MAX_PARTS]))

    def is_single(self, path: Sequence[str]) -> bool:
        """Return whether ``path`` leads to at most one value, which is no list."""
        shape: Shape | None = self
        for key in path:
            if shape is None or "list" in shape.types:
                return False
            shape = shape.key(key)
        return shape is not None and "list" not in shape.types

    def fields(self) -> list[str]:
        """Return the paths of the described fields, nested ones included, up to a limit."""
        return [format_path(path) for path, _ in zip(_fields(self, (), 0), range(_MAX_FIELDS), strict=False)]

    def _under(self, part: _Part, key: str) -> list[_Part]:
        declared: list[Any] = []
        closed = False
        for schema in part:
            here = [_properties(schema)[key]] if key in _properties(schema) else _by_pattern(schema, key)
            extra = schema.get("additionalProperties")
            if not here and isinstance(extra, Mapping) and extra:
                here = [extra]
            declared += here
            described = _properties(schema) or schema.get("patternProperties") or extra is False
            closed = closed or bool(described and not here)
        if not declared and closed and not any(name in schema for schema in part for name in _OPENING):
            return []
        inner = [_expand(self.root, each) for each in declared or [True]]
        return _combine(inner)


def _fields(shape: Shape, above: FieldPath, depth: int) -> Iterator[FieldPath]:
    for name in shape.names:
        inside = shape.key(name)
        yield (*above, name)
        if inside is not None and depth < _MAX_FIELD_DEPTH:
            yield from _fields(inside.tested(), (*above, name), depth + 1)


def _expand(root: PayloadSchema, schema: Any, depth: int = 0) -> list[_Part]:
    """Return the alternatives of a schema, with references resolved; the empty schema if it is too deep."""
    if not isinstance(schema, Mapping):
        return [] if schema is False else [({},)]
    if depth > _MAX_DEPTH:
        return [({},)]
    groups: list[list[_Part]] = [[(schema,)]]
    if isinstance(reference := schema.get("$ref"), str):
        groups.append(_expand(root, _resolve(root, reference), depth + 1))
    groups += [_expand(root, each, depth + 1) for each in schema.get("allOf", ())]
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            groups.append([part for each in schema[keyword] for part in _expand(root, each, depth + 1)])
    return _combine(groups)


def _combine(groups: list[list[_Part]]) -> list[_Part]:
    """Combine one alternative of each group in every way."""
    size = 1
    for group in groups:
        size *= len(group)
    if size > _MAX_PARTS:
        return [({},)]
    return [tuple(schema for part in chosen for schema in part) for chosen in product(*groups)]


def _resolve(root: PayloadSchema, reference: str) -> Any:
    """Resolve a reference; an external one allows any value (``True``)."""
    if not reference.startswith("#"):
        return True
    found: Any = root
    for step in reference[1:].split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or key not in found:
            return True
        found = found[key]
    return found


def _types(part: _Part) -> frozenset[str]:
    types = TYPES
    for schema in part:
        declared = schema.get("type")
        if declared is not None:
            names = [declared] if isinstance(declared, str) else declared
            types &= frozenset(_FROM_JSON[name] for name in names)
        if (values := _listed(schema)) is not None:
            types &= frozenset(map(type_of, values))
    return types


def _values(part: _Part) -> list[Any] | None:
    """Return the values that every ``enum`` and ``const`` of the part allows."""
    lists = [values for schema in part if (values := _listed(schema)) is not None]
    if not lists:
        return None
    types = _types(part)
    first, *others = lists
    return [v for v in first if type_of(v) in types and all(v in values for values in others)]


def _listed(schema: PayloadSchema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return list(values) if isinstance(values, list) else None


def _properties(schema: PayloadSchema) -> PayloadSchema:
    found: PayloadSchema = schema.get("properties", {})
    return found


def _by_pattern(schema: PayloadSchema, key: str) -> list[Any]:
    found = []
    for pattern, inside in schema.get("patternProperties", {}).items():
        try:
            if re.search(pattern, key):
                found.append(inside)
        except re.error:  # another dialect of patterns: it may match
            found.append(True)
    return found
