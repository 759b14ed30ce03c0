"""Check the paths and operators of a rule against the payload schemas of its events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...documents.cursor import Diagnostics, DocumentNode
from ...model.problems import DocumentPath
from ...model.wording import listing, nearest
from ...rules.analysis import TEXTUAL, conditions
from ...rules.condition_compiler import normalise
from ...rules.operators import NUMERIC, OPERATORS, is_scalar, one_of
from ...rules.paths import FieldPath, format_path, parse_path
from ...rules.payload_schema import Shape, describe_types, type_of
from ...rules.rulebook import Audience
from .context import EventShapes, SourceRule

_ASKS = {**dict.fromkeys(NUMERIC, frozenset({"number"})), **dict.fromkeys(TEXTUAL, frozenset({"string"}))}
_ADDRESS = frozenset({"string", "number"})  # numbers become texts: user ids


def check(source: SourceRule, diagnostics: Diagnostics) -> None:
    """Check every path and operator of the rule and of its notify entries."""
    _FieldLint(source, diagnostics).check()


def suggestion(path: FieldPath, fields: Sequence[str]) -> str:
    """Return a hint which of ``fields`` an unknown path may mean, or ""."""
    ends = [field for field in fields if field.rpartition(".")[2].lower() == path[-1].lower()]
    return f"did you mean '{ends[0]}'?" if len(ends) == 1 else nearest(format_path(path), fields)


class _FieldLint:
    def __init__(self, source: SourceRule, diagnostics: Diagnostics) -> None:
        self.source = source
        self.events: EventShapes = source.events
        self.diagnostics = diagnostics

    def check(self) -> None:
        rule, entry = self.source.rule, self.source.entry
        self.audience(entry.get("to"), rule.to)
        settings = list(self.source.settings())
        for at, notify in settings:
            self.audience(at.get("to"), notify.to)
        if not self.events.checkable:
            return
        for limit in filter(None, map(entry.get, ("dedupe", "throttle", "digest"))):
            for each in (limit / "key").each():
                self.key(each)
        shapes = list(self.events.shapes.values())
        for holder in (entry, *(at for at, _ in settings)):
            if (when := holder.get("when")) is not None:
                self.block(when, when.value, (), shapes, ())

    def audience(self, to: DocumentNode | None, audience: Audience | None) -> None:
        """Check the fields of ``to``: an event without such a field would notify nobody."""
        if to is None or audience is None or audience.person:
            return
        for each in to.items():
            if each.name not in audience.fields:
                continue  # it did not compile
            path = parse_path(each.value)
            lacking = [n for n, shape in self.events.shapes.items() if shape.at(path) is None]
            if lacking and (self.events.exact or len(lacking) == len(self.events.shapes)):
                self.unknown_name(each, path, lacking, at_key=False)
                continue
            found = [shape.at(path) for shape in self.events.shapes.values()]
            types = _types([shape.tested() for shape in found if shape is not None])
            if types and not types & _ADDRESS:
                message = f"{each.value} is {describe_types(types)}, and {each.name} must be text"
                self.report(each, "operator-type", message)

    def key(self, at: DocumentNode) -> None:
        """Check a field of a key: all events that lack it would count as equal."""
        try:
            path = parse_path(at.value)
        except ValueError:
            return  # the compiler has reported it
        lacking = [name for name, shape in self.events.shapes.items() if shape.at(path) is None]
        if lacking and (self.events.exact or len(lacking) == len(self.events.shapes)):
            self.unknown_name(at, path, lacking, at_key=False)

    def block(
        self,
        when: DocumentNode,
        block: Mapping[str, Any],
        at: DocumentPath,
        shapes: Sequence[Shape],
        above: FieldPath,
    ) -> None:
        def is_flawed(at: DocumentPath) -> bool:
            return self.source.is_flawed((*when.path, *at))

        for place, path, source in conditions(block, at, is_flawed):
            found = [inside for shape in shapes if (inside := shape.at(path)) is not None]
            if not found:
                self.unknown_name(when.below(place), (*above, *path), list(self.events.shapes), at_key=True)
            else:
                self.condition(when, source, place, found, (*above, *path))

    def condition(
        self,
        when: DocumentNode,
        source: Any,
        at: DocumentPath,
        found: Sequence[Shape],
        path: FieldPath,
        *,
        folded: bool = False,
    ) -> None:
        """Check one condition; if ``folded``, a condition around it ignores case."""
        operators = normalise(source)
        folded = folded or operators.get("ignore_case") is True
        spelled = isinstance(source, Mapping)
        for name, argument in operators.items():
            here = (*at, name) if spelled else at
            if name == "some":
                self.some(when, argument, here, found, path)
            elif name == "not":
                self.condition(when, argument, here, found, path, folded=folded)
            elif name == "equals":
                self.value(when.below(here), argument, found, path, folded=folded)
            elif name == "any_of":
                for position, item in enumerate(argument):
                    if is_scalar(item):
                        self.value(when.below((*here, position)), item, found, path, folded=folded)
                    else:
                        self.condition(when, item, (*here, position), found, path, folded=folded)
            else:
                self.operator(when.below(here), name, argument, found, path, folded=folded)

    def some(
        self, when: DocumentNode, argument: Any, at: DocumentPath, found: Sequence[Shape], path: FieldPath
    ) -> None:
        elements = [inside for shape in found if (inside := shape.elements()) is not None]
        if elements:
            self.block(when, argument, at, elements, path)
        else:
            self.type(when.below(at), "some needs a list", _types(found), path)

    def operator(
        self,
        at: DocumentNode,
        name: str,
        argument: Any,
        found: Sequence[Shape],
        path: FieldPath,
        *,
        folded: bool,
    ) -> None:
        asked = [shape.tested() for shape in found]
        types = _types(asked)
        if name in _ASKS and types and not types & _ASKS[name]:
            self.type(at, f"{name} needs {describe_types(_ASKS[name])}", types, path)
        elif name == "length" and not _types(found) & {"string", "list"}:
            self.type(at, "length needs a string or a list", _types(found), path)
        elif name == "is":
            wanted = {argument} if isinstance(argument, str) else set(argument)
            if not wanted & _types(found):
                self.type(at, f"is needs {argument}", _types(found), path)
        elif name in _ASKS and not folded:
            values = _values(asked)
            if values is not None and not any(map(OPERATORS[name].compile(argument), values)):
                message = f"{format_path(path)} is one of {_listed(values)}; none of them satisfies {name}"
                self.report(at, "impossible-value", message, at_key=True)

    def value(
        self, at: DocumentNode, value: Any, found: Sequence[Shape], path: FieldPath, *, folded: bool
    ) -> None:
        """Check a value that the field is compared with: the field must be able to have it."""
        asked = [shape.tested() for shape in found]
        types, kind, name = _types(asked), type_of(value), format_path(path)
        if value is None or not types:
            return  # a comparison with null is mostly a precaution
        if kind not in types:
            hint = _quotes(value, types)
            message = f"{name} is {describe_types(types)}, never {describe_types(frozenset({kind}))}"
            self.report(at, "impossible-value", message, hint=hint)
            return
        values = _values(asked)
        if values is None or one_of(values)(value) or folded:
            return
        message = f"{name} is one of {_listed(values)}, never {_written(value)}"
        self.report(at, "impossible-value", message, hint=nearest(value, values))

    def type(self, at: DocumentNode, asks: str, types: frozenset[str], path: FieldPath) -> None:
        self.report(
            at, "operator-type", f"{asks}; {format_path(path)} is {describe_types(types)}", at_key=True
        )

    def unknown_name(self, at: DocumentNode, path: FieldPath, events: Sequence[str], *, at_key: bool) -> None:
        names = sorted(events)
        fields = list(dict.fromkeys(f for name in names for f in self.events.shapes[name].fields()))
        who = listing(names, 3)
        verb = "has" if len(names) == 1 else "have"
        message = f"{who} {verb} no field {format_path(path)!r}"
        self.report(at, "unknown-path", message, hint=suggestion(path, fields), at_key=at_key)

    def report(
        self, at: DocumentNode, code: str, message: str, *, hint: str = "", at_key: bool = False
    ) -> None:
        self.diagnostics.add(at, code, message, hint=hint, severity=self.events.severity, at_key=at_key)


def _types(shapes: Sequence[Shape]) -> frozenset[str]:
    return frozenset().union(*(shape.types for shape in shapes))


def _values(shapes: Sequence[Shape]) -> list[Any] | None:
    listed = [shape.values for shape in shapes]
    if any(values is None for values in listed):
        return None
    return [value for values in listed for value in values or ()]


def _quotes(value: Any, types: frozenset[str]) -> str:
    if not isinstance(value, str) and "string" in types:
        return "put it in quotes"
    if isinstance(value, str) and "number" in types and value.lstrip("-").replace(".", "", 1).isdigit():
        return "write it without quotes"
    if "boolean" in types and str(value).lower() in ("true", "false"):
        return "write it without quotes"
    if "boolean" in types and str(value).lower() in ("yes", "no", "on", "off"):
        return "write true or false"
    return ""


def _listed(values: Sequence[Any]) -> str:
    return listing(list(map(_written, values)), 8)


def _written(value: Any) -> str:
    """Return a scalar as YAML has it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
