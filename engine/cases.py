"""The policy's own tests, as ``tests`` says them: given these events, exactly this is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .choices import Choices
from .model import Event, Outcome, Place
from .telling.request import ActionRequest

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
