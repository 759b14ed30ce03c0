"""Compile documents to a rulebook: resolve names, compile conditions and templates, report every problem.

The schema has checked the form. This module checks the meaning: that a channel of that name exists, that
its template has content, that a recipient can be reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any
from zoneinfo import ZoneInfo

from ..channels import TYPES, check_channel
from ..documents import cursor, schemas
from ..documents.cursor import Diagnostics, DocumentNode
from ..documents.yaml import Document
from ..model.addresses import usable_address
from ..model.errors import PolicyError
from ..model.messages import Recipient
from ..model.problems import DocumentPath, Problem, json_pointer
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

_INDEPENDENT = (  # what a mistake elsewhere in its rule cannot have led to
    "unknown-channel", "unknown-person", "unknown-event", "bad-event", "bad-path", "bad-argument",
    "empty-range", "exists-inside", "exists-with-others", "unknown-path", "operator-type", "impossible-value",
)  # fmt: skip
_COMMON = ("type", "address", "timeout", "concurrency", "rate", "on_unknown", "retry")  # of every channel

_LISTS = ("rules", "tests")  # the other sections map names to entries
_WHOLE = ("dedupe", "throttle", "digest", "budget")  # of a rule; what a mistake leaves of one is none


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDocuments:
    """The files of a policy, read and not yet understood."""

    revision: str
    sections: Sequence[Document]
    events: Mapping[str, Document]  # payload schemas beside the rules, by KIND/KEY
    sources: Sequence[TemplateSource]
    pictures: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledPolicy:
    """What could be made of a folder. The rulebook is to be used only when no problem is an error."""

    rulebook: Rulebook
    cases: tuple[Case, ...]
    problems: Sequence[Problem]
    rules: int  # written, whether switched on or not


def compile_policy(
    folder: PolicyDocuments, environment: Mapping[str, str], *, warn: bool = True
) -> CompiledPolicy:
    """Compile every part; what is wrong with one does not hide the others.

    Unless ``warn``, what can only lead to warnings is not looked for.
    """
    diagnostics = Diagnostics()
    sections = Sections(folder.sections, diagnostics)
    catalogue = _catalogue(folder.events, diagnostics)
    library, template_problems = compile_library(folder.sources, folder.pictures)
    diagnostics.problems.extend(template_problems)
    written_defaults = {entry.name: entry for entry in sections.named("defaults")}
    given = {name: entry.value for name, entry in written_defaults.items()}
    whole_budget = written_defaults.get("budget")
    defaults = Defaults(
        locale=given.get("locale", Defaults().locale),
        zone=_default_zone(sections, diagnostics),
        site=given.get("site", {}),
        budget=compile_budget(whole_budget, diagnostics) if whole_budget else None,
    )
    interval_compiler = IntervalCompiler(diagnostics=diagnostics, zone=defaults.zone)
    intervals = {entry.name: interval_compiler.intervals(entry) for entry in sections.named("time_intervals")}
    for entry in sections.written("channels"):
        if entry.name == PREFERRED:
            message = "preferred stands for what a person has chosen; no channel can be called so"
            diagnostics.add(entry, "reserved-name", message, at_key=True)
    channels = {
        entry.name: _channel(entry, given.get("retry", {}), environment, diagnostics)
        for entry in sections.named("channels")
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
    surroundings = context.SourceRuleBuilder(catalogue)
    written: list[context.SourceRule] = []
    for entry in sections.rules():
        before = len(diagnostics.problems)
        rule = rule_compiler.rule(entry)
        written.append(surroundings.source_rule(entry, rule, diagnostics.problems[before:]))
    for entry in sections.partial_entries("rules"):
        diagnostics.problems.extend(_check_partial_entry(entry, rule_compiler, surroundings))
    for entry in sections.partial_entries("channels"):
        secrets.check_secrets(entry, diagnostics)
    rules = in_order(tuple(each.rule for each in written))
    live = tuple(rule for rule in rules if rule.mode is not Mode.OFF)
    actions = {}
    for entry in sections.named("actions"):
        secrets.check_secrets(entry, diagnostics)
        actions[entry.name] = action_compiler.action(entry)
    check_overlaps(sections.written("actions"), diagnostics)
    rulebook = Rulebook(
        revision=folder.revision,
        defaults=defaults,
        channels=channels,
        people=people,
        rules=live,
        actions=actions,
        library=library,
        catalogue=catalogue,
        index=RuleIndex((rule.events, rule.when, rule) for rule in live),
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
    whole = context.LintContext(
        rulebook=rulebook,
        rules=sorted(written, key=lambda each: (each.rule.priority, each.rule.place)),
        cases=cases,
        sources=folder.sources,
        channels=sections.written("channels"),
        people=sections.written("people"),
        intervals=sections.written("time_intervals"),
        actions=sections.written("actions"),
        complete=sections.complete,
    )
    lint.check(whole, diagnostics, warn=warn)
    return CompiledPolicy(
        rulebook=rulebook, cases=cases, problems=diagnostics.problems, rules=sections.count("rules")
    )


def _check_partial_entry(
    entry: DocumentNode, compiler: RuleCompiler, surroundings: context.SourceRuleBuilder
) -> Iterator[Problem]:
    """What is wrong with a rule beside what the schema refused, as far as that does not depend on it."""
    whole = DocumentNode(entry.document, entry.path, {"id": "", "event": [], "notify": [], **entry.value})
    diagnostics = Diagnostics()
    rule = replace(compiler, diagnostics=diagnostics).rule(whole)
    fields.check(surroundings.source_rule(whole, rule, diagnostics.problems), diagnostics)
    return (problem for problem in diagnostics.problems if problem.code in _INDEPENDENT)


def _catalogue(events: Mapping[str, Document], diagnostics: Diagnostics) -> Catalogue:
    """The built-in payload schemas, and those beside the rules, which come first."""
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
    def complain(path: DocumentPath, code: str, message: str) -> None:
        diagnostics.add(entry.below(path), code, message)

    secrets.check_secrets(entry, diagnostics)
    before = len(diagnostics.problems)
    settings = cursor.resolve(entry.value, environment, complain)
    kind = TYPES[settings["type"]]
    address = settings.get("address", kind.address)
    if "{to}" in settings.get("url", "") and address is None:
        diagnostics.add(
            entry / "url",
            "missing-address",
            "{to} in the address, and nothing says which address stands there",
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
        given = list(kind.each())
        for address in given:
            if usable_address(kind.name, address.value) is None:
                diagnostics.add(address, "bad-address", f"{address.value!r} is no {kind.name} address")
        addresses[kind.name] = tuple(address.value for address in given)
    written = entry.get("time_zone")
    return Recipient(
        user=entry.name,
        addresses=addresses,
        locale=entry.value.get("locale", ""),
        zone=zone_of(written, diagnostics) if written else None,
    )


def _default_zone(sections: Sections, diagnostics: Diagnostics) -> ZoneInfo:
    written = next((entry for entry in sections.named("defaults") if entry.name == "time_zone"), None)
    found = zone_of(written, diagnostics) if written else None
    return found or Defaults().zone


class Sections:
    """Reads the documents of a policy section by section; what the schema refuses is a complaint."""

    def __init__(self, files: Sequence[Document], diagnostics: Diagnostics) -> None:
        self._diagnostics = diagnostics
        self._documents = [document for document in files if isinstance(document.data, dict)]
        self._unreadable = any(document.problems for document in files)
        self._refusals: list[tuple[str, str]] = []  # file, pointer of what is wrong
        for document in files:
            problems = schemas.check(document, "policy")
            diagnostics.problems.extend(problems)
            # One mistake makes one problem: of an entry with a mistake in it only remnants are looked at.
            # What an alias to nothing or a strange tag leaves behind may be anything; a repeated key is fine.
            unread = [p for p in document.problems if p.code != "duplicate-key"]
            self._refusals += [(document.file, problem.pointer) for problem in (*problems, *unread)]
        self._refused = {(file, _entry(pointer)) for file, pointer in self._refusals}

    def named(self, section: str) -> Iterator[DocumentNode]:
        """Every sound entry of a section of names; the same name twice is a complaint."""
        first: dict[str, DocumentNode] = {}
        for entry in self._entries(section):
            if entry.name in first:
                message = f"{entry.name!r} is defined in {first[entry.name].key_place} already"
                self._diagnostics.add(entry, "defined-twice", message, at_key=True)
                continue
            first[entry.name] = entry
            if self._is_sound(entry):
                yield entry

    def rules(self) -> Iterator[DocumentNode]:
        """Every sound rule, in order of file and position; the same id twice is a complaint."""
        first: dict[str, DocumentNode] = {}
        for rule in self._entries("rules"):
            id_ = rule.get("id")
            if id_ is not None and isinstance(id_.value, str):
                known = first.setdefault(id_.value, id_)
                if known is not id_:
                    message = f"the rule {id_.value!r} is in {known.place} already"
                    self._diagnostics.add(id_, "defined-twice", message)
                    continue
            if self._is_sound(rule):
                yield rule

    def tests(self) -> Iterator[DocumentNode]:
        """Every sound test, in order of file and position; a name twice in one file is a complaint."""
        first: dict[tuple[str, str], DocumentNode] = {}
        for test in filter(self._is_sound, self._entries("tests")):
            name = test / "name"
            known = first.setdefault((test.document.file, name.value), name)
            if known is not name:
                message = f"the test {name.value!r} is in {known.place} already"
                self._diagnostics.add(name, "defined-twice", message)
            yield test

    def partial_entries(self, section: str) -> Iterator[DocumentNode]:
        """The entries that were refused, without what was refused in them."""
        for entry in self._entries(section):
            if not self._is_sound(entry) and isinstance(entry.value, dict):
                yield DocumentNode(entry.document, entry.path, self._without_refused(entry))

    def _without_refused(self, entry: DocumentNode) -> dict[str, Any]:
        value: dict[str, Any] = deepcopy(entry.value)
        here = json_pointer(entry.path)
        for file, pointer in self._refusals:
            if file == entry.document.file and pointer.startswith(f"{here}/"):
                steps = pointer.removeprefix(here).split("/")[1:]
                _drop(value, steps[:1] if steps[0] in _WHOLE else steps)
        return value

    def rule_ids(self) -> set[str]:
        """The ids of every rule that is written, sound or not."""
        ids = (entry.get("id") for entry in self._entries("rules"))
        return {id_.value for id_ in ids if id_ is not None and isinstance(id_.value, str)}

    def written(self, section: str) -> list[DocumentNode]:
        """Every entry, sound or not."""
        return list(self._entries(section))

    @property
    def complete(self) -> bool:
        """Whether every file could be read and nothing in one was refused."""
        return not self._refused and not self._unreadable

    def count(self, section: str) -> int:
        """How many entries are written, sound or not."""
        return sum(1 for _ in self._entries(section))

    def names(self, section: str) -> set[str]:
        """The names of every entry, sound or not."""
        return {entry.name for entry in self._entries(section)}

    def _entries(self, section: str) -> Iterator[DocumentNode]:
        shape = list if section in _LISTS else dict
        for document in self._documents:
            whole = DocumentNode(document, (), document.data).get(section)
            if whole is not None and isinstance(whole.value, shape):
                yield from whole.items()

    def _is_sound(self, entry: DocumentNode) -> bool:
        return (entry.document.file, json_pointer(entry.path)) not in self._refused


def _entry(pointer: str) -> str:
    """The pointer of the entry, ``/section/name``, that holds the place at ``pointer``."""
    return "/".join(pointer.split("/")[:3])


def _drop(value: Any, steps: list[str]) -> None:
    """Take the key at ``steps`` out of its mapping; an entry of a list would move the others, so all go."""
    holder, key = None, ""
    for step in (step.replace("~1", "/").replace("~0", "~") for step in steps):
        if isinstance(value, dict):
            holder, key = value, step
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            break  # it went with another
    else:
        if holder is not None:
            holder.pop(key, None)
