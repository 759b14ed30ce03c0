"""Compile documents to a rulebook: resolve names, compile conditions and templates, report every problem.

The schema has checked the form. This module checks the meaning: the channel exists, its template has
content, a recipient can be reached. Entry: `compile_policy`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ..channels import TYPES, check_channel
from ..documents import schemas
from ..documents.cursor import Diagnostics, DocumentNode
from ..documents.yaml import Document
from ..model.addresses import usable_address
from ..model.errors import PolicyError
from ..model.messages import Recipient
from ..model.problems import Problem, json_pointer
from ..model.times import parse_duration, parse_rate
from ..rules.catalog import Catalogue, EventSchema
from ..rules.index.rule_index import RuleIndex
from ..rules.rulebook import PREFERRED, ChannelSpec, Defaults, Mode, RetryPolicy, Rulebook, in_order
from ..templates.compiler import compile_library
from ..templates.library import TemplateSource
from . import lint
from .action_compiler import ActionCompiler, check_overlaps
from .lint import context, fields, secrets
from .rule_compiler import IntervalCompiler, RuleCompiler, compile_budget, zone_of
from .testing.cases import Case, CaseCompiler

_INDEPENDENT = (  # codes that are reported even if the schema rejects another part of the rule
    "unknown-channel", "unknown-person", "unknown-event", "bad-event", "bad-path", "bad-argument",
    "empty-range", "exists-inside", "exists-with-others", "unknown-path", "operator-type", "impossible-value",
)  # fmt: skip
K = TypeVar("K")

_COMMON = ("type", "address", "timeout", "concurrency", "rate", "on_unknown", "retry")  # of every channel

_LISTS = ("rules", "tests")  # the other sections map names to entries
_LIMITS = ("dedupe", "throttle", "digest", "budget")  # of a rule; with a mistake in it, a limit is ignored


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDocuments:
    """The parsed files of a policy."""

    revision: str
    sections: Sequence[Document]
    events: Mapping[str, Document]  # payload schemas of the policy, by KIND/KEY
    sources: Sequence[TemplateSource]
    pictures: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledPolicy:
    """A compiled policy. Its rulebook may only be used if no problem is an error."""

    rulebook: Rulebook
    cases: tuple[Case, ...]
    problems: Sequence[Problem]
    rules: int  # those that are off included


def compile_policy(
    documents: PolicyDocuments, environment: Mapping[str, str], *, warn: bool = True
) -> CompiledPolicy:
    """Compile every part; an error in one part does not hide those of others.

    Unless ``warn``, checks that only lead to warnings are skipped.
    """
    diagnostics = Diagnostics()
    sections = Sections(documents.sections, diagnostics)
    catalogue = _catalogue(documents.events, diagnostics)
    library, template_problems = compile_library(documents.sources, documents.pictures)
    diagnostics.problems.extend(template_problems)
    settings = {entry.name: entry for entry in sections.named("defaults")}
    defaults = _defaults(settings, diagnostics)
    retry = settings["retry"].value if "retry" in settings else {}
    interval_compiler = IntervalCompiler(diagnostics=diagnostics, zone=defaults.zone)
    intervals = {entry.name: interval_compiler.intervals(entry) for entry in sections.named("time_intervals")}
    for entry in sections.written("channels"):
        if entry.name == PREFERRED:
            message = "preferred stands for the choice of a user; a channel cannot have this name"
            diagnostics.add(entry, "reserved-name", message, at_key=True)
    channels = {
        entry.name: _channel(entry, retry, environment, diagnostics) for entry in sections.named("channels")
    }
    people = {entry.name: _person(entry, diagnostics) for entry in sections.named("people")}
    rule_compiler = RuleCompiler(
        diagnostics=diagnostics,
        defaults=defaults,
        channels=channels,
        declared=sections.names("channels"),
        people=people,
        intervals={name: intervals.get(name, ()) for name in sections.names("time_intervals")},
        library=library,
        catalogue=catalogue,
    )
    action_compiler = ActionCompiler(
        diagnostics=diagnostics,
        defaults=defaults,
        channels=channels,
        declared=sections.names("channels"),
        library=library,
        environment=environment,
    )
    builder = context.SourceRuleBuilder(catalogue)
    sources: list[context.SourceRule] = []
    for entry in sections.rules():
        before = len(diagnostics.problems)
        rule = rule_compiler.rule(entry)
        sources.append(builder.source_rule(entry, rule, diagnostics.problems[before:]))
    for entry in sections.partial_entries("rules"):
        diagnostics.problems.extend(_check_partial_rule(entry, rule_compiler, builder))
    for entry in sections.partial_entries("channels"):
        secrets.check_secrets(entry, diagnostics)
    rules = in_order(tuple(each.rule for each in sources))
    enabled = tuple(rule for rule in rules if rule.mode is not Mode.OFF)
    actions = {}
    for entry in sections.named("actions"):
        secrets.check_secrets(entry, diagnostics)
        actions[entry.name] = action_compiler.action(entry)
    check_overlaps(sections.written("actions"), diagnostics)
    rulebook = Rulebook(
        revision=documents.revision,
        defaults=defaults,
        channels=channels,
        people=people,
        rules=enabled,
        actions=actions,
        library=library,
        catalogue=catalogue,
        index=RuleIndex((rule.events, rule.when, rule) for rule in enabled),
    )
    case_compiler = CaseCompiler(
        diagnostics=diagnostics,
        rules=sections.rule_ids(),
        channels=sections.names("channels"),
        actions=sections.names("actions"),
        specs=actions,
        catalogue=catalogue,
    )
    cases = tuple(case_compiler.case(entry) for entry in sections.tests())
    lint_context = context.LintContext(
        rulebook=rulebook,
        rules=sorted(sources, key=lambda each: (each.rule.priority, each.rule.place)),
        cases=cases,
        sources=documents.sources,
        channels=sections.written("channels"),
        people=sections.written("people"),
        intervals=sections.written("time_intervals"),
        actions=sections.written("actions"),
        complete=sections.complete,
    )
    lint.check(lint_context, diagnostics, warn=warn)
    return CompiledPolicy(
        rulebook=rulebook, cases=cases, problems=diagnostics.problems, rules=len(sections.written("rules"))
    )


def _check_partial_rule(
    entry: DocumentNode, compiler: RuleCompiler, builder: context.SourceRuleBuilder
) -> Iterator[Problem]:
    """Yield the problems in the parts of a rule that have passed the schema, if they are independent."""
    whole = DocumentNode(entry.document, entry.path, {"id": "", "event": [], "notify": [], **entry.value})
    diagnostics = Diagnostics()
    rule = replace(compiler, diagnostics=diagnostics).rule(whole)
    fields.check(builder.source_rule(whole, rule, diagnostics.problems), diagnostics)
    return (problem for problem in diagnostics.problems if problem.code in _INDEPENDENT)


def _catalogue(events: Mapping[str, Document], diagnostics: Diagnostics) -> Catalogue:
    """Return the built-in payload schemas and those of the policy, which take precedence."""
    known = {}
    flawed = set()
    for name in schemas.names():
        if name.startswith("events/"):
            event = name.removeprefix("events/").replace("/", ".")
            known[event] = EventSchema.read(event, schemas.load(name))
    for path, document in events.items():
        event = path.replace("/", ".")
        flaws = schemas.check_schema(document.data)
        diagnostics.problems.extend(map(document.problem, flaws))
        if flaws or document.problems or not isinstance(document.data, dict):
            flawed.add(event)
        else:
            known[event] = EventSchema.read(event, document.data)
    return Catalogue(schemas=known, flawed=frozenset(flawed))


def _channel(
    entry: DocumentNode, retry: Mapping[str, Any], environment: Mapping[str, str], diagnostics: Diagnostics
) -> ChannelSpec:
    secrets.check_secrets(entry, diagnostics)
    before = len(diagnostics.problems)
    settings = diagnostics.resolve(entry, environment)
    kind = TYPES[settings["type"]]
    address = settings.get("address", kind.address)
    if "{to}" in settings.get("url", "") and address is None:
        diagnostics.add(
            entry / "url",
            "missing-address",
            "the URL contains {to}, and no setting says which address replaces it",
            hint="add: address: phone",
        )
    common = {key: settings[key] for key in ("concurrency",) if key in settings}
    if "timeout" in settings:
        common["timeout"] = parse_duration(settings["timeout"])
    if "rate" in settings:
        common["rate"] = parse_rate(settings["rate"])
    spec = ChannelSpec(
        name=entry.name,
        type=settings["type"],
        address=address,
        many=kind.many,
        renders_text=kind.renders_text,
        options={key: value for key, value in settings.items() if key not in _COMMON},
        retry=_retry({**retry, **settings.get("retry", {})}),
        repeats_unknown=settings.get("on_unknown", "retry") == "retry",
        place=entry.key_place,
        **common,
    )
    if len(diagnostics.problems) == before:
        try:
            check_channel(spec)
        except PolicyError as error:
            diagnostics.problems.extend(error.problems)
    return spec


def _retry(settings: Mapping[str, Any]) -> RetryPolicy:
    durations = {key: parse_duration(value) for key, value in settings.items() if key != "attempts"}
    return RetryPolicy(attempts=settings.get("attempts", RetryPolicy().attempts), **durations)


def _person(entry: DocumentNode, diagnostics: Diagnostics) -> Recipient:
    addresses: dict[str, tuple[str, ...]] = {}
    for kind in entry.items():
        if kind.name in ("locale", "time_zone"):
            continue
        for address in kind.each():
            if usable_address(kind.name, address.value) is None:
                diagnostics.add(address, "bad-address", f"{address.value!r} is no valid {kind.name} address")
        addresses[kind.name] = tuple(address.value for address in kind.each())
    zone = entry.get("time_zone")
    return Recipient(
        user=entry.name,
        addresses=addresses,
        locale=entry.value.get("locale", ""),
        zone=zone_of(zone, diagnostics) if zone else None,
    )


def _defaults(settings: Mapping[str, DocumentNode], diagnostics: Diagnostics) -> Defaults:
    locale, zone, site, budget = map(settings.get, ("locale", "time_zone", "site", "budget"))
    return Defaults(
        locale=locale.value if locale else Defaults().locale,
        zone=(zone and zone_of(zone, diagnostics)) or Defaults().zone,
        site=site.value if site else {},
        budget=compile_budget(budget, diagnostics) if budget else None,
    )


class Sections:
    """The sections of all documents of a policy. Reports what is rejected or defined twice."""

    def __init__(self, files: Sequence[Document], diagnostics: Diagnostics) -> None:
        self._diagnostics = diagnostics
        self._documents = [document for document in files if isinstance(document.data, dict)]
        self._unreadable = any(document.problems for document in files)
        self._rejections: list[tuple[str, str]] = []  # file, pointer of the problem
        for document in files:
            problems = schemas.check(document, "policy")
            diagnostics.problems.extend(problems)
            # One mistake makes one problem: an entry with a mistake is only checked in part. A repeated key
            # does no harm, but an unknown alias or tag leaves a value that may be anything.
            unread = [p for p in document.problems if p.code != "duplicate-key"]
            self._rejections += [(document.file, problem.pointer) for problem in (*problems, *unread)]
        self._rejected = {(file, _entry(pointer)) for file, pointer in self._rejections}

    def named(self, section: str) -> Iterator[DocumentNode]:
        """Yield each sound entry of a section of names; reports a name that is defined twice."""
        first: dict[str, DocumentNode] = {}
        for entry in self._entries(section):
            if self._is_first(first, entry.name, entry) and self._is_sound(entry):
                yield entry

    def rules(self) -> Iterator[DocumentNode]:
        """Yield each sound rule, in order of file and position; reports an id that is defined twice."""
        first: dict[str, DocumentNode] = {}
        for rule in self._entries("rules"):
            id_ = rule.get("id")
            if id_ and isinstance(id_.value, str) and not self._is_first(first, id_.value, id_, "rule"):
                continue
            if self._is_sound(rule):
                yield rule

    def tests(self) -> Iterator[DocumentNode]:
        """Yield each sound test, in order of file and position; reports a name that is twice in a file."""
        first: dict[tuple[str, str], DocumentNode] = {}
        for test in filter(self._is_sound, self._entries("tests")):
            name = test / "name"
            self._is_first(first, (test.document.file, name.value), name, "test")
            yield test

    def _is_first(self, first: dict[K, DocumentNode], key: K, node: DocumentNode, value_of: str = "") -> bool:
        """Return whether ``key`` is new; if not, report the value at ``node``, or its key."""
        known = first.setdefault(key, node)
        if known is not node:
            name = f"the {value_of} {node.value!r}" if value_of else repr(node.name)
            message = f"{name} is already defined in {known.place if value_of else known.key_place}"
            self._diagnostics.add(node, "defined-twice", message, at_key=not value_of)
        return known is node

    def partial_entries(self, section: str) -> Iterator[DocumentNode]:
        """Yield the rejected entries of a section without their rejected parts."""
        for entry in self._entries(section):
            if not self._is_sound(entry) and isinstance(entry.value, dict):
                yield DocumentNode(entry.document, entry.path, self._without_rejected(entry))

    def _without_rejected(self, entry: DocumentNode) -> dict[str, Any]:
        value: dict[str, Any] = deepcopy(entry.value)
        here = json_pointer(entry.path)
        for file, pointer in self._rejections:
            if file == entry.document.file and pointer.startswith(f"{here}/"):
                steps = pointer.removeprefix(here).split("/")[1:]
                _drop(value, steps[:1] if steps[0] in _LIMITS else steps)
        return value

    def rule_ids(self) -> set[str]:
        """Return the ids of all rules, sound or not."""
        ids = (entry.get("id") for entry in self._entries("rules"))
        return {id_.value for id_ in ids if id_ is not None and isinstance(id_.value, str)}

    def written(self, section: str) -> list[DocumentNode]:
        """Return all entries of a section, sound or not."""
        return list(self._entries(section))

    @property
    def complete(self) -> bool:
        """True if every file could be read and the schema rejected nothing."""
        return not self._rejected and not self._unreadable

    def names(self, section: str) -> set[str]:
        """Return the names of all entries of a section, sound or not."""
        return {entry.name for entry in self._entries(section)}

    def _entries(self, section: str) -> Iterator[DocumentNode]:
        shape = list if section in _LISTS else dict
        for document in self._documents:
            whole = DocumentNode(document, (), document.data).get(section)
            if whole is not None and isinstance(whole.value, shape):
                yield from whole.items()

    def _is_sound(self, entry: DocumentNode) -> bool:
        return (entry.document.file, json_pointer(entry.path)) not in self._rejected


def _entry(pointer: str) -> str:
    """Return the pointer of the entry, ``/section/name``, that contains ``pointer``."""
    return "/".join(pointer.split("/")[:3])


def _drop(value: Any, steps: list[str]) -> None:
    """Remove the key at ``steps``. Inside a list, remove the whole list: positions must not change."""
    holder, key = None, ""
    for step in (step.replace("~1", "/").replace("~0", "~") for step in steps):
        if isinstance(value, dict):
            holder, key = value, step
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            break  # it was removed with another
    else:
        if holder is not None:
            holder.pop(key, None)
