"""All that rules/ says, checked and compiled: immutable, and named by its revision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

from msgspec import Struct

from .catalogue import Catalogue
from .choices import PREFERRED
from .conditions import Block
from .index import RuleIndex
from .intervals import ALWAYS, Schedule
from .limits import NO_LIMITS, Budget, Limits
from .model import Event, Place, Recipient, Severity
from .paths import FieldPath
from .retry import RetryPolicy
from .subjects import Pattern
from .templates import Library

UTC = ZoneInfo("UTC")


class Mode(StrEnum):
    """What ``enabled`` says of a rule."""

    LIVE = "true"
    OFF = "false"
    SHADOW = "shadow"  # evaluated and recorded, never sent


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSpec:
    """A named way to reach somebody, as ``channels`` declares it."""

    name: str
    type: str  # a key of the channel registry
    address: str | None  # the kind of address it needs: email, phone, ...; None needs none
    many: bool = False  # one message may carry several addresses
    renders_text: bool = True  # it says something to people; without words it carries the event to a machine
    options: Mapping[str, Any] = field(repr=False)  # the type's own settings; references are resolved
    timeout: float = 20.0  # seconds for one step of a send
    concurrency: int = 8  # sends at the same time, in one process
    rate: float | None = None  # sends a second, over all processes; None: as fast as they come
    repeats_unknown: bool = True  # what may have gone out is sent again; else it is a dead letter
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """Who ``to`` means: an entry under ``people``, or fields of the payload."""

    person: str = ""
    fields: Mapping[str, FieldPath] = field(
        default_factory=dict
    )  # user, locale, or a kind of address -> path


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When a message may be sent."""

    schedule: Schedule = ALWAYS
    defers: bool = True  # what is muted waits until it may be sent; else it is not sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """One entry of a rule's ``notify``. What it leaves out, the rule says."""

    channel: str
    when: Block | None = None
    template: str | None = None
    to: Audience | None = None
    vars: Mapping[str, Any] = field(default_factory=dict)
    timing: Timing = field(default_factory=Timing)  # the rule's is in it
    among: tuple[str, ...] = ()  # the channels of which the person chooses; () where it is not asked


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstOf:
    """An entry of ``notify`` that goes from channel to channel until one does not definitely fail.

    What it says for all of its steps is said in each of them, but for ``when``.
    """

    steps: tuple[Notify, ...]  # preferred first; two or more
    when: Block | None = None
    to: Audience | None = None
    within: float = 0.0  # seconds that each step but the last has; 0.0: as long as its channel tries

    @property
    def channel(self) -> str:
        """Where it begins."""
        return self.steps[0].channel


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferredChannel:
    """An entry of ``notify`` that leaves the channel to the person."""

    steps: tuple[Notify, ...]  # one for each channel that is allowed, the rule's favourite first
    when: Block | None = None
    to: Audience | None = None

    @property
    def channel(self) -> str:
        """What stands for all of them."""
        return PREFERRED


NotifyEntry: TypeAlias = Notify | FirstOf | PreferredChannel


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which events, under which conditions, tell whom over which channels in which words."""

    id: str
    description: str = ""
    mode: Mode = Mode.LIVE
    events: tuple[Pattern, ...]
    when: Block
    priority: int = 0  # lower first; ties by place
    stop: bool = False  # none after this one
    severity: Severity = Severity.NONE
    to: Audience = field(default_factory=Audience)
    notify: tuple[NotifyEntry, ...]
    template: str
    vars: Mapping[str, Any] = field(default_factory=dict)
    category: str = ""  # what people choose by
    critical: bool = False  # people may add channels, and not switch off the last one
    limits: Limits = NO_LIMITS
    place: Place

    def templates_of(self, step: Notify) -> Iterator[str]:
        """What a message of this step may be written from: a digest may have words of its own."""
        if not (self.limits.digest and self.limits.digest.template):
            yield step.template or self.template
        yield from (digest.template for digest in self.limits.digests if digest.template)

    @property
    def steps(self) -> Iterator[Notify]:
        """Every entry of ``notify``, and instead of a chain each of its steps."""
        for entry in self.notify:
            yield from (entry,) if isinstance(entry, Notify) else entry.steps


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSpec:
    """What carries out one action, as ``actions`` declares it."""

    key: str  # what stands after ``action.`` in the subject
    handler: str  # a key of the handler registry
    timeout: float = 60.0  # seconds from the start of the handler; the caller's patience ends it sooner
    concurrency: int = 64  # requests carried out at the same time, in one process
    queue: int = 10_000  # requests that may wait for that; what comes beyond is refused
    idempotent: bool = False  # doing it twice does no harm
    channels: tuple[str, ...] = ()  # to tell somebody over, preferred first
    to: Mapping[str, FieldPath] = field(default_factory=dict)  # user, locale, or a kind of address -> path
    template: str = ""
    vars: Mapping[str, Any] = field(default_factory=dict)
    sensitive: tuple[FieldPath, ...] = ()  # fields of the payload to mask wherever they are shown
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the handler's own settings
    place: Place


class Match(Struct, frozen=True, kw_only=True):
    """A rule that an event satisfies."""

    event: Event
    rule: Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What holds where neither the event nor the rule says otherwise."""

    locale: str = "en"
    zone: ZoneInfo = UTC  # of time intervals, and of readers whose own is not known
    site: Mapping[str, Any] = field(default_factory=dict)  # for templates: name, links, ...
    budget: Budget | None = None  # of all messages of the policy together; None: as many as there are


@dataclass(frozen=True, slots=True, kw_only=True)
class Rulebook:
    """A policy. ``rules`` are in order of evaluation and leave out what is switched off."""

    revision: str  # hash of every file it was read from
    defaults: Defaults = field(default_factory=Defaults)
    channels: Mapping[str, ChannelSpec]
    people: Mapping[str, Recipient]
    rules: tuple[Rule, ...]
    actions: Mapping[str, ActionSpec] = field(default_factory=dict)
    library: Library = field(repr=False)
    catalogue: Catalogue = field(repr=False)
    index: RuleIndex[Rule] = field(repr=False)
    by_id: Mapping[str, Rule] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_id", {rule.id: rule for rule in self.rules})

    def match(self, event: Event) -> tuple[Match, ...]:
        """Every rule that ``event`` satisfies, in order, up to the first that says ``stop``."""
        matches = []
        for rule in self.index.lookup(event.name, event.payload):
            matches.append(Match(event=event, rule=rule))
            if rule.stop and rule.mode is not Mode.SHADOW:
                break
        return tuple(matches)


def in_order(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The order of evaluation: priority, then file path, then position."""
    return tuple(sorted(rules, key=lambda rule: (rule.priority, rule.place)))
