"""The input of all checks: rules as written and as compiled, and the payload schemas of their events."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...documents.cursor import DocumentNode
from ...model.problems import DocumentPath, Problem, json_pointer
from ...model.subjects import Pattern
from ...rules.catalog import Catalogue
from ...rules.paths import FieldPath
from ...rules.payload_schema import Shape
from ...rules.rulebook import FirstOf, NotifyEntry, Rule, Rulebook
from ...templates.library import TemplateSource
from ..rule_compiler import steps_of
from ..testing.cases import Case


@dataclass(frozen=True, slots=True, kw_only=True)
class EventShapes:
    """The payloads of the events of a rule."""

    shapes: Mapping[str, Shape]  # of the events that have a payload schema, by KIND.KEY
    exact: bool  # no wildcard: the rule has no other events
    complete: bool  # each pattern has at least one event with a payload schema
    _single: dict[FieldPath, bool] = field(default_factory=dict)

    @property
    def checkable(self) -> bool:
        """True if a field that none of the events has is a mistake."""
        return self.complete and bool(self.shapes)

    @property
    def severity(self) -> str:
        """The severity of a mistake: an event without a schema, behind a wildcard, may have the field."""
        return "error" if self.exact else "warning"

    def is_single(self, path: FieldPath) -> bool:
        """Return whether ``path`` leads to one value that is not a list, in each event."""
        if path not in self._single:
            known = self.exact and self.checkable
            self._single[path] = known and all(shape.is_single(path) for shape in self.shapes.values())
        return self._single[path]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRule:
    """A rule, and its place in a document."""

    rule: Rule
    entry: DocumentNode
    events: EventShapes
    flaws: Collection[str]  # pointers of conditions that did not compile

    def is_flawed(self, path: DocumentPath) -> bool:
        """Return whether a condition at or below ``path`` did not compile."""
        here = json_pointer(path) if self.flaws else ""
        return any(flaw == here or flaw.startswith(f"{here}/") for flaw in self.flaws)

    @property
    def when(self) -> Mapping[str, Any]:
        """The conditions as written."""
        found: Mapping[str, Any] = self.entry.value.get("when", {})
        return found

    def notify(self) -> Iterator[tuple[DocumentNode, NotifyEntry]]:
        """Return the entries of ``notify``, as written and as compiled."""
        return zip((self.entry / "notify").items(), self.rule.notify, strict=True)

    def settings(self) -> Iterator[tuple[DocumentNode, NotifyEntry]]:
        """Yield the entries of ``notify`` and the steps of chains: all that can have ``when`` or ``to``."""
        for at, entry in self.notify():
            yield at, entry
            if isinstance(entry, FirstOf):
                yield from steps_of(at, entry)


@dataclass(frozen=True, slots=True, kw_only=True)
class LintContext:
    """The input of all checks."""

    rulebook: Rulebook
    rules: Sequence[SourceRule]  # in order of evaluation, those that are off included
    cases: Sequence[Case] = ()
    sources: Sequence[TemplateSource] = ()
    channels: Sequence[DocumentNode] = ()  # as written
    people: Sequence[DocumentNode] = ()
    intervals: Sequence[DocumentNode] = ()
    actions: Sequence[DocumentNode] = ()
    complete: bool  # no part that may use a channel, a person or a template was rejected


@dataclass(frozen=True, slots=True)
class SourceRuleBuilder:
    """A builder of source rules. Rules with the same events share their shapes."""

    catalogue: Catalogue
    _shapes: dict[str, Shape] = field(default_factory=dict)
    _known: dict[Pattern, tuple[str, ...]] = field(default_factory=dict)
    _of: dict[tuple[Pattern, ...], EventShapes] = field(default_factory=dict)

    def source_rule(self, entry: DocumentNode, rule: Rule, problems: Sequence[Problem]) -> SourceRule:
        """Return ``rule`` with its place; ``problems`` are those of its compilation."""
        here = json_pointer(entry.path)
        flaws = [p.pointer for p in problems if p.pointer.startswith(f"{here}/") and "/when" in p.pointer]
        return SourceRule(rule=rule, entry=entry, events=self._events(rule), flaws=flaws)

    def _events(self, rule: Rule) -> EventShapes:
        if rule.events not in self._of:
            self._of[rule.events] = self._find(rule)
        return self._of[rule.events]

    def _find(self, rule: Rule) -> EventShapes:
        known = {pattern: self._matching(pattern) for pattern in rule.events}
        return EventShapes(
            shapes={name: self._shape(name) for names in known.values() for name in names},
            exact=not any(pattern.wild for pattern in rule.events),
            complete=all(known.values()),
        )

    def _matching(self, pattern: Pattern) -> tuple[str, ...]:
        if pattern not in self._known:
            schemas = self.catalogue.schemas
            names = filter(pattern.matches, schemas) if pattern.wild else {str(pattern)} & set(schemas)
            self._known[pattern] = tuple(names)
        return self._known[pattern]

    def _shape(self, name: str) -> Shape:
        if name not in self._shapes:
            self._shapes[name] = Shape.of(self.catalogue.schemas[name].schema)
        return self._shapes[name]
