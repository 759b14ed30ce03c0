"""The input of all checks: rules as written beside rules as compiled, and the schemas of their events."""

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
    """The payloads that a rule's events may have."""

    shapes: Mapping[str, Shape]  # by KIND.KEY: the known events among them
    exact: bool  # no wildcard: there are no others
    complete: bool  # every one is described, as far as wildcards let that be known
    _single: dict[FieldPath, bool] = field(default_factory=dict)

    @property
    def checkable(self) -> bool:
        """Whether a field that none of them has is a mistake."""
        return self.complete and bool(self.shapes)

    @property
    def severity(self) -> str:
        """Of a mistake: behind a wildcard there may be an event that is not described and has the field."""
        return "error" if self.exact else "warning"

    def is_single(self, path: FieldPath) -> bool:
        """Whether ``path`` leads to one value that is no list, in each of them."""
        if path not in self._single:
            known = self.exact and self.checkable
            self._single[path] = known and all(shape.is_single(path) for shape in self.shapes.values())
        return self._single[path]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRule:
    """A rule, and where it is written."""

    rule: Rule
    entry: DocumentNode
    events: EventShapes
    flaws: Collection[str]  # pointers of conditions that did not compile

    @property
    def sound(self) -> bool:
        """Whether its conditions compiled."""
        return not self.flaws

    def is_flawed(self, path: DocumentPath) -> bool:
        """Whether something at or below ``path`` did not compile."""
        here = json_pointer(path) if self.flaws else ""
        return any(flaw == here or flaw.startswith(f"{here}/") for flaw in self.flaws)

    @property
    def when(self) -> Mapping[str, Any]:
        """Its conditions as written."""
        found: Mapping[str, Any] = self.entry.value.get("when", {})
        return found

    def notify(self) -> Iterator[tuple[DocumentNode, NotifyEntry]]:
        """The entries of ``notify``, as written and as compiled."""
        return zip((self.entry / "notify").items(), self.rule.notify, strict=True)

    def settings(self) -> Iterator[tuple[DocumentNode, NotifyEntry]]:
        """The entries of ``notify`` and the steps of its chains: whatever may have a ``when`` or a ``to``."""
        for at, entry in self.notify():
            yield at, entry
            if isinstance(entry, FirstOf):
                yield from steps_of(at, entry)


@dataclass(frozen=True, slots=True, kw_only=True)
class LintContext:
    """All that the checks look at. ``rules`` are in order of evaluation, those switched off too."""

    rulebook: Rulebook
    rules: Sequence[SourceRule]
    cases: Sequence[Case] = ()
    sources: Sequence[TemplateSource] = ()
    channels: Sequence[DocumentNode] = ()  # as written
    people: Sequence[DocumentNode] = ()
    intervals: Sequence[DocumentNode] = ()
    actions: Sequence[DocumentNode] = ()
    complete: bool  # nothing that might use a channel, a person or a template was left out


@dataclass(frozen=True, slots=True)
class SourceRuleBuilder:
    """Finds out what is known of the events of many rules."""

    catalogue: Catalogue
    _shapes: dict[str, Shape] = field(default_factory=dict)
    _known: dict[Pattern, tuple[str, ...]] = field(default_factory=dict)
    _of: dict[tuple[Pattern, ...], EventShapes] = field(default_factory=dict)  # rules of one event share it

    def source_rule(self, entry: DocumentNode, rule: Rule, problems: Sequence[Problem]) -> SourceRule:
        """``rule`` with its place; ``problems`` are those found while it was compiled."""
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
