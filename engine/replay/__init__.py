"""What a change of the policy would do to events that came: both plans of each, side by side.

Deliveries are told apart by their ids. Words are written only where something that they are made from
differs between the two policies, so that a long past is gone through at the speed of matching.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from enum import StrEnum

from ..catalogue import longest_first, mask
from ..choices import ChoicesOf, nobody
from ..draft import Draft, Order
from ..model import Delivery, Event, Failure, Kind
from ..plan import write
from .likeness import Likeness, Side
from .past import Past, Told, Unpaired
from .readers import Field, differ, fields_between


class Verdict(StrEnum):
    """What becomes of one delivery under the new policy."""

    SAME = "same"
    CHANGES = "changes"
    APPEARS = "appears"
    VANISHES = "vanishes"
    UNWRITABLE = "unwritable"  # the new policy makes it, and its words cannot be written


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One delivery that does not stay as it is. Secrets are masked."""

    verdict: Verdict
    rule: str
    channel: str
    event: str  # KIND.KEY
    reqid: str
    received: int  # microseconds since the epoch
    why: str = ""
    fields: tuple[Field, ...] = ()


_Orders = dict[str, Order]  # by id of the delivery
_Group = tuple[str, str]  # rule and channel


class Replay:
    """Takes events one by one, of each kind in the order of their times; then it is finished.

    It keeps counts, and a few samples of each kind of difference.
    """

    def __init__(self, live: Side, new: Side, *, choices_of: ChoicesOf = nobody, samples: int = 3) -> None:
        self.live, self.new = live, new
        self.events: Counter[str] = Counter()  # by kind
        self.tallies: dict[tuple[str, str], Counter[Verdict]] = defaultdict(Counter)  # by rule and channel
        self.samples: dict[tuple[str, str, Verdict], list[Sample]] = {}
        self.of_live = self.of_new = 0  # deliveries
        self._most = samples
        self._by_live, self._by_new = Past(live, choices_of), Past(new, choices_of)
        self._alone_in_live, self._alone_in_new = Unpaired(), Unpaired()
        self._likeness = Likeness(live, new)

    def add(self, event: Event) -> None:
        """Compare what both policies make of ``event``, whose payload is as it came."""
        self.events[event.kind] += 1
        self._tell_digests(event.kind, event.received)
        before = self._by_live.take(self._by_live.seen(event))
        of_new = self._by_new.seen(event)
        if self._likeness.of_drafts(before.draft, of_new):
            self._by_new.note(before.orders, event.received)
            for order in before.orders.values():
                self._count(_group(order), Verdict.SAME)
        else:
            self._compare(before, self._by_new.take(of_new))

    def finish(self, now: int) -> None:
        """After all events: compare the digests due by ``now``, microseconds since the epoch."""
        for kind in Kind:
            self._tell_digests(kind, now)
        for told in self._alone_in_live.rest():
            self._compare(told, _nothing(self.new, told))
        for told in self._alone_in_new.rest():
            self._compare(_nothing(self.live, told), told)

    def _tell_digests(self, kind: Kind, until: int) -> None:
        """Compare those that fall due, each with the other policy's that tells of the same events."""
        for told in self._by_live.digests(kind, until):
            if (its := self._alone_in_new.take(told)) is not None:
                self._compare(told, its)
            else:
                for alone in self._alone_in_live.add(told):
                    self._compare(alone, _nothing(self.new, alone))
        for told in self._by_new.digests(kind, until):
            if (mine := self._alone_in_live.take(told)) is not None:
                self._compare(mine, told)
            else:
                for alone in self._alone_in_new.add(told):
                    self._compare(_nothing(self.live, alone), alone)

    def _compare(self, before: Told, after: Told) -> None:
        mine, its = dict(before.orders), dict(after.orders)
        for a, b in _pairs(mine, its):
            self._both((before.draft, mine.pop(a)), (after.draft, its.pop(b)))
        for order in mine.values():
            self._vanishes(before.draft, order, after.draft)
        for order in its.values():
            self._appears(after.draft, order, before.draft)

    @property
    def unwritable(self) -> int:
        return sum(tally[Verdict.UNWRITABLE] for tally in self.tallies.values())

    def _both(self, before: tuple[Draft, Order], after: tuple[Draft, Order]) -> None:
        """Counted where both have it, or one that differs in its addresses or its template's name."""
        group = _group(after[1])
        if self._likeness.of_orders(before[1], after[1]):
            self._count(group, Verdict.SAME)
            return
        old, new = _written(*before), _written(*after)
        if isinstance(new, Failure):
            if isinstance(old, Failure):
                self._count(group, Verdict.SAME)
            else:
                self._count(group, Verdict.UNWRITABLE)
                self._keep(Verdict.UNWRITABLE, after, old, None, new.detail)
        elif isinstance(old, Failure):
            self._count(group, Verdict.APPEARS)
            self._keep(Verdict.APPEARS, after, None, new, f"its words cannot be written: {old.detail}")
        elif differ(old, new):
            self._count(group, Verdict.CHANGES)
            self._keep(Verdict.CHANGES, after, old, new)
        else:
            self._count(group, Verdict.SAME)

    def _vanishes(self, drafted: Draft, order: Order, without: Draft) -> None:
        self._count(_group(order), Verdict.VANISHES)
        if self._wants(Verdict.VANISHES, order):
            old = _written(drafted, order)
            why = _why_not(order, without)
            self._keep(
                Verdict.VANISHES, (drafted, order), None if isinstance(old, Failure) else old, None, why
            )

    def _appears(self, drafted: Draft, order: Order, without: Draft) -> None:
        new = _written(drafted, order)
        if isinstance(new, Failure):
            self._count(_group(order), Verdict.UNWRITABLE, live=0)
            self._keep(Verdict.UNWRITABLE, (drafted, order), None, None, new.detail)
        else:
            self._count(_group(order), Verdict.APPEARS)
            self._keep(Verdict.APPEARS, (drafted, order), None, new, _why_not(order, without))

    def _count(self, group: _Group, verdict: Verdict, *, live: int = 1) -> None:
        self.tallies[group][verdict] += 1
        self.of_live += 0 if verdict is Verdict.APPEARS else live
        self.of_new += verdict not in (Verdict.VANISHES, Verdict.UNWRITABLE)

    def _wants(self, verdict: Verdict, order: Order) -> bool:
        return len(self.samples.get((*_group(order), verdict), ())) < self._most

    def _keep(
        self,
        verdict: Verdict,
        whose: tuple[Draft, Order],
        old: Delivery | None,
        new: Delivery | None,
        why: str = "",
    ) -> None:
        """Keep a sample where there are not enough of them yet."""
        drafted, order = whose
        if not self._wants(verdict, order):
            return
        secrets = {*drafted.secrets, *(old.secrets if old else ()), *(new.secrets if new else ())}
        event, (rule, channel) = drafted.event, _group(order)
        sample = Sample(
            verdict=verdict, rule=rule, channel=channel, event=event.name, reqid=event.reqid,
            received=event.received, why=mask(why, longest_first(secrets)),
            fields=fields_between(old, new, secrets),
        )  # fmt: skip
        self.samples.setdefault((rule, channel, verdict), []).append(sample)


