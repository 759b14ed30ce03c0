"""The compiled policy, immutable and named by its revision: rules, channels, limits, retry policies.

Entry: `Rulebook.match`, the rules that match an event.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

from msgspec import Struct

from ..model.messages import Event, Recipient, Severity
from ..model.problems import Place
from ..model.subjects import Pattern
from ..templates.library import Library
from .catalog import Catalogue
from .conditions import Block
from .index.rule_index import RuleIndex
from .paths import FieldPath
from .schedule import ALWAYS, Schedule

UTC = ZoneInfo("UTC")

GLOBAL_BUDGET = "*"  # the budget of the policy as a whole, beside those of its rules

DEFAULT_MAX_EVENTS = 50  # of one digest in full, where nothing else is said

PREFERRED = "preferred"  # in ``notify``: what the person has chosen, within ``allow``


class Mode(StrEnum):
    """What ``enabled`` says of a rule."""

    LIVE = "true"
    OFF = "false"
    SHADOW = "shadow"  # evaluated and recorded, never sent


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential back-off with full-range jitter, bounded by count and by age."""

    attempts: int = 8  # sends in all, the first included
    first: float = 5.0  # seconds before the second attempt
    max: float = 1800.0  # seconds, the ceiling of one wait
    deadline: float = 86400.0  # seconds after the event, past which nothing is tried

    def wait(self, attempt: int, *, chance: float, asked: float | None = None) -> float:
        """Seconds to wait after ``attempt`` (from 1) failed.

        ``chance`` is uniform in [0, 1) and spreads the wait over its upper half, so that what
        failed together does not come back together. ``asked`` is what the other side wants to
        be given at least; it may exceed the ceiling.
        """
        ceiling = min(self.max, self.first * 2.0 ** min(attempt - 1, 63))
        return max(ceiling * (0.5 + 0.5 * chance), asked or 0.0)

    def exhausted(self, attempt: int, *, age: float) -> bool:
        """Whether nothing may follow ``attempt`` (from 1), ``age`` seconds after the event."""
        return attempt >= self.attempts or age >= self.deadline


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
class Dedupe:
    """Of events that are alike, one in each window."""

    key: tuple[FieldPath, ...]  # fields that make them alike
    window: float  # seconds, from the one that passes


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """Events that are alike are told of together."""

    key: tuple[FieldPath, ...]
    wait: float  # seconds from the first one
    interval: float = 0.0  # seconds at least between two digests
    max_events: int = DEFAULT_MAX_EVENTS  # in full; the rest is counted
    template: str = ""  # "": that of the entry
    flushes: bool = True  # when the rule is gone, what was gathered is sent; else it is not


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """So many events that are alike in each stretch of time."""

    key: tuple[FieldPath, ...]
    limit: int
    per: float  # seconds
    digest: Digest | None = None  # what is beyond the limit is told of together; None: not at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """So many messages in each window; windows begin at multiples of their length."""

    limit: int
    per: float  # seconds
    digest: Digest | None = None  # as of a throttle

    def begins(self, now: int) -> int:
        """When the window began that ``now`` lies in; both in microseconds since the epoch."""
        return now - now % self._length

    def ends(self, now: int) -> int:
        """When that window ends, microseconds since the epoch."""
        return self.begins(now) + self._length

    @property
    def _length(self) -> int:
        """Microseconds; whole ones, or a window might end before the next begins."""
        return max(1, round(self.per * 1e6))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """All that hold for one rule."""

    dedupe: Dedupe | None = None
    throttle: Throttle | None = None
    digest: Digest | None = None
    budgets: Mapping[str, Budget] = field(default_factory=dict)  # its own, then that of EVERYTHING

    @property
    def are_none(self) -> bool:
        """Whether what becomes of an event has nothing to do with those before it."""
        return not (self.dedupe or self.throttle or self.digest or self.budgets)

    @property
    def digests(self) -> Iterator[Digest]:
        """Every way in which its events may be told of together."""
        ways = self.digest, self.throttle and self.throttle.digest
        yield from filter(None, (*ways, *(budget.digest for budget in self.budgets.values())))

    @property
    def longest_wait(self) -> float:
        """Seconds that an event may have to wait for one of them."""
        return max((0.0, *(max(digest.wait, digest.interval) for digest in self.digests)))


NO_LIMITS = Limits()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetExhausted:
    """That there is nothing left of a budget."""

    name: str  # of the rule whose budget it is, or EVERYTHING
    budget: Budget
    until: int  # microseconds since the epoch
