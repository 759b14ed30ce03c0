"""Replay archived events through two policies, and report the differences.

Deliveries are paired by their ids. Templates are rendered only where an input differs between the two
policies, so a long archive is replayed at the speed of matching.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from msgspec import structs

from ...model.masking import longest_first, mask
from ...model.messages import Delivery, Event, Failure, Kind
from ...planning.draft import Notification, Routing
from ...planning.planner import render_plan
from ...planning.recipients import ChoicesOf, no_preferences
from ...planning.simulation import Simulator
from .diff import FieldChange, PolicyDiff, ReplaySide, differ, fields_between

_WINDOW = 120_000_000  # microseconds in which the broker drops a second copy of a delivery
_MAX_RECENT = 100_000  # deliveries in one half of the memory of copies
_MAX_PENDING = 10_000  # digests of one policy that wait for those of the other


class DeliveryChange(StrEnum):
    """The change of one delivery from the live policy to the new one."""

    SAME = "same"
    CHANGES = "changes"
    APPEARS = "appears"
    VANISHES = "vanishes"
    UNWRITABLE = "unwritable"  # the new policy asks for it, but cannot render it


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One delivery that changes. Secrets are masked."""

    change: DeliveryChange
    rule: str
    channel: str
    event: str  # KIND.KEY
    reqid: str
    received: int  # microseconds since the epoch
    why: str = ""
    fields: tuple[FieldChange, ...] = ()


_Notifications = dict[str, Notification]  # by id of the delivery
_RuleChannel = tuple[str, str]  # rule and channel
_Routed = tuple[Routing, Notification]  # a notification and where it comes from


class Replay:
    """The comparison of two policies over past events, as counts and a few samples.

    Add the events of each kind in the order of their times, then finish.
    """

    def __init__(
        self,
        live: ReplaySide,
        new: ReplaySide,
        *,
        choices_of: ChoicesOf = no_preferences,
        samples: int = 3,
        max_pending: int = _MAX_PENDING,
    ) -> None:
        self.live, self.new = live, new
        self.events: Counter[str] = Counter()  # by kind
        self.tallies: dict[tuple[str, str], Counter[DeliveryChange]] = defaultdict(
            Counter
        )  # by rule and channel
        self.samples: dict[tuple[str, str, DeliveryChange], list[Sample]] = {}
        self.live_deliveries = self.new_deliveries = 0
        self._max_samples = samples
        self._by_live, self._by_new = PolicyReplay(live, choices_of), PolicyReplay(new, choices_of)
        self._unpaired_live, self._unpaired_new = PendingDigests(max_pending), PendingDigests(max_pending)
        self._diff = PolicyDiff(live, new)

    def add(self, event: Event) -> None:
        """Compare the deliveries of ``event`` under both policies. Its payload is as it was sent."""
        self.events[event.kind] += 1
        self._compare_digests(event.kind, event.received)
        before = self._by_live.process(self._by_live.canonical(event))
        canonical = self._by_new.canonical(event)
        if self._diff.routes_equally(before.routing, canonical):
            self._by_new.record_known(before.notifications, event.received)
            for notification in before.notifications.values():
                self._record(DeliveryChange.SAME, (before.routing, notification))
        else:
            self._compare(before, self._by_new.process(canonical))

    def finish(self, now: int) -> None:
        """Compare the digests that are due by ``now``, microseconds since the epoch, after all events."""
        for kind in Kind:
            self._compare_digests(kind, now)
        for digest in self._unpaired_live.drain():
            self._compare(digest, _no_digest(self.new, digest))
        for digest in self._unpaired_new.drain():
            self._compare(_no_digest(self.live, digest), digest)

    def _compare_digests(self, kind: Kind, until: int) -> None:
        """Compare the digests due by ``until`` with those of the other policy for the same events."""
        for digest in self._by_live.digests(kind, until):
            if (its := self._unpaired_new.pop_match(digest)) is not None:
                self._compare(digest, its)
            else:
                for unpaired in self._unpaired_live.add(digest):
                    self._compare(unpaired, _no_digest(self.new, unpaired))
        for digest in self._by_new.digests(kind, until):
            if (mine := self._unpaired_live.pop_match(digest)) is not None:
                self._compare(mine, digest)
            else:
                for unpaired in self._unpaired_new.add(digest):
                    self._compare(_no_digest(self.live, unpaired), unpaired)

    def _compare(self, before: ReplayedPlan, after: ReplayedPlan) -> None:
        mine, its = dict(before.notifications), dict(after.notifications)
        for a, b in _pairs(mine, its):
            self._record_common((before.routing, mine.pop(a)), (after.routing, its.pop(b)))
        for notification in mine.values():
            self._record_removed((before.routing, notification), after.routing)
        for notification in its.values():
            self._record_added((after.routing, notification), before.routing)

    @property
    def unwritable(self) -> int:
        return sum(tally[DeliveryChange.UNWRITABLE] for tally in self.tallies.values())

    def _record_common(self, before: _Routed, after: _Routed) -> None:
        """Record a delivery that both policies make, perhaps with other addresses."""
        if self._diff.delivers_equally(before[1], after[1]):
            self._record(DeliveryChange.SAME, after)
            return
        match _rendered(*before), _rendered(*after):
            case Failure(), Failure():
                self._record(DeliveryChange.SAME, after)
            case Delivery() as old, Failure(detail=detail):
                self._record(DeliveryChange.UNWRITABLE, after, old, None, detail)
            case Failure(detail=detail), Delivery() as new:
                self._record(DeliveryChange.APPEARS, after, None, new, f"it cannot be rendered: {detail}")
            case Delivery() as old, Delivery() as new:
                change = DeliveryChange.CHANGES if differ(old, new) else DeliveryChange.SAME
                self._record(change, after, old, new)

    def _record_removed(self, before: _Routed, other: Routing) -> None:
        old, why = None, ""
        if self._needs_sample(DeliveryChange.VANISHES, _group(before[1])):
            old, why = _rendered(*before), _why_not(before[1], other)
        old = None if isinstance(old, Failure) else old
        self._record(DeliveryChange.VANISHES, before, old, None, why)

    def _record_added(self, after: _Routed, other: Routing) -> None:
        new = _rendered(*after)
        if isinstance(new, Failure):
            self._record(DeliveryChange.UNWRITABLE, after, None, None, new.detail, live=0)
        else:
            self._record(DeliveryChange.APPEARS, after, None, new, _why_not(after[1], other))

    def _record(
        self,
        change: DeliveryChange,
        routed: _Routed,
        old: Delivery | None = None,
        new: Delivery | None = None,
        why: str = "",
        *,
        live: int = 1,
    ) -> None:
        """Count a delivery, and keep a sample of a change if there are too few so far."""
        event, group = routed[0].event, _group(routed[1])
        self.tallies[group][change] += 1
        self.live_deliveries += 0 if change is DeliveryChange.APPEARS else live
        self.new_deliveries += change not in (DeliveryChange.VANISHES, DeliveryChange.UNWRITABLE)
        if change is DeliveryChange.SAME or not self._needs_sample(change, group):
            return
        secrets = {*routed[0].secrets, *(old.secrets if old else ()), *(new.secrets if new else ())}
        sample = Sample(
            change=change, rule=group[0], channel=group[1], event=event.name, reqid=event.reqid,
            received=event.received, why=mask(why, longest_first(secrets)),
            fields=fields_between(old, new, secrets),
        )  # fmt: skip
        self.samples.setdefault((*group, change), []).append(sample)

    def _needs_sample(self, change: DeliveryChange, group: _RuleChannel) -> bool:
        return len(self.samples.get((*group, change), ())) < self._max_samples