def _nothing(side: Side, told: Told) -> Told:
    """That a policy has made no digest of the events that the other tells of in one."""
    return Told(Draft(event=told.draft.event, rulebook=side.rulebook), {})


def _group(order: Order) -> _Group:
    return order.match.rule.id, order.channel.name


def _pairs(before: _Orders, after: _Orders) -> list[tuple[str, str]]:
    """Ids of what is one delivery, or of two of one rule and channel: first those with equal addresses."""

    def with_address(order: Order) -> object:
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


def _written(drafted: Draft, order: Order) -> Delivery | Failure:
    written = write(replace(drafted, orders=(order,)))
    return written.deliveries[0] if written.deliveries else written.failures[0]


def _why_not(order: Order, drafted: Draft) -> str:
    """Why a policy that drafted the same event does not ask for the order."""
    rule, channel = _group(order)
    for suppressed in drafted.suppressed:
        if (suppressed.rule, suppressed.channel) == (rule, channel):
            return f"{suppressed.reason}: {suppressed.detail}" if suppressed.detail else suppressed.reason
    if any((held.rule, held.channel) == (rule, channel) and held.digest for held in drafted.held):
        return "it waits for a digest"
    for other in drafted.orders:
        if any(_group(step) == (rule, channel) for step in other.instead):
            return f"it goes out only where {other.channel.name} fails"
    return _why_silent(order, drafted)


def _why_silent(order: Order, drafted: Draft) -> str:
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
