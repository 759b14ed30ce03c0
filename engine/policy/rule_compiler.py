"""Compile rules, their limits and ``time_intervals``, and report what cannot work."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from ..documents.cursor import Diagnostics, DocumentNode
from ..model.messages import Recipient, Severity
from ..model.problems import Place, Problem
from ..model.subjects import Pattern, parse_event_pattern
from ..model.times import parse_count_per, parse_duration
from ..model.wording import nearest
from ..rules.catalog import Catalogue
from ..rules.condition_compiler import compile_block
from ..rules.conditions import Block
from ..rules.paths import FieldPath, parse_path
from ..rules.rulebook import (
    DEFAULT_MAX_EVENTS,
    GLOBAL_BUDGET,
    NO_LIMITS,
    PREFERRED,
    Audience,
    Budget,
    ChannelSpec,
    Dedupe,
    Defaults,
    Digest,
    FirstOf,
    Limits,
    Mode,
    Notify,
    NotifyEntry,
    PreferredChannel,
    Rule,
    Throttle,
    Timing,
)
from ..rules.schedule import WHOLE_DAY, Interval, Range, Schedule, Window, parse_window, parse_zone
from ..templates import library
from ..templates.library import TEMPLATE_FOLDER, Library, LocalizedTemplate

_SOME_TIME = 1_767_225_600_000_000  # 2026-01-01, microseconds since the epoch

RECIPIENT = "recipient"  # as a zone: that of whoever reads the message
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
    "november", "december",
)  # fmt: skip
_NUMBER = re.compile(r"-?[0-9]{1,4}", re.ASCII)
_SHORT_MONTH_LENGTHS = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}  # months without a 31st


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
                )
            yield pattern

    def _is_described(self, pattern: Pattern) -> bool:
        return str(pattern) in self.catalogue.schemas or str(pattern) in self.catalogue.flawed

    def _block(self, when: DocumentNode | None) -> Block | None:
        if when is None:
            return None
        block, flaws = compile_block(when.value)
        self.diagnostics.extend(when, flaws)
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
            self.diagnostics.add(mute or active or entry, "always-muted", message)
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
            self.diagnostics.add(allow, "unused-allow", message, at_key=True)
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
        wanted = library.locale_chain(self.defaults.locale)
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


def compile_limits(entry: DocumentNode, whole: Budget | None, complaints: Diagnostics) -> Limits:
    """The limits of the rule at ``entry``, which the schema has passed; ``whole`` is the policy's budget."""
    dedupe, throttle, digest = (entry.get(name) for name in ("dedupe", "throttle", "digest"))
    own = entry.get("budget")
    if not (dedupe or throttle or digest or own or whole):
        return NO_LIMITS
    budgets = {entry.value["id"]: compile_budget(own, complaints)} if own else {}
    limits = Limits(
        dedupe=_dedupe(dedupe, complaints) if dedupe else None,
        throttle=_throttle(throttle, complaints) if throttle else None,
        digest=_digest(digest, complaints) if digest else None,
        budgets={**budgets, GLOBAL_BUDGET: whole} if whole else budgets,
    )
    if throttle and _is_pointless(limits):
        message = "dedupe lets so few through that this never holds anything back"
        complaints.add(throttle, "ineffective-throttle", message, at_key=True)
    if entry.value.get("critical") and (held := digest or (throttle and _digests(throttle))):
        message = "the rule is critical, and this makes its messages wait"
        complaints.add(held, "delayed-critical", message, at_key=True)
    return limits


def compile_budget(at: DocumentNode, complaints: Diagnostics) -> Budget:
    """The budget at ``at``, which the schema has passed: ``1000/h``, or a mapping that says more."""
    if isinstance(at.value, str):
        limit, per = parse_count_per(at.value)
        return Budget(limit=limit, per=per, digest=Digest(key=(), wait=per))
    per = _length(at, "per", complaints)
    digests = at.value.get("on_limit", "digest") == "digest"
    return Budget(limit=at.value["limit"], per=per, digest=_gathering(at, (), per) if digests else None)


def _dedupe(at: DocumentNode, complaints: Diagnostics) -> Dedupe:
    return Dedupe(key=_key(at, complaints), window=_length(at, "window", complaints))


def _throttle(at: DocumentNode, complaints: Diagnostics) -> Throttle:
    per, key = _length(at, "per", complaints), _key(at, complaints)
    beyond = _gathering(at, key, per) if _digests(at) else None
    return Throttle(key=key, limit=at.value["limit"], per=per, digest=beyond)


def _digest(at: DocumentNode, complaints: Diagnostics) -> Digest:
    interval = _length(at, "interval", complaints) if "interval" in at.value else 0.0
    return _gathering(at, _key(at, complaints), _length(at, "wait", complaints), interval)


def _gathering(at: DocumentNode, key: tuple[FieldPath, ...], wait: float, interval: float = 0.0) -> Digest:
    return Digest(
        key=key,
        wait=wait,
        interval=interval,
        max_events=at.value.get("max_events", DEFAULT_MAX_EVENTS),
        template=at.value.get("template", ""),
        flushes=at.value.get("on_remove", "flush") == "flush",
    )


