"""The compiled policy, immutable and named by its revision: rules, channels, limits, retry policies.

Entry: `Rulebook.match` returns the rules that match an event.
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

GLOBAL_BUDGET = "*"  # the name of the budget of the whole policy
DEFAULT_MAX_EVENTS = 50  # shown in full in a digest
PREFERRED = "preferred"  # in ``notify``: the channels that the recipient chose among ``allow``


class Mode(StrEnum):
    """The values of ``enabled`` in a rule."""

    LIVE = "true"
    OFF = "false"
    SHADOW = "shadow"  # evaluated and recorded, never sent


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential back-off with jitter, limited by count and by age."""

    attempts: int = 8  # in total, the first included
    first: float = 5.0  # seconds before the second attempt
    max: float = 1800.0  # seconds of one wait
    deadline: float = 86400.0  # seconds after the event; no attempt begins later

    def wait(self, attempt: int, *, chance: float, retry_after: float | None = None) -> float:
        """Return the seconds to wait after ``attempt`` (from 1) failed.

        ``chance``, uniform in [0, 1), spreads the wait over its upper half, so that deliveries that failed
        together are not retried together. ``retry_after`` is the minimum that the other side asks for; it may
        exceed ``max``.
        """
        ceiling = min(self.max, self.first * 2.0 ** min(attempt - 1, 63))
        return max(ceiling * (0.5 + 0.5 * chance), retry_after or 0.0)

    def exhausted(self, attempt: int, *, age: float) -> bool:
        """Return whether no retry may follow ``attempt`` (from 1), ``age`` seconds after the event."""
        return attempt >= self.attempts or age >= self.deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSpec:
    """A channel as ``channels`` declares it."""

    name: str
    type: str  # a key of the channel registry
    address: str | None  # the kind of address that it needs: email, phone, ...; None: none
    many: bool = False  # one message may have several addresses
    renders_text: bool = True  # it sends a rendered template; otherwise the event as data
    options: Mapping[str, Any] = field(repr=False)  # the settings of its type, with resolved references
    timeout: float = 20.0  # seconds for one step of a send
    concurrency: int = 8  # sends at the same time, in one process
    rate: float | None = None  # sends a second, over all processes; None: no limit
    repeats_unknown: bool = True  # retry a message that may have been sent; else it is a dead letter
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """The recipients that ``to`` names: an entry under ``people``, or fields of the payload."""

    person: str = ""
    fields: Mapping[str, FieldPath] = field(default_factory=dict)  # user, locale or kind of address -> path


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The times at which a message may be sent."""

    schedule: Schedule = ALWAYS
    defers: bool = True  # a muted message is sent later; else it is suppressed


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """One entry of ``notify``. The rule is the default for fields that are not set."""

    channel: str
    when: Block | None = None
    template: str | None = None
    to: Audience | None = None
    vars: Mapping[str, Any] = field(default_factory=dict)
    timing: Timing = field(default_factory=Timing)  # includes that of the rule
    among: tuple[str, ...] = ()  # channels that the recipient can choose from; () without a choice


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstOf:
    """An entry of ``notify`` with fallbacks: the next channel is used if the one before definitely fails.

    Each step includes the common fields, except ``when``.
    """

    steps: tuple[Notify, ...]  # two or more, in order
    when: Block | None = None
    to: Audience | None = None
    within: float = 0.0  # seconds for each step but the last; 0.0: until its channel gives a result

    @property
    def channel(self) -> str:
        """The channel of the first step."""
        return self.steps[0].channel


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferredChannel:
    """An entry of ``notify`` whose channel the recipient chooses."""

    steps: tuple[Notify, ...]  # one for each allowed channel; the first is the default
    when: Block | None = None
    to: Audience | None = None

    @property
    def channel(self) -> str:
        """The name that stands for all its channels."""
        return PREFERRED


NotifyEntry: TypeAlias = Notify | FirstOf | PreferredChannel


@dataclass(frozen=True, slots=True, kw_only=True)
class Dedupe:
    """One event for each key in each window."""

    key: tuple[FieldPath, ...]  # events with equal values at these paths have the same key
    window: float  # seconds from the event that passes


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """One message for all events of a key."""

    key: tuple[FieldPath, ...]
    wait: float  # seconds from the first event
    interval: float = 0.0  # minimum seconds between two digests
    max_events: int = DEFAULT_MAX_EVENTS  # in full; the others are counted
    template: str = ""  # "": that of the entry
    flushes: bool = True  # when the rule is removed, buffered events are sent; else they are dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """A maximum number of events for each key in a period."""

    key: tuple[FieldPath, ...]
    limit: int
    per: float  # seconds
    digest: Digest | None = None  # for events over the limit; None: they are suppressed


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A maximum number of messages in each window; windows begin at multiples of their length."""

    limit: int
    per: float  # seconds
    digest: Digest | None = None  # as of a throttle

    def begins(self, now: int) -> int:
        """Return the start of the window of ``now``; both in microseconds since the epoch."""
        return now - now % self._length

    def ends(self, now: int) -> int:
        """Return the end of the window of ``now``, microseconds since the epoch."""
        return self.begins(now) + self._length

    @property
    def _length(self) -> int:
        """Microseconds, as an integer: with fractions a window could end before the next begins."""
        return max(1, round(self.per * 1e6))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one rule."""

    dedupe: Dedupe | None = None
    throttle: Throttle | None = None
    digest: Digest | None = None
    budgets: Mapping[str, Budget] = field(default_factory=dict)  # its own, then ``GLOBAL_BUDGET``

    @property
    def are_none(self) -> bool:
        """True if earlier events have no influence on an event."""
        return not (self.dedupe or self.throttle or self.digest or self.budgets)

    @property
    def digests(self) -> Iterator[Digest]:
        """Every digest that may hold its events."""
        digests = self.digest, self.throttle and self.throttle.digest
        yield from filter(None, (*digests, *(budget.digest for budget in self.budgets.values())))

    @property
    def longest_wait(self) -> float:
        """Seconds that an event may wait for a digest."""
        return max((0.0, *(max(digest.wait, digest.interval) for digest in self.digests)))


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule: for these events, under these conditions, notify these recipients."""

    id: str
    description: str = ""
    mode: Mode = Mode.LIVE
    events: tuple[Pattern, ...]
    when: Block
    priority: int = 0  # lower first, then by place
    stop: bool = False  # no rule after this one
    severity: Severity = Severity.NONE
    to: Audience = field(default_factory=Audience)
    notify: tuple[NotifyEntry, ...]
    template: str
    vars: Mapping[str, Any] = field(default_factory=dict)
    category: str = ""  # recipients set preferences per category
    critical: bool = False  # recipients cannot switch off the last channel
    limits: Limits = NO_LIMITS
    place: Place

    def templates_of(self, step: Notify) -> Iterator[str]:
        """Yield every template that may render a message of this step; a digest may have its own."""
        if not (self.limits.digest and self.limits.digest.template):
            yield step.template or self.template
        yield from (digest.template for digest in self.limits.digests if digest.template)

    @property
    def steps(self) -> Iterator[Notify]:
        """The entries of ``notify``; an entry with several steps is replaced by them."""
        for entry in self.notify:
            yield from (entry,) if isinstance(entry, Notify) else entry.steps


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSpec:
    """An action as ``actions`` declares it."""

    key: str  # follows ``action.`` in the subject
    handler: str  # a key of the handler registry
    timeout: float = 60.0  # seconds for the handler; the deadline of the request may end it sooner
    concurrency: int = 64  # requests at the same time, in one process
    queue: int = 10_000  # waiting requests; more are refused
    idempotent: bool = False  # it may run twice for one request
    channels: tuple[str, ...] = ()  # to notify over, in order of preference
    to: Mapping[str, FieldPath] = field(default_factory=dict)  # user, locale or kind of address -> path
    template: str = ""
    vars: Mapping[str, Any] = field(default_factory=dict)
    sensitive: tuple[FieldPath, ...] = ()  # fields of the payload that are masked when shown
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the settings of the handler
    place: Place


class Match(Struct, frozen=True, kw_only=True):
    """A rule that an event satisfies."""

    event: Event
    rule: Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """The defaults for events and rules that set no value."""

    locale: str = "en"
    zone: ZoneInfo = UTC  # of time intervals, and of recipients without a known one
    site: Mapping[str, Any] = field(default_factory=dict)  # for templates: name, links, ...
    budget: Budget | None = None  # of all messages of the policy; None: no limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Rulebook:
    """A compiled policy. ``rules`` are in order of evaluation, without disabled ones."""

    revision: str  # hash of all its files
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
        """Return every rule that ``event`` satisfies, in order, up to the first with ``stop``."""
        matches = []
        for rule in self.index.lookup(event.name, event.payload):
            matches.append(Match(event=event, rule=rule))
            if rule.stop and rule.mode is not Mode.SHADOW:
                break
        return tuple(matches)


def in_order(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Sort rules in order of evaluation: by priority, then file path, then position."""
    return tuple(sorted(rules, key=lambda rule: (rule.priority, rule.place)))


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetExhausted:
    """A budget that is exhausted until ``until``."""

    name: str  # of the rule that has the budget, or ``GLOBAL_BUDGET``
    budget: Budget
    until: int  # microseconds since the epoch
