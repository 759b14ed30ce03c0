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
from ..templates.library import TEMPLATE_FOLDER, Library, LocalizedTemplate, locale_chain

_ANY_TIME = 1_767_225_600_000_000  # 2026-01-01, microseconds since the epoch

RECIPIENT = "recipient"  # as a zone: that of the recipient
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
    "november", "december",
)  # fmt: skip
_NUMBER = re.compile(r"-?[0-9]{1,4}", re.ASCII)
_SHORT_MONTH_LENGTHS = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}  # months without a 31st


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCompiler:
    """A compiler of rules that knows the rest of the policy."""

    diagnostics: Diagnostics
    defaults: Defaults
    channels: Mapping[str, ChannelSpec]
    declared: Collection[str]  # names of all channels, also of those with problems
    people: Mapping[str, Recipient]
    intervals: Mapping[str, tuple[Interval, ...]]
    library: Library
    catalogue: Catalogue

    def rule(self, entry: DocumentNode) -> Rule:
        """Return the rule at ``entry``, which has passed the schema."""
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
                    named = at.get("template") or whole.get("template") or entry.get("template")
                    for name in rule.templates_of(each):
                        self._check_template(named or at, name, channel)
                    self._check_reachable(at, rule, each, channel)
        return rule

    def _patterns(self, event: DocumentNode) -> Iterator[Pattern]:
        for each in event.each():
            pattern = self.diagnostics.parse(each, parse_event_pattern, "bad-event")
            if pattern is None:
                continue
            yield pattern
            schemas = self.catalogue.schemas
            if not (pattern.wild or str(pattern) in schemas or str(pattern) in self.catalogue.flawed):
                message = f"no payload schema describes {each.value}, so its payload is not checked"
                file = f"events/{each.value.replace('.', '/', 1)}.schema.json"
                hint = nearest(each.value, schemas) or f"describe it in {file}"
                self.diagnostics.add(each, "unknown-event", message, hint=hint)

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
            self.diagnostics.check_name(to, "person", self.people)
            return Audience(person=to.value)
        paths = ((each.name, self.diagnostics.parse(each, parse_path, "bad-path")) for each in to.items())
        return Audience(fields={name: path for name, path in paths if path is not None})

    def _timing(self, entry: DocumentNode, outer: Timing) -> Timing:
        """Return the time windows of ``entry``; ``outer`` are those of the rule or chain around it."""
        settings: Mapping[str, Any] = entry.value if isinstance(entry.value, dict) else {}
        active, mute = entry.get("active_time_intervals"), entry.get("mute_time_intervals")
        if active is None and mute is None and "on_muted" not in settings:
            return outer
        timing = Timing(
            schedule=Schedule(
                active=tuple(self._intervals(entry, "active_time_intervals")) or outer.schedule.active,
                mute=(*outer.schedule.mute, *self._intervals(entry, "mute_time_intervals")),
            ),
            defers=settings["on_muted"] == "defer" if "on_muted" in settings else outer.defers,
        )
        if (active or mute) and timing.schedule.opens(_ANY_TIME, self.defaults.zone) is None:
            message = "these time intervals leave no time at which anything is sent"
            self.diagnostics.add(mute or active or entry, "always-muted", message)
        return timing

    def _intervals(self, entry: DocumentNode, key: str) -> Iterator[Interval]:
        for each in entry.children(key):
            if self.diagnostics.check_name(each, "interval", self.intervals):
                yield from self.intervals[each.value]

    def _allowed(self, entry: DocumentNode) -> Iterator[str]:
        """Yield the channels that a user may choose."""
        for each in entry.children("allow"):
            self.diagnostics.check_name(each, "channel", self.declared)
            yield each.value
        allow = entry.get("allow")
        preferred = [each for each in (entry / "notify").items() if _is_preferred(each)]
        if allow and not preferred:
            message = "allow lists the channels that users may choose, and no entry of notify uses preferred"
            self.diagnostics.add(allow, "unused-allow", message, at_key=True)
        for each in preferred if not allow else ():
            hint = "add to the rule: allow: [email, ...]"
            self.diagnostics.add(
                each, "preferred-without-allow", "preferred needs the channels to choose from", hint=hint
            )

    def _entry(self, entry: DocumentNode, common: Notify) -> NotifyEntry:
        """Return an entry of ``notify``; the settings of a chain are copied to each of its steps."""
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
        """Return one channel with its own settings; ``common`` has the settings for the others."""
        settings: Mapping[str, Any] = entry.value if isinstance(entry.value, dict) else {}
        channel = entry.get("channel") or entry
        name = channel.value if isinstance(channel.value, str) else ""  # the schema has reported it
        if name:
            self.diagnostics.check_name(channel, "channel", self.declared)
        return Notify(
            channel=name,
            when=self._block(entry.get("when")),
            template=settings.get("template", common.template),
            to=self._audience(entry.get("to")) or common.to,
            vars={**common.vars, **settings.get("vars", {})},
            timing=self._timing(entry, common.timing),
        )

    def _check_template(self, at: DocumentNode, name: str, channel: ChannelSpec) -> None:
        content = find_without_subject(
            at, name, channel, library=self.library, locale=self.defaults.locale, diagnostics=self.diagnostics
        )
        if content is not None:
            variant = content.markup or content.text
            assert variant is not None  # noqa: S101 -- content is markup, text or both
            self.diagnostics.problems.append(
                Problem(
                    place=Place(file=TEMPLATE_FOLDER + variant.path),
                    code="missing-subject",
                    message="a mail needs a subject",
                    hint="begin the file with: ---, subject: ..., ---",
                )
            )

    def _check_reachable(self, at: DocumentNode, rule: Rule, notify: Notify, channel: ChannelSpec) -> None:
        """Report a recipient without the address that the channel needs, as far as that is known."""
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
                message = f"no path says where {pattern} has the {kind} that channel {channel.name!r} needs"
                hint = f"add to the rule: to: {{{kind}: <path into the payload>}}"
                self.diagnostics.add(at, "no-address", message, hint=hint)