def _digests(throttle: DocumentNode) -> DocumentNode | None:
    return throttle / "on_limit" if throttle.value.get("on_limit") == "digest" else None


def _key(at: DocumentNode, complaints: Diagnostics) -> tuple[FieldPath, ...]:
    paths = []
    for each in (at / "key").each():
        try:
            paths.append(parse_path(each.value))
        except ValueError as error:
            complaints.add(each, "bad-path", str(error))
    return tuple(paths)


def _length(at: DocumentNode, name: str, complaints: Diagnostics) -> float:
    seconds = parse_duration(at.value[name])
    if seconds <= 0.0:
        complaints.add(at / name, "out-of-range", f"{name} has to be longer than nothing")
    return seconds


def _is_pointless(limits: Limits) -> bool:
    """Whether of what ``dedupe`` lets through never more than the limit comes in time."""
    dedupe, throttle = limits.dedupe, limits.throttle
    if dedupe is None or throttle is None or dedupe.window <= 0.0 or set(dedupe.key) != set(throttle.key):
        return False
    return math.ceil(throttle.per / dedupe.window) <= throttle.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalCompiler:
    """Compiles intervals; ``zone`` is for those that name none."""

    diagnostics: Diagnostics
    zone: ZoneInfo

    def intervals(self, entry: DocumentNode) -> tuple[Interval, ...]:
        """One named interval, which is one mapping or several of which one must hold.

        Of one with a mistake in it there is nothing, so that one mistake makes one problem.
        """
        before = len(self.diagnostics.problems)
        intervals = tuple(self._interval(each) for each in entry.each())
        return intervals if len(self.diagnostics.problems) == before else ()

    def _interval(self, at: DocumentNode) -> Interval:
        zone: ZoneInfo | None = self.zone
        if written := at.get("time_zone"):
            zone = None if written.value == RECIPIENT else zone_of(written, self.diagnostics) or self.zone
        interval = Interval(
            windows=tuple(self._windows(at.get("times"))) or (WHOLE_DAY,),
            weekdays=frozenset(self._numbers(at.get("weekdays"), _DAYS, first=0)),
            days_of_month=tuple(self._ranges(at.get("days_of_month"), self._day)),
            months=frozenset(self._numbers(at.get("months"), _MONTHS, first=1)),
            years=tuple(self._ranges(at.get("years"), self._year)),
            zone=zone,
        )
        if not _has_a_day(interval):
            self.diagnostics.add(at, "empty-interval", "no day is all of this")
        return interval

    def _windows(self, times: DocumentNode | None) -> Iterator[Window]:
        for each in times.each() if times else ():
            try:
                yield parse_window(each.value)
            except ValueError as error:
                self.diagnostics.add(each, "bad-window", str(error))

    def _numbers(self, written: DocumentNode | None, names: Sequence[str], *, first: int) -> Iterator[int]:
        """Days of the week or months: names, or two with a colon between; they may go round the end."""

        def number(text: str) -> int:
            if text.lower() not in names:
                raise ValueError(f"{text!r} is none of {', '.join(names)}")
            return names.index(text.lower())

        for low, high in self._ranges(written, number, names):
            yield from (first + n % len(names) for n in range(low, high + 1 + len(names) * (high < low)))

    def _ranges(
        self, written: DocumentNode | None, number: Callable[[str], int], names: Sequence[str] = ()
    ) -> Iterator[Range]:
        for each in written.each() if written else ():
            low, colon, high = str(each.value).partition(":")
            try:
                pair = number(low.strip()), number((high if colon else low).strip())
            except ValueError as error:
                hint = nearest(str(each.value).lower(), names)
                self.diagnostics.add(each, "bad-range", str(error), hint=hint)
                continue
            if not names and pair[0] > pair[1] and (pair[0] > 0) == (pair[1] > 0):
                self.diagnostics.add(each, "bad-range", f"{each.value} ends before it begins")
                continue
            yield pair

    @staticmethod
    def _day(text: str) -> int:
        if not _NUMBER.fullmatch(text) or not 1 <= abs(int(text)) <= 31:
            raise ValueError(f"{text!r} is no day of a month: 1 to 31, or -1 (the last) to -31")
        return int(text)

    @staticmethod
    def _year(text: str) -> int:
        if not _NUMBER.fullmatch(text) or not 1970 <= int(text) <= 9999:
            raise ValueError(f"{text!r} is no year")
        return int(text)


def zone_of(written: DocumentNode, complaints: Diagnostics) -> ZoneInfo | None:
    """The time zone of that name; None, after a complaint, where there is none."""
    try:
        return parse_zone(written.value)
    except ValueError as error:
        complaints.add(
            written, "unknown-zone", str(error), hint=nearest(written.value, available_timezones())
        )
        return None


def _has_a_day(interval: Interval) -> bool:
    """Whether some month has a day that it asks for."""
    if not interval.days_of_month:
        return True
    months = interval.months or frozenset(range(1, 13))
    for month in months:
        length = _SHORT_MONTH_LENGTHS.get(month, 31)
        for low, high in interval.days_of_month:
            first, last = (day if day > 0 else length + 1 + day for day in (low, high))
            if max(first, 1) <= min(last, length):
                return True
    return False
