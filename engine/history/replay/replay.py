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

_WINDOW = 120_000_000  # microseconds within which the broker drops a delivery that it has stored already
_MAX_REMEMBERED = 100_000  # deliveries, however many come within that time
_MAX_WAITING = 10_000  # digests


class DeliveryChange(StrEnum):
    """What becomes of one delivery under the new policy."""

    SAME = "same"
    CHANGES = "changes"
    APPEARS = "appears"
    VANISHES = "vanishes"
    UNWRITABLE = "unwritable"  # the new policy makes it, and its words cannot be written


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One delivery that does not stay as it is. Secrets are masked."""

    verdict: DeliveryChange
    rule: str
    channel: str
    event: str  # KIND.KEY
    reqid: str
    received: int  # microseconds since the epoch
    why: str = ""
    fields: tuple[FieldChange, ...] = ()


_Orders = dict[str, Notification]  # by id of the delivery
_RuleChannel = tuple[str, str]  # rule and channel


class Replay:
    """Takes events one by one, of each kind in the order of their times; then it is finished.

    It keeps counts, and a few samples of each kind of difference.
    """

    def __init__(
        self, live: ReplaySide, new: ReplaySide, *, choices_of: ChoicesOf = no_preferences, samples: int = 3
    ) -> None:
        self.live, self.new = live, new
        self.events: Counter[str] = Counter()  # by kind
        self.tallies: dict[tuple[str, str], Counter[DeliveryChange]] = defaultdict(
            Counter
        )  # by rule and channel
        self.samples: dict[tuple[str, str, DeliveryChange], list[Sample]] = {}
        self.of_live = self.of_new = 0  # deliveries
        self._max_samples = samples
        self._by_live, self._by_new = PolicyReplay(live, choices_of), PolicyReplay(new, choices_of)
        self._alone_in_live, self._alone_in_new = PendingDigests(), PendingDigests()
        self._likeness = PolicyDiff(live, new)

    def add(self, event: Event) -> None:
        """Compare what both policies make of ``event``, whose payload is as it came."""
        self.events[event.kind] += 1
        self._compare_digests(event.kind, event.received)
        before = self._by_live.process(self._by_live.canonical(event))
        of_new = self._by_new.canonical(event)
        if self._likeness.drafts_alike(before.draft, of_new):
            self._by_new.record_known(before.notifications, event.received)
            for order in before.notifications.values():
                self._count(_group(order), DeliveryChange.SAME)
        else:
            self._compare(before, self._by_new.process(of_new))

    def finish(self, now: int) -> None:
        """After all events: compare the digests due by ``now``, microseconds since the epoch."""
        for kind in Kind:
            self._compare_digests(kind, now)
        for told in self._alone_in_live.drain():
            self._compare(told, _nothing(self.new, told))
        for told in self._alone_in_new.drain():
            self._compare(_nothing(self.live, told), told)

    def _compare_digests(self, kind: Kind, until: int) -> None:
        """Compare those that fall due, each with the other policy's that tells of the same events."""
        for told in self._by_live.digests(kind, until):
            if (its := self._alone_in_new.pop_match(told)) is not None:
                self._compare(told, its)
            else:
                for alone in self._alone_in_live.add(told):
                    self._compare(alone, _nothing(self.new, alone))
        for told in self._by_new.digests(kind, until):
            if (mine := self._alone_in_live.pop_match(told)) is not None:
                self._compare(mine, told)
            else:
                for alone in self._alone_in_new.add(told):
                    self._compare(_nothing(self.live, alone), alone)

    def _compare(self, before: ReplayedPlan, after: ReplayedPlan) -> None:
        mine, its = dict(before.notifications), dict(after.notifications)
        for a, b in _pairs(mine, its):
            self._record_common((before.draft, mine.pop(a)), (after.draft, its.pop(b)))
        for order in mine.values():
            self._record_removed(before.draft, order, after.draft)
        for order in its.values():
            self._record_added(after.draft, order, before.draft)

    @property
    def unwritable(self) -> int:
        return sum(tally[DeliveryChange.UNWRITABLE] for tally in self.tallies.values())

    def _record_common(
        self, before: tuple[Routing, Notification], after: tuple[Routing, Notification]
    ) -> None:
        """Counted where both have it, or one that differs in its addresses or its template's name."""
        group = _group(after[1])
        if self._likeness.orders_alike(before[1], after[1]):
            self._count(group, DeliveryChange.SAME)
            return
        old, new = _written(*before), _written(*after)
        if isinstance(new, Failure):
            if isinstance(old, Failure):
                self._count(group, DeliveryChange.SAME)
            else:
                self._count(group, DeliveryChange.UNWRITABLE)
                self._keep_sample(DeliveryChange.UNWRITABLE, after, old, None, new.detail)
        elif isinstance(old, Failure):
            self._count(group, DeliveryChange.APPEARS)
            self._keep_sample(
                DeliveryChange.APPEARS, after, None, new, f"its words cannot be written: {old.detail}"
            )
        elif differ(old, new):
            self._count(group, DeliveryChange.CHANGES)
            self._keep_sample(DeliveryChange.CHANGES, after, old, new)
        else:
            self._count(group, DeliveryChange.SAME)

    def _record_removed(self, drafted: Routing, order: Notification, without: Routing) -> None:
        self._count(_group(order), DeliveryChange.VANISHES)
        if self._needs_sample(DeliveryChange.VANISHES, order):
            old = _written(drafted, order)
            why = _why_not(order, without)
            self._keep_sample(
                DeliveryChange.VANISHES,
                (drafted, order),
                None if isinstance(old, Failure) else old,
                None,
                why,
            )

    def _record_added(self, drafted: Routing, order: Notification, without: Routing) -> None:
        new = _written(drafted, order)
        if isinstance(new, Failure):
            self._count(_group(order), DeliveryChange.UNWRITABLE, live=0)
            self._keep_sample(DeliveryChange.UNWRITABLE, (drafted, order), None, None, new.detail)
        else:
            self._count(_group(order), DeliveryChange.APPEARS)
            self._keep_sample(DeliveryChange.APPEARS, (drafted, order), None, new, _why_not(order, without))

    def _count(self, group: _RuleChannel, verdict: DeliveryChange, *, live: int = 1) -> None:
        self.tallies[group][verdict] += 1
        self.of_live += 0 if verdict is DeliveryChange.APPEARS else live
        self.of_new += verdict not in (DeliveryChange.VANISHES, DeliveryChange.UNWRITABLE)

    def _needs_sample(self, verdict: DeliveryChange, order: Notification) -> bool:
        return len(self.samples.get((*_group(order), verdict), ())) < self._max_samples

    def _keep_sample(
        self,
        verdict: DeliveryChange,
        whose: tuple[Routing, Notification],
        old: Delivery | None,
        new: Delivery | None,
        why: str = "",
    ) -> None:
        """Keep a sample where there are not enough of them yet."""
        drafted, order = whose
        if not self._needs_sample(verdict, order):
            return
        secrets = {*drafted.secrets, *(old.secrets if old else ()), *(new.secrets if new else ())}
        event, (rule, channel) = drafted.event, _group(order)
        sample = Sample(
            verdict=verdict, rule=rule, channel=channel, event=event.name, reqid=event.reqid,
            received=event.received, why=mask(why, longest_first(secrets)),
            fields=fields_between(old, new, secrets),
        )  # fmt: skip
        self.samples.setdefault((rule, channel, verdict), []).append(sample)