def steps_of(at: DocumentNode, entry: NotifyEntry) -> Iterator[tuple[DocumentNode, Notify]]:
    """Yield an entry of ``notify``, or each step of a chain: as written and as compiled."""
    if isinstance(entry, FirstOf):
        yield from zip((at / "first_of").items(), entry.steps, strict=True)
    elif isinstance(entry, PreferredChannel):
        yield from ((at, step) for step in entry.steps)
    else:
        yield at, entry


def _is_preferred(entry: DocumentNode) -> bool:
    return bool((entry.get("channel") or entry).value == PREFERRED)


def find_without_subject(
    at: DocumentNode,
    name: str,
    channel: ChannelSpec,
    *,
    library: Library,
    locale: str,
    diagnostics: Diagnostics,
    at_key: bool = False,
) -> LocalizedTemplate | None:
    """Return the content of a template for ``channel`` in ``locale`` if it is a mail without a subject.

    A template that has no content for the channel is reported at ``at``.
    """
    content = library.find(name, (channel.name, channel.type), locale_chain(locale))
    if content is not None:
        return content if channel.type == "email" and content.subject is None else None
    if channel.renders_text and name not in library.flawed:
        known = "" if name in library else nearest(name, library.names)
        file = f"{channel.name}.html" if channel.type == "email" else f"{channel.name}.txt"
        message = f"no template {name!r} for channel {channel.name!r}"
        hint = known or f"write {TEMPLATE_FOLDER}{name}/{file}"
        diagnostics.add(at, "missing-template", message, hint=hint, at_key=at_key)
    return None


def compile_limits(entry: DocumentNode, whole: Budget | None, diagnostics: Diagnostics) -> Limits:
    """Return the limits of the rule at ``entry``; ``whole`` is the budget of the policy."""
    dedupe, throttle, digest = (entry.get(name) for name in ("dedupe", "throttle", "digest"))
    own = entry.get("budget")
    if not (dedupe or throttle or digest or own or whole):
        return NO_LIMITS
    budgets = {entry.value["id"]: compile_budget(own, diagnostics)} if own else {}
    limits = Limits(
        dedupe=_dedupe(dedupe, diagnostics) if dedupe else None,
        throttle=_throttle(throttle, diagnostics) if throttle else None,
        digest=_digest(digest, diagnostics) if digest else None,
        budgets={**budgets, GLOBAL_BUDGET: whole} if whole else budgets,
    )
    if throttle and _is_pointless(limits):
        message = "this never takes effect, because dedupe lets fewer events pass than the limit"
        diagnostics.add(throttle, "ineffective-throttle", message, at_key=True)
    if entry.value.get("critical") and (held := digest or (throttle and _digests(throttle))):
        message = "the rule is critical, and this delays its messages"
        diagnostics.add(held, "delayed-critical", message, at_key=True)
    return limits