def _no_digest(side: ReplaySide, plan: ReplayedPlan) -> ReplayedPlan:
    """Return the plan of a policy without a digest for the events of ``plan``."""
    return ReplayedPlan(Routing(event=plan.routing.event, rulebook=side.rulebook), {})


def _group(notification: Notification) -> _RuleChannel:
    return notification.match.rule.id, notification.channel.name


def _pairs(before: _Notifications, after: _Notifications) -> list[tuple[str, str]]:
    """Pair deliveries by id, then by rule, channel and addresses, then by rule and channel.

    Returns pairs of ids.
    """

    def with_address(notification: Notification) -> object:
        return *_group(notification), notification.to

    pairs = {id_: id_ for id_ in before if id_ in after}
    for key in (with_address, _group):
        taken = set(pairs.values())
        waiting: dict[object, list[str]] = defaultdict(list)
        for id_, notification in reversed(after.items()):
            if id_ not in taken:
                waiting[key(notification)].append(id_)
        for id_, notification in before.items():
            if id_ not in pairs and waiting[key(notification)]:
                pairs[id_] = waiting[key(notification)].pop()
    return list(pairs.items())


def _rendered(routing: Routing, notification: Notification) -> Delivery | Failure:
    plan = render_plan(replace(routing, notifications=(notification,)))
    return plan.deliveries[0] if plan.deliveries else plan.failures[0]


