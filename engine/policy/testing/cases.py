"""The policy's own test cases: compile ``tests``, and report names that do not exist."""

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

DEFAULT_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)  # the virtual clock where a test sets none


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """One message, or one reply, that a test waits for. It names only the fields it cares about."""

    fields: Mapping[str, Any]  # as written: channel, rule, to, locale, title, contains, reason; code, message
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test. Of what is None it says nothing."""

    name: str
    place: Place
    events: tuple[Event, ...]  # in order of arrival, on the virtual clock
    requests: tuple[ActionRequest, ...] = ()  # for actions, so too
    preferences: Mapping[str, Choices] = field(default_factory=dict)  # by person
    answers: Mapping[str, Outcome] = field(default_factory=dict)  # how sends end, by channel; else sent
    rules: tuple[str, ...] | None = None  # ids, in order of evaluation
    deliveries: tuple[Expected, ...] | None = None  # sent
    failed: tuple[Expected, ...] | None = None  # written, and not sent because of ``answers``
    suppressed: tuple[Expected, ...] | None = None  # asked for, and not written
    replies: tuple[Expected, ...] | None = None  # one for each request


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseCompiler:
    """Compiles tests against the rest of the policy."""

    diagnostics: Diagnostics
    rules: Collection[str]  # ids of all that are written, switched off or wrong ones too
    channels: Collection[str]  # so for these
    actions: Collection[str]  # and these
    specs: Mapping[str, ActionSpec]  # of the actions, as far as nothing is wrong with them
    catalogue: Catalogue

    def case(self, entry: DocumentNode) -> Case:
        """The test at ``entry``, which the schema has passed."""
        expect = entry / "expect"
        for channel in self._items(entry.get("channels")):
            if channel.name not in self.channels:
                self.diagnostics.unknown_name(channel, "channel", self.channels, at_key=True)
        for rule in self._items(expect.get("rules")):
            self._check_rule(rule)
        given = list(self._given(entry))
        if (reply := expect.get("reply")) is not None:
            self._check_replies(reply, sum("action" in each.value for each in (entry / "given").each()))
        return Case(
            name=entry.value["name"],
            place=entry.place,
            events=tuple(each for each in given if isinstance(each, Event)),
            requests=tuple(each for each in given if isinstance(each, ActionRequest)),
            preferences=dict(self._preferences(entry.get("preferences"))),
            answers={name: Outcome(answer) for name, answer in entry.value.get("channels", {}).items()},
            rules=tuple(expect.value["rules"]) if "rules" in expect.value else None,
            deliveries=self._expected(expect.get("deliveries")),
            failed=self._expected(expect.get("failed")),
            suppressed=self._expected(expect.get("suppressed")),
            replies=tuple(Expected(fields=each.value, place=each.place) for each in reply.each())
            if reply is not None
            else None,
        )

    def _preferences(self, written: DocumentNode | None) -> Iterator[tuple[str, Choices]]:
        for person in self._items(written):
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
                    self.diagnostics.add(after, "bad-format", f"{after.value!r} leads beyond the year 9999")
            now = to_micros(at)
            # Told apart, and the same whenever the test runs: words may show it.
            reqid = hashlib.sha256(f"{entry.place}#{position}".encode()).hexdigest()[:32]
            payload = given.value.get("payload", {})
            if action := given.get("action"):
                if self._can_be_tried(action):
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

    def _can_be_tried(self, action: DocumentNode) -> bool:
        """Only what tells somebody is tried without asking anything outside the policy."""
        if action.value not in self.actions:
            self.diagnostics.unknown_name(action, "action", self.actions)
            return False
        spec = self.specs.get(action.value)
        if spec is None or not set(spec.channels) <= set(self.channels):
            return False  # what is wrong is said there
        if spec.handler != "notify":
            message = f"{action.value} has the handler {spec.handler}, which a test does not ask"
            self.diagnostics.add(action, "untestable-action", message, hint="only notify can be tried")
            return False
        return True

    def _check_replies(self, reply: DocumentNode, requests: int) -> None:
        written = len(list(reply.each()))
        if written != requests:
            message = f"replies expected: {written}, actions asked for: {requests}; each has one"
            self.diagnostics.add(reply, "reply-count", message, at_key=True)

    def _clock(self, at: DocumentNode | None) -> datetime:
        if at is None:
            return DEFAULT_AT
        try:
            return parse_time(at.value)
        except ValueError as error:
            self.diagnostics.add(at, "bad-format", str(error))
            return DEFAULT_AT

    def _expected(self, entries: DocumentNode | None) -> tuple[Expected, ...] | None:
        if entries is None:
            return None
        for entry in entries.items():
            channel, rule = entry.get("channel"), entry.get("rule")
            if at := entry.get("at"):
                self._clock(at)
            if channel is not None and channel.value not in self.channels:
                self.diagnostics.unknown_name(channel, "channel", self.channels)
            if rule is not None and rule.value not in self.actions:
                self._check_rule(rule)
        return tuple(Expected(fields=entry.value, place=entry.place) for entry in entries.items())

    def _check_rule(self, rule: DocumentNode) -> None:
        if rule.value not in self.rules:
            self.diagnostics.unknown_name(rule, "rule", self.rules)

    @staticmethod
    def _items(cursor: DocumentNode | None) -> Iterator[DocumentNode]:
        return iter(()) if cursor is None else cursor.items()