def compile_budget(at: DocumentNode, diagnostics: Diagnostics) -> Budget:
    """Return the budget at ``at``: ``1000/h``, or a mapping with more settings."""
    if isinstance(at.value, str):
        limit, per = parse_count_per(at.value)
        return Budget(limit=limit, per=per, digest=Digest(key=(), wait=per))
    per = _length(at, "per", diagnostics)
    digests = at.value.get("on_limit", "digest") == "digest"
    return Budget(limit=at.value["limit"], per=per, digest=_digest_settings(at, (), per) if digests else None)


def _dedupe(at: DocumentNode, diagnostics: Diagnostics) -> Dedupe:
    return Dedupe(key=_key(at, diagnostics), window=_length(at, "window", diagnostics))


def _throttle(at: DocumentNode, diagnostics: Diagnostics) -> Throttle:
    per, key = _length(at, "per", diagnostics), _key(at, diagnostics)
    digest = _digest_settings(at, key, per) if _digests(at) else None
    return Throttle(key=key, limit=at.value["limit"], per=per, digest=digest)


def _digest(at: DocumentNode, diagnostics: Diagnostics) -> Digest:
    interval = _length(at, "interval", diagnostics) if "interval" in at.value else 0.0
    return _digest_settings(at, _key(at, diagnostics), _length(at, "wait", diagnostics), interval)


def _digest_settings(
    at: DocumentNode, key: tuple[FieldPath, ...], wait: float, interval: float = 0.0
) -> Digest:
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


def _key(at: DocumentNode, diagnostics: Diagnostics) -> tuple[FieldPath, ...]:
    paths = (diagnostics.parse(each, parse_path, "bad-path") for each in (at / "key").each())
    return tuple(path for path in paths if path is not None)


def _length(at: DocumentNode, name: str, diagnostics: Diagnostics) -> float:
    seconds = parse_duration(at.value[name])
    if seconds <= 0.0:
        diagnostics.add(at / name, "out-of-range", f"{name} must be longer than 0")
    return seconds


def _is_pointless(limits: Limits) -> bool:
    """Return whether ``dedupe`` never lets more events pass than ``throttle`` does."""
    dedupe, throttle = limits.dedupe, limits.throttle
    if dedupe is None or throttle is None or dedupe.window <= 0.0 or set(dedupe.key) != set(throttle.key):
        return False
    return math.ceil(throttle.per / dedupe.window) <= throttle.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalCompiler:
    """A compiler of time intervals."""

    diagnostics: Diagnostics
    zone: ZoneInfo  # of an interval that names none

    def intervals(self, entry: DocumentNode) -> tuple[Interval, ...]:
        """Return a named interval: one mapping, or several of which one must hold.

        It is empty if it has a mistake, so that one mistake makes one problem.
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
            self.diagnostics.add(at, "empty-interval", "no day satisfies all of this")
        return interval

    def _windows(self, times: DocumentNode | None) -> Iterator[Window]:
        for each in times.each() if times else ():
            window = self.diagnostics.parse(each, parse_window, "bad-window")
            if window is not None:
                yield window

    def _numbers(self, written: DocumentNode | None, names: Sequence[str], *, first: int) -> Iterator[int]:
        """Yield days of the week or months. ``friday:monday`` passes the end of the week."""

        def number(text: str) -> int:
            if text.lower() not in names:
                raise ValueError(f"{text!r} is not one of {', '.join(names)}")
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
                self.diagnostics.add(each, "bad-range", f"{each.value} ends before it starts")
                continue
            yield pair

    @staticmethod
    def _day(text: str) -> int:
        if not _NUMBER.fullmatch(text) or not 1 <= abs(int(text)) <= 31:
            raise ValueError(f"{text!r} is not a day of a month: 1 to 31, or -1 (the last) to -31")
        return int(text)

    @staticmethod
    def _year(text: str) -> int:
        if not _NUMBER.fullmatch(text) or not 1970 <= int(text) <= 9999:
            raise ValueError(f"{text!r} is not a year from 1970 to 9999")
        return int(text)


def zone_of(written: DocumentNode, diagnostics: Diagnostics) -> ZoneInfo | None:
    """Return the time zone of that name; None, and a problem, if there is none."""
    try:
        return parse_zone(written.value)
    except ValueError as error:
        diagnostics.add(
            written, "unknown-zone", str(error), hint=nearest(written.value, available_timezones())
        )
        return None


def _has_a_day(interval: Interval) -> bool:
    """Return whether some month of the interval has one of its days."""
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
