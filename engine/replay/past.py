"""What one policy would have told of events that came, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from msgspec import structs

from ..choices import ChoicesOf
from ..course import Course
from ..draft import Draft, Order
from ..model import Event, Kind
from .likeness import Side

_WINDOW = 120_000_000  # microseconds within which the broker drops a delivery that it has stored already
_MOST_REMEMBERED = 100_000  # deliveries, however many come within that time
_MOST_WAITING = 10_000  # digests


@dataclass(frozen=True, slots=True)
class Told:
    """What a policy makes of one event, or in one digest."""

    draft: Draft
    orders: Mapping[str, Order]  # by id of the delivery; without what is repeated


class Past:
    """One policy, on a clock for each kind: kinds are gone through one after the other."""

    def __init__(self, side: Side, choices_of: ChoicesOf) -> None:
        self.rulebook = side.rulebook
        self._courses = {kind: Course(side.rulebook, choices_of) for kind in Kind}
        self._recent = _Recent()

    def seen(self, event: Event) -> Event:
        """``event`` with its payload as this policy's schemas spell it."""
        payload = self.rulebook.catalogue.canonical(event.name, event.payload)
        return event if payload is event.payload else structs.replace(event, payload=payload)

    def take(self, event: Event) -> Told:
        """What is told of ``event``, as ``seen``, after those that came before it."""
        return self._fresh(self._courses[event.kind].take(event), event.received)

    def digests(self, kind: Kind, until: int) -> Iterable[Told]:
        """Those that fall due by ``until``, microseconds since the epoch."""
        course = self._courses[kind]
        if course.next_due is None:
            return ()
        return (self._fresh(drafted, course.now) for drafted in course.digests(until))

    def note(self, ids: Iterable[str], at: int) -> None:
        """These deliveries are made at that time, as is known without taking their event."""
        for id_ in ids:
            self._recent.repeats(id_, at)

    def _fresh(self, drafted: Draft, at: int) -> Told:
        orders = {id_: order for order in drafted.orders if not self._recent.repeats(id_ := order.id, at)}
        return Told(drafted, orders)


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


class Unpaired:
    """Digests of one policy for which the other has not made one of the same events yet."""

    def __init__(self) -> None:
        self._waiting: dict[str, Told] = {}  # by the key of the digest; who waits longest is first

    def take(self, told: Told) -> Told | None:
        """The one that tells of an event which the other policy's ``told`` tells of too; it waits no more."""
        waiting = self._waiting.get(_key(told))
        if waiting is None or _events(waiting).isdisjoint(_events(told)):
            return None
        return self._waiting.pop(_key(told))

    def add(self, told: Told) -> Iterator[Told]:
        """Have ``told`` wait; yields those for which there will be none, or no room."""
        if (before := self._waiting.pop(_key(told), None)) is not None:
            yield before
        self._waiting[_key(told)] = told
        if len(self._waiting) > _MOST_WAITING:
            yield self._waiting.pop(next(iter(self._waiting)))

    def rest(self) -> Iterator[Told]:
        """All that wait; none does any more."""
        while self._waiting:
            yield self._waiting.pop(next(iter(self._waiting)))


def _key(told: Told) -> str:
    return told.draft.digest.key if told.draft.digest else ""


def _events(told: Told) -> set[tuple[str, str]]:
    digested = told.draft.digest
    return {(event.key, event.reqid) for event in digested.events} if digested else set()