def _why_not(notification: Notification, routing: Routing) -> str:
    """Explain why a policy does not ask for ``notification`` when it routes the same event."""
    rule, channel = _group(notification)
    for suppressed in routing.suppressed:
        if (suppressed.rule, suppressed.channel) == (rule, channel):
            return f"{suppressed.reason}: {suppressed.detail}" if suppressed.detail else suppressed.reason
    if any((held.rule, held.channel) == (rule, channel) and held.digest for held in routing.held):
        return "it waits for a digest"
    for other in routing.notifications:
        if any(_group(step) == (rule, channel) for step in other.fallbacks):
            return f"it is a fallback for {other.channel.name}"
    return _why_no_notification(notification, routing)


def _why_no_notification(notification: Notification, routing: Routing) -> str:
    rule = notification.match.rule.id
    if any(match.rule.id == rule for match in routing.matches):
        return "the rule matches, but does not notify this address over this channel"
    if all(each.id != rule for each in routing.rulebook.rules):
        return "the rule does not exist, or it is disabled"
    if notification.merged is not None:
        return "it sends no digest of these events"
    last = routing.matches[-1].rule if routing.matches else None
    return (
        f"rule {last.id} stops before it, or it does not match" if last and last.stop else "it does not match"
    )


@dataclass(frozen=True, slots=True)
class ReplayedPlan:
    """The routing of one event or one digest by one policy."""

    routing: Routing
    notifications: Mapping[str, Notification]  # by id of the delivery; without repeats


class PolicyReplay:
    """One policy on virtual clocks, one for each kind: kinds are replayed one after the other."""

    def __init__(self, side: ReplaySide, choices_of: ChoicesOf) -> None:
        self.rulebook = side.rulebook
        self._simulators = {kind: Simulator(side.rulebook, choices_of) for kind in Kind}
        self._recent = _Recent()

    def canonical(self, event: Event) -> Event:
        """Return ``event`` with the field names of this policy's schemas."""
        payload = self.rulebook.catalogue.canonical(event.name, event.payload)
        return event if payload is event.payload else structs.replace(event, payload=payload)

    def process(self, event: Event) -> ReplayedPlan:
        """Route a canonical event after those before it."""
        return self._without_repeats(self._simulators[event.kind].process(event), event.received)

    def digests(self, kind: Kind, until: int) -> Iterable[ReplayedPlan]:
        """Yield the digests that are due by ``until``, microseconds since the epoch."""
        simulator = self._simulators[kind]
        if simulator.next_due is None:
            return ()
        return (self._without_repeats(routing, simulator.now) for routing in simulator.digests(until))

    def record_known(self, ids: Iterable[str], at: int) -> None:
        """Record deliveries that are made ``at`` this time, without routing their event."""
        for id_ in ids:
            self._recent.is_repeat(id_, at)

    def _without_repeats(self, routing: Routing, at: int) -> ReplayedPlan:
        notifications = {
            each.id: each for each in routing.notifications if not self._recent.is_repeat(each.id, at)
        }
        return ReplayedPlan(routing, notifications)


class _Recent:
    """The deliveries of the last minutes: the broker drops a second copy of them."""

    def __init__(self) -> None:
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}
        self._since = 0

    def is_repeat(self, id_: str, at: int) -> bool:
        """Record a delivery, and return whether the broker would drop it as a copy."""
        if not 0 <= at - self._since < _WINDOW or len(self._young) >= _MAX_RECENT:
            self._young, self._old, self._since = {}, self._young, at
        last = self._young.get(id_, self._old.get(id_))
        if last is not None and 0 <= at - last < _WINDOW:
            return True
        self._young[id_] = at
        return False


class PendingDigests:
    """Digests of one policy that wait for the digest of the same events from the other policy."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pending: dict[str, ReplayedPlan] = {}  # by the key of the digest, the oldest first

    def pop_match(self, plan: ReplayedPlan) -> ReplayedPlan | None:
        """Remove and return the digest that has an event in common with ``plan``."""
        waiting = self._pending.get(_key(plan))
        if waiting is None or _events(waiting).isdisjoint(_events(plan)):
            return None
        return self._pending.pop(_key(plan))

    def add(self, plan: ReplayedPlan) -> Iterator[ReplayedPlan]:
        """Add a digest. Yields one that can no longer be matched, or the oldest if there are too many."""
        if (before := self._pending.pop(_key(plan), None)) is not None:
            yield before
        self._pending[_key(plan)] = plan
        if len(self._pending) > self._limit:
            yield self._pending.pop(next(iter(self._pending)))

    def drain(self) -> Iterator[ReplayedPlan]:
        """Remove and yield all digests."""
        while self._pending:
            yield self._pending.pop(next(iter(self._pending)))


def _key(plan: ReplayedPlan) -> str:
    return plan.routing.digest.key if plan.routing.digest else ""


def _events(plan: ReplayedPlan) -> set[tuple[str, str]]:
    digested = plan.routing.digest
    return {(event.key, event.reqid) for event in digested.events} if digested else set()
