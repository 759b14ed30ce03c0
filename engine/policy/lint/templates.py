"""Check the variables of templates against those that events, rules and the site provide."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes

from ...documents.cursor import Diagnostics
from ...model.problems import Place, Problem
from ...model.wording import listing, nearest
from ...rules.payload_schema import Shape
from ...templates.library import TEMPLATE_FOLDER, TemplateSource
from .context import LintContext
from .fields import suggestion

_PARSER = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # noqa: S701 -- parses, never renders
_BUILTIN = {  # variables of templates other than payload, vars and site
    "event": ("kind", "key", "reqid", "sent", "received"),
    "rule": ("id", "description", "severity"),
    "recipient": ("user", "address", "locale"),
}
_GUARDS = ("defined", "undefined", "default", "d")  # tests and filters that accept a missing value
_METHODS = {"string": str, "list": list, "object": dict, "number": float, "boolean": bool}

VariablePath = tuple[str, ...]  # the variable, then the keys


@dataclass(frozen=True, slots=True)
class VariableUse:
    """A use of a variable in a template."""

    path: VariablePath
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class _Text:
    """The variables that one file uses."""

    uses: Sequence[VariableUse]
    guarded: frozenset[VariablePath]  # used only if they are defined
    others: Sequence[str]  # files that it includes or extends


@dataclass(slots=True)
class _AvailableVariables:
    """The variables that the rules of a template provide."""

    payloads: dict[str, Shape] = field(default_factory=dict)
    exact: bool = True
    complete: bool = True
    vars: list[Shape] = field(default_factory=list)


def check(context: LintContext, diagnostics: Diagnostics) -> None:
    texts = {source.path: text for source in context.sources if (text := _read(source)) is not None}
    lines = {source.path: source for source in context.sources}
    site = _shape_of(context.rulebook.defaults.site)
    reported: set[VariableUse] = set()
    files: dict[str, list[str]] = {}  # by template
    for path in sorted(texts):
        files.setdefault(posixpath.dirname(path).split("/")[0], []).append(path)
    for name, given in _given(context).items():
        for path in files.get(name, ()):
            everything = list(_reachable(path, texts))
            guarded = frozenset(each for file in everything for each in texts[file].guarded)
            for use in (use for file in everything for use in texts[file].uses):
                if use not in reported and (problem := _judge(use, given, site, guarded, lines)):
                    reported.add(use)
                    diagnostics.problems.append(problem)


def _given(context: LintContext) -> dict[str, _AvailableVariables]:
    """Return the variables of each template, from the rules that use it."""
    found: dict[str, _AvailableVariables] = {}
    for source in context.rules:
        for notify in source.rule.steps:
            given = found.setdefault(notify.template or source.rule.template, _AvailableVariables())
            given.payloads.update(source.events.shapes)
            given.exact = given.exact and source.events.exact
            given.complete = given.complete and source.events.complete
            given.vars.append(_shape_of({**source.rule.vars, **notify.vars}))
    for action in context.actions:
        # No schema describes the requests for an action.
        if isinstance(action.value, Mapping):
            given = found.setdefault(str(action.value.get("template", action.name)), _AvailableVariables())
            given.complete = False
            given.vars.append(Shape.of({}))
    return found


def _judge(
    use: VariableUse,
    given: _AvailableVariables,
    site: Shape,
    guarded: frozenset[VariablePath],
    sources: Mapping[str, TemplateSource],
) -> Problem | None:
    """Return the problem of one use, if there is one."""
    is_guarded = any(use.path[: len(path)] == path for path in guarded)
    judged = _judge_payload(use, given, is_guarded) if use.path[0] == "payload" else None
    if use.path[0] != "payload" and not is_guarded:
        judged = _judge_other(use, given, site)
    if judged is None:
        return None
    place = Place(file=TEMPLATE_FOLDER + use.file, line=use.line, column=_column(sources[use.file], use))
    message, hint, severity = judged
    return Problem(place=place, code="unknown-field", message=message, hint=hint, severity=severity)


def _judge_payload(
    use: VariableUse, given: _AvailableVariables, is_guarded: bool
) -> tuple[str, str, str] | None:
    keys = use.path[1:]
    lacking = sorted(name for name, shape in given.payloads.items() if not _has(shape, keys))
    if not given.complete or not lacking:
        return None
    if len(lacking) < len(given.payloads) and (is_guarded or not given.exact):
        return None
    who = f"{listing(lacking, 3)} {'have' if lacking[1:] else 'has'}"
    fields = list(dict.fromkeys(f for name in lacking for f in given.payloads[name].fields()))
    hint = suggestion(keys, fields).replace("did you mean '", "did you mean 'payload.")
    return f"{who} no field {'.'.join(keys)!r}", hint, "error" if given.exact else "warning"


def _judge_other(use: VariableUse, given: _AvailableVariables, site: Shape) -> tuple[str, str, str] | None:
    top, *keys = use.path
    if top == "vars":
        shapes, who = given.vars, "no rule with this template sets"
    elif top == "site":
        shapes, who = [site], "defaults.site does not have"
    else:
        shapes, who = [_shape_of(dict.fromkeys(_BUILTIN[top]))], "templates do not have"
    if any(_has(shape, keys) for shape in shapes):
        return None
    names = sorted({name for shape in shapes for name in shape.names})
    hint = nearest(keys[0], names).replace("did you mean '", f"did you mean '{top}.")
    return f"{who} {'.'.join(use.path)}", hint, "error"


def _column(source: TemplateSource, use: VariableUse) -> int:
    """Return the column of the variable in its line; 1 if it is not found."""
    lines = source.text.splitlines()
    text = lines[use.line - 1] if use.line <= len(lines) else ""
    if not text and source.subject is not None:
        return 1  # the lines do not contain the front matter
    whole, last = re.escape(".".join(use.path)), re.escape(use.path[-1])
    found = re.search(rf"\b{whole}\b", text) or re.search(rf"[\w.]*\.{last}\b", text)
    return found.start() + 1 if found else 1


def _has(shape: Shape, keys: Sequence[str]) -> bool:
    """Return whether a template can use ``keys``: methods count, and a list needs a position."""
    for key in keys:
        inside = shape.key(key)
        if inside is None and key.isdigit():
            inside = shape.elements()
        if inside is None:
            return any(hasattr(_METHODS[name], key) for name in shape.types if name in _METHODS)
        shape = inside
    return True


def _shape_of(value: Mapping[str, Any]) -> Shape:
    """Return the shape of a known mapping: it has exactly these keys."""
    return Shape.of(_schema_of(value))


def _schema_of(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {}
    inside = {str(key): _schema_of(each) for key, each in value.items()}
    return {"type": "object", "properties": inside, "additionalProperties": False}


def _reachable(path: str, texts: Mapping[str, _Text]) -> Iterator[str]:
    """Yield the file and all files that it includes or extends."""
    pending, seen = [path], set()
    while pending:
        file = pending.pop()
        if file in texts and file not in seen:
            seen.add(file)
            pending += texts[file].others
            yield file


@lru_cache(maxsize=4096)  # a reload changes few files
def _read(source: TemplateSource) -> _Text | None:
    reader = _VariableCollector(source.path)
    try:
        reader.visit(_PARSER.parse(source.text), {})
        if source.subject is not None:
            reader.offset = source.subject_line - 1
            reader.visit(_PARSER.parse(source.subject), {})
    except (jinja2.TemplateSyntaxError, RecursionError):
        return None  # the compiler has reported it
    return _Text(list(dict.fromkeys(reader.uses)), frozenset(reader.guarded), reader.others)


_Scope = Mapping[str, VariablePath | None]  # names that the template defines; None: of unknown content


class _VariableCollector:
    """A collector of the variables that one file uses."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.offset = 0
        self.uses: list[VariableUse] = []
        self.guarded: set[VariablePath] = set()
        self.others: list[str] = []

    def visit(self, node: nodes.Node, scope: _Scope) -> None:
        if isinstance(node, nodes.Getattr | nodes.Getitem):
            self.access(node, scope)
        elif isinstance(node, nodes.For):
            self.loop(node, scope)
        elif isinstance(node, nodes.With):
            inner = dict(scope)
            for target, value in zip(node.targets, node.values, strict=True):
                self.visit(value, scope)
                inner |= _bound(target, value, scope)
            self.children(node.body, inner)
        elif isinstance(node, nodes.Macro | nodes.CallBlock):
            self.children(node.body, {**scope, **{argument.name: None for argument in node.args}})
        else:
            self.note(node, scope)
            self.children(node.iter_child_nodes(), scope)

    def children(self, children: Iterable[nodes.Node], scope: _Scope) -> None:
        """Visit each in turn; a name that one sets is visible to the next ones."""
        inner = dict(scope)
        for child in children:
            self.visit(child, inner)
            if isinstance(child, nodes.Assign):
                inner |= _bound(child.target, child.node, inner)
            elif isinstance(child, nodes.AssignBlock):
                inner |= dict.fromkeys(_names(child.target))
            elif isinstance(child, nodes.Import):
                inner[child.target] = None

    def loop(self, node: nodes.For, scope: _Scope) -> None:
        self.visit(node.iter, scope)
        inner: dict[str, VariablePath | None] = {**scope, **dict.fromkeys(_names(node.target)), "loop": None}
        path = _path(node.iter, scope)
        if isinstance(node.target, nodes.Name) and path is not None:
            inner[node.target.name] = (*path, "0")
        self.children([*node.body, *([node.test] if node.test else [])], inner)
        self.children(node.else_, scope)

    def note(self, node: nodes.Node, scope: _Scope) -> None:
        """Note what a node guards or includes."""
        if isinstance(node, nodes.Extends | nodes.Include | nodes.Import | nodes.FromImport):
            self.reference(node.template)
        elif isinstance(node, nodes.Test | nodes.Filter) and node.name in _GUARDS and node.node is not None:
            self.guard(node.node, scope)

    def access(self, node: nodes.Getattr | nodes.Getitem, scope: _Scope) -> None:
        path = _path(node, scope)
        if path is not None and path[0] in ("payload", "vars", "site", *_BUILTIN):
            self.uses.append(VariableUse(path, self.file, node.lineno + self.offset))
            return
        for child in node.iter_child_nodes():
            self.visit(child, scope)

    def guard(self, node: nodes.Node, scope: _Scope) -> None:
        if (path := _path(node, scope)) is not None:
            self.guarded.add(path)

    def reference(self, template: nodes.Expr) -> None:
        if isinstance(template, nodes.Const):
            values = template.value if isinstance(template.value, tuple | list) else (template.value,)
            self.others += [value for value in values if isinstance(value, str)]


def _path(node: nodes.Node, scope: _Scope) -> VariablePath | None:
    """Return ``payload.device.name`` as its keys, with names of the template resolved; else None."""
    if isinstance(node, nodes.Name):
        return scope.get(node.name, (node.name,))
    if isinstance(node, nodes.Getattr):
        above, key = _path(node.node, scope), node.attr
    elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        above, key = _path(node.node, scope), str(node.arg.value)
    else:
        return None
    return None if above is None else (*above, key)


def _names(target: nodes.Node) -> list[str]:
    own = [target.name] if isinstance(target, nodes.Name) else []
    return own + [name.name for name in target.find_all(nodes.Name)]


def _bound(target: nodes.Node, value: nodes.Node, scope: _Scope) -> dict[str, VariablePath | None]:
    bound: dict[str, VariablePath | None] = dict.fromkeys(_names(target))
    if isinstance(target, nodes.Name):
        bound[target.name] = _path(value, scope)
    return bound
