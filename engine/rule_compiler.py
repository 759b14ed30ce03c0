"""One rule: patterns, conditions, whom it tells, and whether that can work."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import locales
from .catalogue import Catalogue
from .choices import PREFERRED
from .condition_compiler import compile_block
from .conditions import Block
from .cursors import Diagnostics, DocumentNode
from .durations import parse_duration
from .intervals import Interval, Schedule
from .limit_compiler import compile_limits
from .model import Place, Problem, Recipient, Severity
from .paths import FieldPath, parse_path
from .rulebook import (
    Audience,
    ChannelSpec,
    Defaults,
    FirstOf,
    Mode,
    Notify,
    NotifyEntry,
    PreferredChannel,
    Rule,
    Timing,
)
from .spelling import nearest
from .subjects import Pattern, parse_event_pattern
from .templates import TEMPLATE_FOLDER, Library, LocalizedTemplate

_SOME_TIME = 1_767_225_600_000_000  # 2026-01-01, microseconds since the epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCompiler:
    """Compiles rules against the rest of the policy."""

    diagnostics: Diagnostics
    defaults: Defaults
    channels: Mapping[str, ChannelSpec]
    declared: Collection[str]  # channels that are written, though something may be wrong with them
    people: Mapping[str, Recipient]
    intervals: Mapping[str, tuple[Interval, ...]]
    library: Library
    catalogue: Catalogue

    def rule(self, entry: DocumentNode) -> Rule:
        """The rule at ``entry``, which the schema has passed."""
        value = entry.value
        common = Notify(channel="", timing=self._timing(entry, Timing()), among=tuple(self._allowed(entry)))
        notify = [(each, self._entry(each, common)) for each in (entry / "notify").items()]
        rule = Rule(
            id=value["id"],
            description=value.get("description", ""),
            mode=Mode(str(value.get("enabled", True)).lower()),
            events=tuple(self._patterns(entry / "event")),
            when=self._block(entry.get("when")) or Block(),
            priority=value.get("priority", 0),
            stop=value.get("stop", False),
            severity=Severity(value.get("severity", Severity.NONE)),
            to=self._audience(entry.get("to")) or Audience(),
            notify=tuple(each for _, each in notify),
            template=value.get("template", value["id"]),
            vars=value.get("vars", {}),
            category=value.get("category", ""),
            critical=value.get("critical", False),
            limits=compile_limits(entry, self.defaults.budget, self.diagnostics),
            place=entry.place,
        )
        for whole, made in notify:
            for at, each in steps_of(whole, made):
                if channel := self.channels.get(each.channel):
                    said = at.get("template") or whole.get("template") or entry.get("template")
                    self._check_default_template(said or at, rule, each, channel)
                    self._check_reachable(at, rule, each, channel)
        return rule

    def _patterns(self, event: DocumentNode) -> Iterator[Pattern]:
        for each in event.each():
            try:
                pattern = parse_event_pattern(each.value)
            except ValueError as error:
                self.diagnostics.add(each, "bad-event", str(error))
                continue
            if not pattern.wild and not self._is_described(pattern):
                self.diagnostics.add(
                    each,
                    "unknown-event",
                    f"the catalogue does not know {each.value}; its payload goes unchecked",
                    hint=nearest(each.value, self.catalogue.schemas)
                    or f"describe it in events/{each.value.replace('.', '/', 1)}.schema.json",
                    severity="warning",
                )
            yield pattern

    def _is_described(self, pattern: Pattern) -> bool:
        return str(pattern) in self.catalogue.schemas or str(pattern) in self.catalogue.flawed

    def _block(self, when: DocumentNode | None) -> Block | None:
        if when is None:
            return None
        block, flaws = compile_block(when.value)
        for flaw in flaws:
            at_key = flaw.code == "bad-path"  # the path is the key
            self.diagnostics.add(
                when.below(flaw.path), flaw.code, flaw.message, hint=flaw.hint, at_key=at_key
            )
        return block

    def _audience(self, to: DocumentNode | None) -> Audience | None:
        if to is None:
            return None
        if isinstance(to.value, str):
            if to.value not in self.people:
                self.diagnostics.unknown_name(to, "person", self.people)
            return Audience(person=to.value)
        fields: dict[str, FieldPath] = {}
        for each in to.items():
            try:
                fields[each.name] = parse_path(each.value)
            except ValueError as error:
                self.diagnostics.add(each, "bad-path", str(error))
        return Audience(fields=fields)

    def _timing(self, entry: DocumentNode, outer: Timing) -> Timing:
        """The hours that ``entry`` asks for inside of those around it."""
        settings: Mapping[str, Any] = entry.value if isinstance(entry.value, dict) else {}
        active, mute = entry.get("active_time_intervals"), entry.get("mute_time_intervals")
        if active is None and mute is None and "on_muted" not in settings:
            return outer
        timing = Timing(
            schedule=Schedule(
                active=tuple(self._named(active)) or outer.schedule.active,
                mute=(*outer.schedule.mute, *self._named(mute)),
            ),
            defers=settings["on_muted"] == "defer" if "on_muted" in settings else outer.defers,
        )
        if (active or mute) and timing.schedule.opens(_SOME_TIME, self.defaults.zone) is None:
            message = "these hours leave no time at which anything is sent"
            self.diagnostics.add(mute or active or entry, "always-muted", message, severity="warning")
        return timing

    def _named(self, names: DocumentNode | None) -> Iterator[Interval]:
        for each in names.items() if names else ():
            if each.value not in self.intervals:
                self.diagnostics.unknown_name(each, "interval", self.intervals)
            yield from self.intervals.get(each.value, ())

    def _allowed(self, entry: DocumentNode) -> Iterator[str]:
        """The channels of which a person may choose."""
        allow = entry.get("allow")
        for each in allow.items() if allow else ():
            if each.value not in self.declared:
                self.diagnostics.unknown_name(each, "channel", self.declared)
            yield each.value
        preferred = [each for each in (entry / "notify").items() if _is_preferred(each)]
        if allow and not preferred:
            message = "allow says among which channels people choose, and nothing here asks for preferred"
            self.diagnostics.add(allow, "unused-allow", message, severity="warning", at_key=True)
        for each in preferred if not allow else ():
            hint = "add to the rule: allow: [email, ...]"
            self.diagnostics.add(
                each, "preferred-without-allow", "preferred needs the channels to choose from", hint=hint
            )

    def _entry(self, entry: DocumentNode, common: Notify) -> NotifyEntry:
        """An entry of ``notify``; what a chain says for all its steps is said in each of them."""
        if _is_preferred(entry):
            return self._preferred(entry, common)
        steps = entry.get("first_of")
        if steps is None or not steps.value:
            return self._notify(entry, common)
        for_all = Notify(
            channel="",
            template=entry.value.get("template"),
            to=self._audience(entry.get("to")),
            vars=entry.value.get("vars", {}),
            timing=self._timing(entry, common.timing),
        )
        within = entry.value.get("within")
        return FirstOf(
            steps=tuple(self._notify(step, for_all) for step in steps.items()),
            when=self._block(entry.get("when")),
            to=for_all.to,
            within=parse_duration(within) if within is not None else 0.0,
        )

    def _preferred(self, entry: DocumentNode, common: Notify) -> PreferredChannel:
        settings: Mapping[str, Any] = entry.value if isinstance(entry.value, dict) else {}
        of_each = Notify(
            channel="",
            template=settings.get("template"),
            to=self._audience(entry.get("to")),
            vars=settings.get("vars", {}),
            timing=self._timing(entry, common.timing),
            among=common.among,
        )
        return PreferredChannel(
            steps=tuple(replace(of_each, channel=channel) for channel in common.among),
            when=self._block(entry.get("when")),
            to=of_each.to,
        )

    def _notify(self, entry: DocumentNode, common: Notify) -> Notify:
        """One channel and what differs for it; what it leaves out, ``common`` says."""
        settings: Mapping[str, Any] = entry.value if isinstance(entry.value, dict) else {}
        channel = entry.get("channel") or entry
        name = channel.value if isinstance(channel.value, str) else ""  # the schema has refused it
        if name and name not in self.declared:
            self.diagnostics.unknown_name(channel, "channel", self.declared)
        return Notify(
            channel=name,
            when=self._block(entry.get("when")),
            template=settings.get("template", common.template),
            to=self._audience(entry.get("to")) or common.to,
            vars={**common.vars, **settings.get("vars", {})},
            timing=self._timing(entry, common.timing),
        )

    def _check_default_template(
        self, at: DocumentNode, rule: Rule, notify: Notify, channel: ChannelSpec
    ) -> None:
        """A template must have words for its channel in the default locale, and a mail a subject."""
        for name in rule.templates_of(notify):
            self._check_template(at, name, channel)

    def _check_template(self, at: DocumentNode, name: str, channel: ChannelSpec) -> None:
        wanted = locales.chain(self.defaults.locale)
        words = self.library.find(name, (channel.name, channel.type), wanted)
        if words is None and channel.renders_text and name not in self.library.flawed:
            known = "" if name in self.library else nearest(name, self.library.names)
            file = f"{channel.name}.html" if channel.type == "email" else f"{channel.name}.txt"
            self.diagnostics.add(
                at,
                "missing-template",
                f"no template {name!r} for channel {channel.name!r}",
                hint=known or f"write {TEMPLATE_FOLDER}{name}/{file}",
            )
        elif words is not None and channel.type == "email" and words.subject is None:
            self.diagnostics.problems.append(_missing_subject(words))

    def _check_reachable(self, at: DocumentNode, rule: Rule, notify: Notify, channel: ChannelSpec) -> None:
        """Somebody must have the address that the channel needs, as far as that is known."""
        kind = channel.address
        audience = notify.to or rule.to
        if kind is None or kind in audience.fields:
            return
        if audience.person:
            person = self.people.get(audience.person)
            if person and kind not in person.addresses:
                message = f"{audience.person!r} has no {kind}, which channel {channel.name!r} needs"
                hint = f"add it under people: {audience.person}"
                self.diagnostics.add(at, "no-address", message, hint=hint)
            return
        for pattern in rule.events:
            if pattern.wild or str(pattern) in self.catalogue.flawed:
                continue
            known = self.catalogue.get(str(pattern))
            if known is None or kind not in known.roles:
                message = f"nothing says where {pattern} has the {kind} that channel {channel.name!r} needs"
                hint = f"add to the rule: to: {{{kind}: <path into the payload>}}"
                self.diagnostics.add(at, "no-address", message, hint=hint)


def steps_of(at: DocumentNode, entry: NotifyEntry) -> Iterator[tuple[DocumentNode, Notify]]:
    """An entry of ``notify`` as written and as compiled; of a chain each of its steps."""
    if isinstance(entry, FirstOf):
        yield from zip((at / "first_of").items(), entry.steps, strict=True)
    elif isinstance(entry, PreferredChannel):
        yield from ((at, step) for step in entry.steps)
    else:
        yield at, entry


def _is_preferred(entry: DocumentNode) -> bool:
    named = entry.get("channel") or entry
    return bool(named.value == PREFERRED)


def _missing_subject(words: LocalizedTemplate) -> Problem:
    variant = words.markup or words.text
    assert variant is not None  # noqa: S101 -- words are markup, text or both
    return Problem(
        place=Place(file=TEMPLATE_FOLDER + variant.path),
        code="missing-subject",
        message="a mail needs a subject",
        hint="begin the file with: ---, subject: ..., ---",
    )
