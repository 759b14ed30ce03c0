"""The test cases of a policy: compile ``tests``, and report names that do not exist."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ...documents.cursor import Diagnostics, DocumentNode
from ...model.errors import InvalidPreferences
from ...model.messages import Event, Kind, Outcome
from ...model.problems import Place
from ...model.times import parse_duration, parse_time, to_micros
from ...planning.recipients import Choices
from ...planning.requests import ActionRequest
from ...preferences.document import parse
from ...rules.catalog import Catalogue
from ...rules.rulebook import ActionSpec

DEFAULT_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)  # of the virtual clock, if a test sets none


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A message or a reply that a test expects, by the fields that the test names."""

    fields: Mapping[str, Any]  # as written: channel, rule, to, locale, title, contains, reason; code, message
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test. It expects nothing in particular of a field that is None."""

    name: str
    place: Place
    events: tuple[Event, ...]  # in order of arrival, on the virtual clock
    requests: tuple[ActionRequest, ...] = ()  # for actions, in the same order
    preferences: Mapping[str, Choices] = field(default_factory=dict)  # by user
    answers: Mapping[str, Outcome] = field(default_factory=dict)  # of sends, by channel; default: sent
    rules: tuple[str, ...] | None = None  # ids, in order of evaluation
    deliveries: tuple[Expected, ...] | None = None  # sent
    failed: tuple[Expected, ...] | None = None  # rendered, and not sent because of ``answers``
    suppressed: tuple[Expected, ...] | None = None  # not rendered
    replies: tuple[Expected, ...] | None = None  # one for each request


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseCompiler:
    """A compiler of tests that knows the rest of the policy."""

    diagnostics: Diagnostics
    rules: Collection[str]  # ids of all rules, also of those with problems
    channels: Collection[str]  # names, likewise
    actions: Collection[str]  # keys, likewise
    specs: Mapping[str, ActionSpec]  # of the actions without problems
    catalogue: Catalogue

    def case(self, entry: DocumentNode) -> Case:
        """Return the test at ``entry``, which has passed the schema."""
        expect = entry / "expect"
        for channel in entry.children("channels"):
            self.diagnostics.check_name(channel, "channel", self.channels, at_key=True)
        for rule in expect.children("rules"):
            self.diagnostics.check_name(rule, "rule", self.rules)
        given = list(self._given(entry))
        return Case(
            name=entry.value["name"],
            place=entry.place,
            events=tuple(each for each in given if isinstance(each, Event)),
            requests=tuple(each for each in given if isinstance(each, ActionRequest)),
            preferences=dict(self._preferences(entry)),
            answers={name: Outcome(answer) for name, answer in entry.value.get("channels", {}).items()},
            rules=tuple(expect.value["rules"]) if "rules" in expect.value else None,
            deliveries=self._expected(expect.get("deliveries")),
            failed=self._expected(expect.get("failed")),
            suppressed=self._expected(expect.get("suppressed")),
            replies=self._replies(entry),
        )

    def _preferences(self, entry: DocumentNode) -> Iterator[tuple[str, Choices]]:
        for person in entry.children("preferences"):
            try:
                yield person.name, parse(person.value)
            except InvalidPreferences as error:
                for reason in error.reasons:
                    self.diagnostics.add(person, "bad-preference", reason)

    def _given(self, entry: DocumentNode) -> Iterator[Event | ActionRequest]:
        at = self._clock(entry.get("at"))
        for position, given in enumerate((entry / "given").each()):
            if after := given.get("after"):
                try:
                    at += timedelta(seconds=parse_duration(after.value))
                except (ValueError, OverflowError):
                    self.diagnostics.add(after, "bad-format", f"{after.value!r} leads past the year 9999")
            now = to_micros(at)
            # Unique, and the same at each run of the test: a template may show it.
            reqid = hashlib.sha256(f"{entry.place}#{position}".encode()).hexdigest()[:32]
            payload = given.value.get("payload", {})
            if action := given.get("action"):
                if self._is_testable(action):
                    yield ActionRequest(
                        key=action.value, reqid=reqid, payload=payload, data=b"", sent=now, received=now
                    )
                continue
            name = given.value["event"]
            kind, _, key = name.partition(".")
            yield Event(
                kind=Kind(kind),
                key=key,
                reqid=reqid,
                payload=self.catalogue.canonical(name, payload),
                sent=now,
                received=now,
            )

    def _is_testable(self, action: DocumentNode) -> bool:
        """Return whether a test can run an action; only ``notify`` needs nothing outside the policy."""
        if not self.diagnostics.check_name(action, "action", self.actions):
            return False
        spec = self.specs.get(action.value)
        if spec is None or not set(spec.channels) <= set(self.channels):
            return False  # the action has problems of its own
        if spec.handler != "notify":
            message = f"{action.value} has the handler {spec.handler}, which tests cannot run"
            self.diagnostics.add(
                action, "untestable-action", message, hint="tests can run only the handler notify"
            )
            return False
        return True

    def _replies(self, entry: DocumentNode) -> tuple[Expected, ...] | None:
        if (reply := (entry / "expect").get("reply")) is None:
            return None
        replies = tuple(Expected(fields=each.value, place=each.place) for each in reply.each())
        requests = sum("action" in each.value for each in (entry / "given").each())
        if len(replies) != requests:
            message = f"{len(replies)} expected replies for {requests} requested actions; each has one"
            self.diagnostics.add(reply, "reply-count", message, at_key=True)
        return replies

    def _clock(self, at: DocumentNode | None) -> datetime:
        return (at and self.diagnostics.parse(at, parse_time, "bad-format")) or DEFAULT_AT

    def _expected(self, entries: DocumentNode | None) -> tuple[Expected, ...] | None:
        if entries is None:
            return None
        for entry in entries.items():
            self._clock(entry.get("at"))
            if channel := entry.get("channel"):
                self.diagnostics.check_name(channel, "channel", self.channels)
            rule = entry.get("rule")
            if rule is not None and rule.value not in self.actions:
                self.diagnostics.check_name(rule, "rule", self.rules)
        return tuple(Expected(fields=entry.value, place=entry.place) for entry in entries.items())
