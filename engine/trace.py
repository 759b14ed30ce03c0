"""What became of the events of one reqid, folded from the entries of the history.

The entries may come in any order that the streams have, twice, or without the first of them, which the
broker may have forgotten already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .entries import (
    DropRecord,
    EventRecord,
    FailureRecord,
    FallbackRecord,
    HistoryEntry,
    PlanRecord,
    ReceiptRecord,
    RedriveRecord,
)
from .model import Held, Kind, Outcome, Suppressed

WAITING, DEAD = "waiting", "dead"  # a delivery's status, where it is not the outcome of its last attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryTrace:
    """One delivery, and every attempt at it in order."""

    id: str
    rule: str
    channel: str
    to: tuple[str, ...]
    locale: str
    attempts: tuple[ReceiptRecord, ...] = ()
    revived: tuple[int, ...] = ()  # when it was brought back from the dead letters
    dropped: int = 0  # when its dead letter was thrown away; 0: it was not

    @property
    def status(self) -> str:
        """waiting, sent, deferred, refused, unknown, or dead: given up after it was deferred."""
        if self.times_sent:
            return Outcome.SENT
        last = self._last
        if last is None:
            return WAITING
        is_dead = last.final and last.outcome is Outcome.DEFERRED and not last.fallback
        return DEAD if is_dead else last.outcome

    @property
    def is_final(self) -> bool:
        """Whether nothing more is tried."""
        return bool(self.times_sent) or (self._last is not None and self._last.final)

    @property
    def fallback(self) -> FallbackRecord | None:
        """What goes on for it over the next channel of its chain."""
        return self._last.fallback if self._last and not self.times_sent else None

    @property
    def is_given_up(self) -> bool:
        return self.is_final and not self.times_sent and not self.fallback

    @property
    def is_duplicated(self) -> bool:
        """Whether its reader may have it twice: sent after an attempt nobody knows the end of."""
        outcomes = [attempt.outcome for attempt in self.attempts]
        if Outcome.SENT not in outcomes:
            return False
        last = len(outcomes) - 1 - outcomes[::-1].index(Outcome.SENT)
        return any(each in (Outcome.UNKNOWN, Outcome.SENT) for each in outcomes[:last])

    @property
    def times_sent(self) -> int:
        return sum(attempt.outcome is Outcome.SENT for attempt in self.attempts)

    @property
    def _last(self) -> ReceiptRecord | None:
        """The last attempt since it was brought back, if it was."""
        last = self.attempts[-1] if self.attempts else None
        back = max(self.revived, default=0)
        return None if last is None or _life(last) < back else last


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTrace:
    """One event, however often it was published, and what it led to."""

    kind: Kind
    name: str  # KIND.KEY; the kind alone where the plan is forgotten
    plans: tuple[PlanRecord, ...]  # one for each time that it came
    deliveries: tuple[DeliveryTrace, ...]
    suppressed: tuple[Suppressed, ...]
    held: tuple[Held, ...]  # that wait, or have waited
    failures: tuple[FailureRecord, ...]  # still not written

    @property
    def rules(self) -> Mapping[str, str]:
        """By id, of the rules that matched: ``matched``, ``shadow``, or ``stopped`` those after it."""
        verdicts: dict[str, str] = {}
        for plan in self.plans:
            for rule in plan.rules:
                verdicts[rule] = "shadow" if rule in plan.shadow else "matched"
            if plan.stopped and plan.rules:
                verdicts[plan.rules[-1]] = "stopped"
        return verdicts

    @property
    def is_final(self) -> bool:
        return all(delivery.is_final for delivery in self.deliveries)


@dataclass(slots=True)
class _DeliveryTraceBuilder:
    """A delivery while its entries are being gathered."""

    id: str
    rule: str
    channel: str
    to: tuple[str, ...]
    locale: str = ""
    attempts: list[ReceiptRecord] = field(default_factory=list)
    revived: list[int] = field(default_factory=list)
    dropped: int = 0
    is_unused_fallback: bool = False  # a fall-back of which nothing is known yet

    def build(self) -> DeliveryTrace:
        return DeliveryTrace(
            id=self.id, rule=self.rule, channel=self.channel, to=self.to, locale=self.locale,
            # In the order of its lives: another stream tells of a return than of what follows.
            attempts=tuple(sorted(self.attempts, key=_life)),
            revived=tuple(sorted(set(self.revived))), dropped=self.dropped,
        )  # fmt: skip


def build_traces(kind: Kind, entries: Iterable[HistoryEntry]) -> tuple[EventTrace, ...]:
    """The events of one kind, in the order in which they came first."""
    known = list(entries)
    plans = [entry for entry in known if isinstance(entry, PlanRecord)]
    by_name: dict[str, list[PlanRecord]] = {}
    for plan in plans:
        by_name.setdefault(_name(plan.event), []).append(plan)
    drafts = {name: _builders(of_event) for name, of_event in by_name.items()}
    for entry in known:
        if not isinstance(entry, PlanRecord):
            _apply(entry, drafts, kind)
    return tuple(
        _event_trace(
            kind,
            name,
            by_name.get(name, []),
            [draft.build() for draft in of_event.values() if not draft.is_unused_fallback],
        )
        for name, of_event in drafts.items()
    )


def _builders(plans: Iterable[PlanRecord]) -> dict[str, _DeliveryTraceBuilder]:
    found: dict[str, _DeliveryTraceBuilder] = {}
    for plan in plans:
        for each in plan.deliveries:
            found.setdefault(
                each.id, _DeliveryTraceBuilder(each.id, each.rule, each.channel, each.to, each.locale)
            )
            for step in each.fallbacks:
                reserve = _DeliveryTraceBuilder(
                    step.id, each.rule, step.channel, step.to, step.locale, is_unused_fallback=True
                )
                found.setdefault(step.id, reserve)
    return found


def _apply(
    entry: ReceiptRecord | RedriveRecord | DropRecord,
    drafts: dict[str, dict[str, _DeliveryTraceBuilder]],
    kind: Kind,
) -> None:
    draft = _builder_for(entry, drafts, kind)
    match entry:
        case ReceiptRecord() if draft and entry not in draft.attempts:
            draft.attempts.append(entry)
            draft.is_unused_fallback = False
            if step := entry.fallback:
                home = next(of_event for of_event in drafts.values() if entry.delivery in of_event)
                reserve = _DeliveryTraceBuilder(step.id, entry.rule, step.channel, step.to, step.locale)
                home.setdefault(step.id, reserve).is_unused_fallback = False
            if entry.rest:
                _event_of(entry, drafts, kind).setdefault(
                    entry.rest, _DeliveryTraceBuilder(entry.rest, entry.rule, entry.channel, ())
                )
        case RedriveRecord() if draft:
            draft.revived.append(entry.at)
        case DropRecord() if draft:
            draft.dropped = entry.at


def _builder_for(
    entry: ReceiptRecord | RedriveRecord | DropRecord,
    drafts: dict[str, dict[str, _DeliveryTraceBuilder]],
    kind: Kind,
) -> _DeliveryTraceBuilder | None:
    known = next((of_event for of_event in drafts.values() if entry.delivery in of_event), None)
    if known is None and not isinstance(entry, ReceiptRecord):
        return None  # of something that was never written
    home = _event_of(entry, drafts, kind) if known is None else known
    found = home.setdefault(
        entry.delivery, _DeliveryTraceBuilder(entry.delivery, entry.rule, entry.channel, ())
    )
    if isinstance(entry, ReceiptRecord):
        found.to = found.to or entry.to
    return found


def _event_of(
    entry: ReceiptRecord | RedriveRecord | DropRecord,
    drafts: dict[str, dict[str, _DeliveryTraceBuilder]],
    kind: Kind,
) -> dict[str, _DeliveryTraceBuilder]:
    """The event with deliveries of the same rule and channel; one without a name where there is none.

    What is not planned is the rest of another delivery, or its plan is forgotten.
    """
    for of_event in drafts.values():
        if any((each.rule, each.channel) == (entry.rule, entry.channel) for each in of_event.values()):
            return of_event
    return drafts.setdefault(str(kind), {})


def _event_trace(
    kind: Kind, name: str, plans: list[PlanRecord], deliveries: list[DeliveryTrace]
) -> EventTrace:
    written = {delivery.id for delivery in deliveries}
    return EventTrace(
        kind=kind,
        name=name,
        plans=tuple(plans),
        deliveries=tuple(deliveries),
        suppressed=tuple(dict.fromkeys(each for plan in plans for each in plan.suppressed)),
        held=tuple(dict.fromkeys(each for plan in plans for each in plan.held)),
        failures=tuple(
            dict.fromkeys(each for plan in plans for each in plan.failures if each.delivery not in written)
        ),
    )


def _name(event: EventRecord) -> str:
    return f"{event.kind}.{event.key}" if event.key else event.kind


def _life(receipt: ReceiptRecord) -> int:
    """Which of a delivery's lives: 0 for the first, else when it was brought back."""
    return receipt.redrive.at if receipt.redrive else 0
