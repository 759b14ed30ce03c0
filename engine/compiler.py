"""From documents to a rulebook: names resolved, conditions and templates compiled, all problems kept.

The schema has said what is well formed. Here is said what it means: that a channel of that name
exists, that its template has words, that somebody can be reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zoneinfo import ZoneInfo

from . import documents, lint, references, schemas
from .action_compiler import ActionCompiler, check_overlaps
from .audience import usable_address
from .case_compiler import CaseCompiler
from .cases import Case
from .catalogue import Catalogue, EventSchema
from .channels import TYPES, check_channel
from .choices import PREFERRED
from .cursors import Diagnostics, DocumentNode
from .documents import Document
from .durations import parse_duration, parse_rate
from .errors import PolicyError
from .index import RuleIndex
from .interval_compiler import IntervalCompiler, zone_of
from .limit_compiler import compile_budget
from .model import Place, Problem, Recipient
from .retry import RetryPolicy
from .rule_compiler import RuleCompiler
from .rulebook import ChannelSpec, Defaults, Mode, Rulebook, in_order
from .sections import Sections
from .template_compiler import compile_library
from .templates import TEMPLATE_FOLDER, Library, TemplateSource

_INDEPENDENT = (  # what a mistake elsewhere in its rule cannot have led to
    "unknown-channel", "unknown-person", "unknown-event", "bad-event", "bad-path", "bad-argument",
    "empty-range", "exists-inside", "exists-with-others", "unknown-path", "operator-type", "impossible-value",
)  # fmt: skip
_COMMON = ("type", "address", "timeout", "concurrency", "rate", "on_unknown", "retry")  # of every channel


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
    complaints = Diagnostics()
    sections = Sections(folder.sections, complaints)
    catalogue = _catalogue(folder.events, complaints)
    library = _library(folder, complaints)
    written_defaults = {entry.name: entry for entry in sections.named("defaults")}
    given = {name: entry.value for name, entry in written_defaults.items()}
    whole_budget = written_defaults.get("budget")
    defaults = Defaults(
        locale=given.get("locale", Defaults().locale),
        zone=_default_zone(sections, complaints),
        site=given.get("site", {}),
        budget=compile_budget(whole_budget, complaints) if whole_budget else None,
    )
    interval_compiler = IntervalCompiler(diagnostics=complaints, zone=defaults.zone)
    intervals = {entry.name: interval_compiler.intervals(entry) for entry in sections.named("time_intervals")}
    for entry in sections.written("channels"):
        if entry.name == PREFERRED:
            message = "preferred stands for what a person has chosen; no channel can be called so"
            complaints.add(entry, "reserved-name", message, at_key=True)
    channels = {
        entry.name: _channel(entry, given.get("retry", {}), environment, complaints)
        for entry in sections.named("channels")
    }
    people = {entry.name: _person(entry, complaints) for entry in sections.named("people")}
    rule_compiler = RuleCompiler(
        diagnostics=complaints,
        defaults=defaults,
        channels=channels,
        declared=sections.names("channels"),
        people=people,
        intervals={name: intervals.get(name, ()) for name in sections.names("time_intervals")},
        library=library,
        catalogue=catalogue,
    )
    action_compiler = ActionCompiler(
        diagnostics=complaints,
        defaults=defaults,
        channels=channels,
        declared=sections.names("channels"),
        library=library,
        environment=environment,
    )
    surroundings = lint.SourceRuleBuilder(catalogue)
    written: list[lint.SourceRule] = []
    for entry in sections.rules():
        before = len(complaints.problems)
        rule = rule_compiler.rule(entry)
        written.append(surroundings.source_rule(entry, rule, complaints.problems[before:]))
    for entry in sections.partial_entries("rules"):
        complaints.problems.extend(_check_partial_entry(entry, rule_compiler, surroundings))
    for entry in sections.partial_entries("channels"):
        lint.check_secrets(entry, complaints)
    rules = in_order(tuple(each.rule for each in written))
    live = tuple(rule for rule in rules if rule.mode is not Mode.OFF)
    actions = {}
    for entry in sections.named("actions"):
        lint.check_secrets(entry, complaints)
        actions[entry.name] = action_compiler.action(entry)
    check_overlaps(sections.written("actions"), complaints)
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
        diagnostics=complaints,
        rules=sections.rule_ids(),
        channels=sections.names("channels"),
        actions=sections.names("actions"),
        specs=actions,
        catalogue=catalogue,
    )
    cases = tuple(case_compiler.case(entry) for entry in sections.tests())
    whole = lint.LintContext(
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
    lint.check(whole, complaints, warn=warn)
    return CompiledPolicy(
        rulebook=rulebook, cases=cases, problems=complaints.problems, rules=sections.count("rules")
    )


def _check_partial_entry(
    entry: DocumentNode, compiler: RuleCompiler, surroundings: lint.SourceRuleBuilder
) -> Iterator[Problem]:
    """What is wrong with a rule beside what the schema refused, as far as that does not depend on it."""
    whole = DocumentNode(entry.document, entry.path, {"id": "", "event": [], "notify": [], **entry.value})
    complaints = Diagnostics()
    rule = replace(compiler, diagnostics=complaints).rule(whole)
    lint.check_fields(surroundings.source_rule(whole, rule, complaints.problems), complaints)
    return (problem for problem in complaints.problems if problem.code in _INDEPENDENT)


def _catalogue(events: Mapping[str, Document], complaints: Diagnostics) -> Catalogue:
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
        whole = DocumentNode(document, (), document.data)
        for flaw in flaws:
            complaints.add(whole.below(flaw.path), flaw.code, flaw.message, hint=flaw.hint)
        if flaws or document.problems or not isinstance(document.data, dict):
            flawed.add(event)
        else:
            known[event] = EventSchema.read(event, document.data)
    return Catalogue(schemas=known, flawed=frozenset(flawed))


def _library(folder: PolicyDocuments, complaints: Diagnostics) -> Library:
    library, flaws = compile_library(folder.sources, folder.pictures)
    complaints.problems.extend(
        Problem(
            place=Place(file=TEMPLATE_FOLDER + flaw.path, line=flaw.line, column=flaw.column),
            code=flaw.code,
            message=flaw.message,
            hint=flaw.hint,
        )
        for flaw in flaws
    )
    return library


def _channel(
    entry: DocumentNode, retry: Mapping[str, Any], environment: Mapping[str, str], complaints: Diagnostics
) -> ChannelSpec:
    def complain(path: documents.DocumentPath, code: str, message: str) -> None:
        complaints.add(entry.below(path), code, message)

    lint.check_secrets(entry, complaints)
    before = len(complaints.problems)
    settings = references.resolve(entry.value, environment, complain)
    kind = TYPES[settings["type"]]
    address = settings.get("address", kind.address)
    if "{to}" in settings.get("url", "") and address is None:
        complaints.add(
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
    if len(complaints.problems) == before:
        try:
            check_channel(spec)
        except PolicyError as error:
            complaints.problems.extend(error.problems)
    return spec


def _retry(settings: Mapping[str, Any]) -> RetryPolicy:
    durations = {key: parse_duration(value) for key, value in settings.items() if key != "attempts"}
    return RetryPolicy(attempts=settings.get("attempts", RetryPolicy().attempts), **durations)


def _person(entry: DocumentNode, complaints: Diagnostics) -> Recipient:
    addresses: dict[str, tuple[str, ...]] = {}
    for kind in entry.items():
        if kind.name in ("locale", "time_zone"):
            continue
        given = list(kind.each())
        for address in given:
            if usable_address(kind.name, address.value) is None:
                complaints.add(address, "bad-address", f"{address.value!r} is no {kind.name} address")
        addresses[kind.name] = tuple(address.value for address in given)
    written = entry.get("time_zone")
    return Recipient(
        user=entry.name,
        addresses=addresses,
        locale=entry.value.get("locale", ""),
        zone=zone_of(written, complaints) if written else None,
    )


def _default_zone(sections: Sections, complaints: Diagnostics) -> ZoneInfo:
    written = next((entry for entry in sections.named("defaults") if entry.name == "time_zone"), None)
    found = zone_of(written, complaints) if written else None
    return found or Defaults().zone
