"""What one policy would have told of events that came, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from msgspec import structs

from ..choices import ChoicesOf
from ..course import Simulator
from ..draft import Notification, Routing
from ..model import Event, Kind
from .likeness import ReplaySide

_WINDOW = 120_000_000  # microseconds within which the broker drops a delivery that it has stored already
_MAX_REMEMBERED = 100_000  # deliveries, however many come within that time
_MAX_WAITING = 10_000  # digests


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