def _nothing(side: ReplaySide, told: ReplayedPlan) -> ReplayedPlan:
    """That a policy has made no digest of the events that the other tells of in one."""
    return ReplayedPlan(Routing(event=told.draft.event, rulebook=side.rulebook), {})


def _group(order: Notification) -> _RuleChannel:
    return order.match.rule.id, order.channel.name


def _pairs(before: _Orders, after: _Orders) -> list[tuple[str, str]]:
    """Ids of what is one delivery, or of two of one rule and channel: first those with equal addresses."""

    def with_address(order: Notification) -> object:
        return *_group(order), order.to

    pairs = {id_: id_ for id_ in before if id_ in after}
    for key in (with_address, _group):
        taken = set(pairs.values())
        waiting: dict[object, list[str]] = defaultdict(list)
        for id_, order in reversed(after.items()):
            if id_ not in taken:
                waiting[key(order)].append(id_)
        for id_, order in before.items():
            if id_ not in pairs and waiting[key(order)]:
                pairs[id_] = waiting[key(order)].pop()
    return list(pairs.items())


def _written(drafted: Routing, order: Notification) -> Delivery | Failure:
    written = render_plan(replace(drafted, notifications=(order,)))
    return written.deliveries[0] if written.deliveries else written.failures[0]


def _why_not(order: Notification, drafted: Routing) -> str:
    """Why a policy that drafted the same event does not ask for the order."""
    rule, channel = _group(order)
    for suppressed in drafted.suppressed:
        if (suppressed.rule, suppressed.channel) == (rule, channel):
            return f"{suppressed.reason}: {suppressed.detail}" if suppressed.detail else suppressed.reason
    if any((held.rule, held.channel) == (rule, channel) and held.digest for held in drafted.held):
        return "it waits for a digest"
    for other in drafted.notifications:
        if any(_group(step) == (rule, channel) for step in other.fallbacks):
            return f"it goes out only where {other.channel.name} fails"
    return _why_silent(order, drafted)


