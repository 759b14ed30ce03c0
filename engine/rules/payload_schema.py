"""Look up one path in a payload schema: whether the field exists, and which values it may have.

Where a schema is silent (no type, no properties, a reference outside it), any value is possible.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..model.wording import either
from .paths import FieldPath, format_path

PayloadSchema = Mapping[str, Any]
_Part = tuple[PayloadSchema, ...]  # schemas that all hold of one value

_FROM_JSON = {
    "null": "null", "boolean": "boolean", "integer": "number", "number": "number",
    "string": "string", "array": "list", "object": "object",
}  # fmt: skip
_TO_JSON = {"list": "array"}
TYPES = frozenset(_FROM_JSON.values())  # as the operator `is` names them
_IN_WORDS = {
    "null": "null",
    "boolean": "true or false",
    "number": "a number",
    "string": "a string",
    "list": "a list",
    "object": "a mapping",
}
_MAX_PARTS = 64  # alternatives followed; beyond that anything may stand
_MAX_DEPTH = 16  # references and combinations inside one another
_MAX_FIELD_DEPTH = 5  # keys of a field that is offered as "did you mean"
_MAX_FIELDS = 500
_OPENING = ("if", "then", "else", "dependentSchemas", "$dynamicRef")  # may say more than is read here


def type_of(value: object) -> str:
    """The type of a value as it comes from JSON or YAML, as the operator ``is`` names it."""
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
    """``a string or null``; null comes last."""
    words = [_IN_WORDS[name] for name in sorted(types, key=lambda name: (name == "null", name))]
    return either(words or ["nothing"])


@dataclass(frozen=True, slots=True)
class Shape:
    """What may stand at one place of a payload."""

    root: PayloadSchema  # where references begin
    parts: tuple[_Part, ...]  # the alternatives

    @classmethod
    def of(cls, schema: PayloadSchema) -> Shape:
        return cls(schema, tuple(_expand(schema, schema)))

    @property
    def types(self) -> frozenset[str]:
        return frozenset().union(*map(_types, self.parts))

    @property
    def values(self) -> tuple[Any, ...] | None:
        """The only values that may stand here; None where the schema does not list them."""
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
        """What stands under ``key`` of a mapping; None where the schema has no such key."""
        found: list[_Part] = []
        for part in self.parts:
            if "object" in _types(part):
                found += self._under(part, key)
        return Shape(self.root, tuple(found[:_MAX_PARTS])) if found else None

    def elements(self) -> Shape | None:
        """What the elements of a list are; None where no list may stand here."""
        found: list[_Part] = []
        for part in self.parts:
            if "list" not in _types(part):
                continue
            schemas = [s for schema in part for s in (*schema.get("prefixItems", ()), schema.get("items"))]
            said = [s for s in schemas if s is not None]
            for each in said or [True]:
                found += _expand(self.root, each)
        return Shape(self.root, tuple(found[:_MAX_PARTS])) if found else None

    def step(self, key: str, depth: int = 0) -> Shape | None:
        """As a path goes: under a key, and into the elements of lists."""
        found = list((self.key(key) or Shape(self.root, ())).parts)
        inside = self.elements() if depth < _MAX_DEPTH else None
        if inside is not None:
            if key.isascii() and key.isdigit():
                found += inside.parts
            else:
                found += (inside.step(key, depth + 1) or Shape(self.root, ())).parts
        return Shape(self.root, tuple(found[:_MAX_PARTS])) if found else None

    def at(self, path: Sequence[str]) -> Shape | None:
        """What ``path`` leads to; None where it leads nowhere."""
        shape: Shape | None = self
        for key in path:
            shape = shape.step(key) if shape is not None else None
        return shape

    def asked(self, depth: int = 0) -> Shape:
        """What an operator is asked of: the elements in the place of lists."""
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
            found += inside.asked(depth + 1).parts
        return Shape(self.root, tuple(found[:_MAX_PARTS]))

    def is_single(self, path: Sequence[str]) -> bool:
        """Whether ``path`` leads to one value that is no list, if it leads anywhere."""
        shape: Shape | None = self
        for key in path:
            if shape is None or "list" in shape.types:
                return False
            shape = shape.key(key)
        return shape is not None and "list" not in shape.types

    def fields(self) -> list[str]:
        """The described fields as paths, those inside others too, up to a bound."""
        return [format_path(path) for path, _ in zip(_fields(self, (), 0), range(_MAX_FIELDS), strict=False)]

    def _under(self, part: _Part, key: str) -> list[_Part]:
        said: list[Any] = []
        closed = False
        for schema in part:
            here = [_properties(schema)[key]] if key in _properties(schema) else _by_pattern(schema, key)
            extra = schema.get("additionalProperties")
            if not here and isinstance(extra, Mapping) and extra:
                here = [extra]
            said += here
            described = _properties(schema) or schema.get("patternProperties") or extra is False
            closed = closed or bool(described and not here)
        if not said and closed and not any(name in schema for schema in part for name in _OPENING):
            return []
        inner = [_expand(self.root, each) for each in said or [True]]
        return _together(inner)


def _fields(shape: Shape, above: FieldPath, depth: int) -> Iterator[FieldPath]:
    for name in shape.names:
        inside = shape.key(name)
        yield (*above, name)
        if inside is not None and depth < _MAX_FIELD_DEPTH:
            yield from _fields(inside.asked(), (*above, name), depth + 1)


def _expand(root: PayloadSchema, schema: Any, depth: int = 0) -> list[_Part]:
    """The alternatives of a schema, references followed; the empty schema where it is beyond reading."""
    if not isinstance(schema, Mapping):
        return [] if schema is False else [({},)]
    if depth > _MAX_DEPTH:
        return [({},)]
    groups: list[list[_Part]] = [[(schema,)]]
    if isinstance(reference := schema.get("$ref"), str):
        groups.append(_expand(root, _follow(root, reference), depth + 1))
    groups += [_expand(root, each, depth + 1) for each in schema.get("allOf", ())]
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            groups.append([part for each in schema[keyword] for part in _expand(root, each, depth + 1)])
    return _together(groups)


def _together(groups: list[list[_Part]]) -> list[_Part]:
    """One alternative of each group, all holding."""
    size = 1
    for group in groups:
        size *= len(group)
    if size > _MAX_PARTS:
        return [({},)]
    return [tuple(schema for part in chosen for schema in part) for chosen in product(*groups)]


def _follow(root: PayloadSchema, reference: str) -> Any:
    """What a reference inside the schema leads to; anything (``True``) where it leads out of it."""
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
        said = schema.get("type")
        if said is not None:
            names = [said] if isinstance(said, str) else said
            types &= frozenset(_FROM_JSON[name] for name in names)
        if (values := _listed(schema)) is not None:
            types &= frozenset(map(type_of, values))
    return types


def _values(part: _Part) -> list[Any] | None:
    """The values that every list of values in the part has."""
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
        except re.error:  # another dialect of patterns: it may be meant
            found.append(True)
    return found
