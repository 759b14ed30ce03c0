"""What a change of the policy would do to events that came: both plans of each, side by side.

Deliveries are told apart by their ids. Words are written only where something that they are made from
differs between the two policies, so that a long past is gone through at the speed of matching.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from enum import StrEnum

from msgspec import structs

from .catalogue import mask
from .draft import Draft, Order, draft
from .gates import pass_gates
from .likeness import Likeness, Side
from .model import Delivery, Event, Failure
from .plan import write
from .readers import Field, differ, fields_between, longest_first
from .remembered import Remembered

_WINDOW = 120_000_000  # microseconds within which the broker drops a delivery that it has stored already
_MOST_REMEMBERED = 100_000  # deliveries, however many come within that time


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
    """Takes events one by one and keeps counts, and a few samples of each kind of difference."""

    def __init__(self, live: Side, new: Side, *, samples: int = 3) -> None:
        self.live, self.new = live, new
        self.events: Counter[str] = Counter()  # by kind
        self.tallies: dict[tuple[str, str], Counter[Verdict]] = defaultdict(Counter)  # by rule and channel
        self.samples: dict[tuple[str, str, Verdict], list[Sample]] = {}
        self.of_live = self.of_new = 0  # deliveries
        self._most = samples
        self._seen_live, self._seen_new = _Recent(), _Recent()
        self._of_live, self._of_new = Remembered(), Remembered()
        self._likeness = Likeness(live, new)

    def add(self, event: Event) -> None:
        """Compare what both policies make of ``event``, whose payload is as it came."""
        self.events[event.kind] += 1
        before = _drafted(self.live, _seen_by(self.live, event), self._of_live)
        mine = _fresh(before, self._seen_live)
        of_new = _seen_by(self.new, event)
        if self._likeness.of_drafts(before, of_new):
            for id_, order in mine.items():
                self._seen_new.repeats(id_, event.received)
                self._count(_group(order), Verdict.SAME)
            return
        after = _drafted(self.new, of_new, self._of_new)
        its = _fresh(after, self._seen_new)
        for a, b in _pairs(mine, its):
            self._both((before, mine.pop(a)), (after, its.pop(b)))
        for order in mine.values():
            self._vanishes(before, order, after)
        for order in its.values():
            self._appears(after, order, before)

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


class _Recent:
    """The deliveries of the last minutes: one that comes again within them is not sent again."""

    def __init__(self) -> None:
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}
        self._since = 0

    def repeats(self, id_: str, at: int) -> bool:
        """Whether ``id_`` was there a moment ago; it is now."""
        if not 0 <= at - self._since < _WINDOW or len(self._young) >= _MOST_REMEMBERED:
            self._young, self._old, self._since = {}, self._young, at
        last = self._young.get(id_, self._old.get(id_))
        if last is not None and 0 <= at - last < _WINDOW:
            return True
        self._young[id_] = at
        return False


def _seen_by(side: Side, event: Event) -> Event:
    """``event`` with its payload as that policy's schemas spell it."""
    payload = side.rulebook.catalogue.canonical(event.name, event.payload)
    return event if payload is event.payload else structs.replace(event, payload=payload)


def _drafted(side: Side, event: Event, remembered: Remembered) -> Draft:
    """What the policy would have asked for at the time of the event, after those that came before it."""
    return remembered.carry_out(pass_gates(draft(side.rulebook, event), event.received), event.received)


def _fresh(drafted: Draft, seen: _Recent) -> _Orders:
    """The orders without those that are repeated."""
    at = drafted.event.received
    return {id_: order for order in drafted.orders if not seen.repeats(id_ := order.id, at)}


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
    if any(match.rule.id == rule for match in drafted.matches):
        return "the rule matches, and does not tell this address over this channel"
    if all(each.id != rule for each in drafted.rulebook.rules):
        return "there is no such rule, or it is off"
    last = drafted.matches[-1].rule if drafted.matches else None
    return (
        f"{last.id} says stop before it, or it does not match" if last and last.stop else "it does not match"
    )