def _why_silent(order: Notification, drafted: Routing) -> str:
    """Why a policy has nothing to say of the order's rule."""
    rule = order.match.rule.id
    if any(match.rule.id == rule for match in drafted.matches):
        return "the rule matches, and does not tell this address over this channel"
    if all(each.id != rule for each in drafted.rulebook.rules):
        return "there is no such rule, or it is off"
    if order.merged is not None:
        return "it tells no digest of these events"
    last = drafted.matches[-1].rule if drafted.matches else None
    return (
        f"{last.id} says stop before it, or it does not match" if last and last.stop else "it does not match"
    )


@dataclass(frozen=True, slots=True)
class ReplayedPlan:
    """What a policy makes of one event, or in one digest."""

    draft: Routing
    notifications: Mapping[str, Notification]  # by id of the delivery; without what is repeated


class PolicyReplay:
    """One policy, on a clock for each kind: kinds are gone through one after the other."""

    def __init__(self, side: ReplaySide, choices_of: ChoicesOf) -> None:
        self.rulebook = side.rulebook
        self._courses = {kind: Simulator(side.rulebook, choices_of) for kind in Kind}
        self._recent = _Recent()

    def canonical(self, event: Event) -> Event:
        """``event`` with its payload as this policy's schemas spell it."""
        payload = self.rulebook.catalogue.canonical(event.name, event.payload)
        return event if payload is event.payload else structs.replace(event, payload=payload)

    def process(self, event: Event) -> ReplayedPlan:
        """What is told of ``event``, as ``seen``, after those that came before it."""
        return self._without_repeats(self._courses[event.kind].process(event), event.received)

    def digests(self, kind: Kind, until: int) -> Iterable[ReplayedPlan]:
        """Those that fall due by ``until``, microseconds since the epoch."""
        course = self._courses[kind]
        if course.next_due is None:
            return ()
        return (self._without_repeats(drafted, course.now) for drafted in course.digests(until))

    def record_known(self, ids: Iterable[str], at: int) -> None:
        """These deliveries are made at that time, as is known without taking their event."""
        for id_ in ids:
            self._recent.is_repeat(id_, at)

    def _without_repeats(self, drafted: Routing, at: int) -> ReplayedPlan:
        orders = {
            id_: order for order in drafted.notifications if not self._recent.is_repeat(id_ := order.id, at)
        }
        return ReplayedPlan(drafted, orders)


class _Recent:
    """The deliveries of the last minutes: one that comes again within them is not sent again."""

    def __init__(self) -> None:
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}
        self._since = 0

    def is_repeat(self, id_: str, at: int) -> bool:
        """Whether ``id_`` was there a moment ago; it is now."""
        if not 0 <= at - self._since < _WINDOW or len(self._young) >= _MAX_REMEMBERED:
            self._young, self._old, self._since = {}, self._young, at
        last = self._young.get(id_, self._old.get(id_))
        if last is not None and 0 <= at - last < _WINDOW:
            return True
        self._young[id_] = at
        return False


class PendingDigests:
    """Digests of one policy for which the other has not made one of the same events yet."""

    def __init__(self) -> None:
        self._waiting: dict[str, ReplayedPlan] = {}  # by the key of the digest; who waits longest is first

    def pop_match(self, told: ReplayedPlan) -> ReplayedPlan | None:
        """The one that tells of an event which the other policy's ``told`` tells of too; it waits no more."""
        waiting = self._waiting.get(_key(told))
        if waiting is None or _events(waiting).isdisjoint(_events(told)):
            return None
        return self._waiting.pop(_key(told))

    def add(self, told: ReplayedPlan) -> Iterator[ReplayedPlan]:
        """Have ``told`` wait; yields those for which there will be none, or no room."""
        if (before := self._waiting.pop(_key(told), None)) is not None:
            yield before
        self._waiting[_key(told)] = told
        if len(self._waiting) > _MAX_WAITING:
            yield self._waiting.pop(next(iter(self._waiting)))

    def drain(self) -> Iterator[ReplayedPlan]:
        """All that wait; none does any more."""
        while self._waiting:
            yield self._waiting.pop(next(iter(self._waiting)))


def _key(told: ReplayedPlan) -> str:
    return told.draft.digest.key if told.draft.digest else ""


def _events(told: ReplayedPlan) -> set[tuple[str, str]]:
    digested = told.draft.digest
    return {(event.key, event.reqid) for event in digested.events} if digested else set()
