"""The trace of a reqid: its events, their deliveries and every attempt, built from history entries.

Entries may arrive twice and in any order, and the plan may be missing: the broker keeps entries for a
limited time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..model.messages import Failure, Held, Kind, Outcome, Suppressed
from ..planning.records import FallbackRecord, PlanRecord
from .entries import DropRecord, HistoryEntry, ReceiptRecord, RedriveRecord

WAITING, DEAD = "waiting", "dead"  # statuses of a delivery that are not outcomes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryTrace:
    """One delivery and every attempt at it, in order."""

    id: str
    rule: str
    channel: str
    to: tuple[str, ...] = ()
    locale: str = ""
    attempts: tuple[ReceiptRecord, ...] = ()
    redriven: tuple[int, ...] = ()  # when its dead letters were redriven, microseconds since the epoch
    dropped: int = 0  # when its dead letter was dropped, microseconds since the epoch; 0: it was not

    @property
    def status(self) -> str:
        """An outcome, ``waiting`` or ``dead``: MSS gave up after the last attempt was deferred."""
        if self.times_sent:
            return Outcome.SENT
        last = self._last
        if last is None:
            return WAITING
        is_dead = last.final and last.outcome is Outcome.DEFERRED and not last.fallback
        return DEAD if is_dead else last.outcome

    @property
    def is_final(self) -> bool:
        """True if there will be no other attempt."""
        return bool(self.times_sent) or (self._last is not None and self._last.final)

    @property
    def fallback(self) -> FallbackRecord | None:
        """The fallback that was sent instead."""
        return self._last.fallback if self._last and not self.times_sent else None

    @property
    def is_dead_lettered(self) -> bool:
        """True if it was not sent, and neither were its fallbacks."""
        return self.is_final and not self.times_sent and not self.fallback

    @property
    def is_duplicated(self) -> bool:
        """True if the recipient may have received it twice: an earlier attempt was sent or unknown."""
        outcomes = [attempt.outcome for attempt in self.attempts]
        if Outcome.SENT not in outcomes:
            return False
        last = len(outcomes) - 1 - outcomes[::-1].index(Outcome.SENT)
        return any(each in (Outcome.UNKNOWN, Outcome.SENT) for each in outcomes[:last])

    @property
    def times_sent(self) -> int:
        """How many attempts were sent."""
        return sum(attempt.outcome is Outcome.SENT for attempt in self.attempts)

    @property
    def _last(self) -> ReceiptRecord | None:
        """The last attempt since the last redrive."""
        last = self.attempts[-1] if self.attempts else None
        return None if last is None or _redriven_at(last) < max(self.redriven, default=0) else last


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTrace:
    """One event, its plans and its deliveries."""

    kind: Kind
    name: str  # KIND.KEY; only the kind if its plan has expired
    plans: tuple[PlanRecord, ...]  # one for each time that it was published
    deliveries: tuple[DeliveryTrace, ...]
    suppressed: tuple[Suppressed, ...]
    held: tuple[Held, ...]  # also those that were sent since then
    failures: tuple[Failure, ...]  # without those that were rendered since then

    @property
    def rules(self) -> Mapping[str, str]:
        """The rules that matched, by id: ``matched``, ``shadow``, or ``stopped`` for one with ``stop``."""
        verdicts: dict[str, str] = {}
        for plan in self.plans:
            for rule in plan.rules:
                verdicts[rule] = "shadow" if rule in plan.shadow else "matched"
            if plan.stopped and plan.rules:
                verdicts[plan.rules[-1]] = "stopped"
        return verdicts

    @property
    def is_final(self) -> bool:
        """True if there will be no other attempt at any of its deliveries."""
        return all(delivery.is_final for delivery in self.deliveries)


def build_traces(kind: Kind, entries: Iterable[HistoryEntry]) -> tuple[EventTrace, ...]:
    """Return the events of one kind, in the order of their first plans."""
    builder, later = _TraceBuilder(kind), []
    for entry in entries:
        if isinstance(entry, PlanRecord):
            builder.add_plan(entry)
        else:
            later.append(entry)
    for entry in later:
        match entry:
            case ReceiptRecord():
                builder.add_receipt(entry)
            case RedriveRecord() | DropRecord():
                builder.add_decision(entry)
    return builder.build()


class _TraceBuilder:
    """The events of one kind while entries are added."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._plans: dict[str, list[PlanRecord]] = defaultdict(list)  # by the name of the event
        self._deliveries: dict[str, dict[str, DeliveryTrace]] = {}  # by the name of the event, and by id
        self._unused: set[tuple[str, str]] = set()  # name and id of fallbacks without a receipt so far

    def add_plan(self, plan: PlanRecord) -> None:
        name = f"{plan.event.kind}.{plan.event.key}" if plan.event.key else str(plan.event.kind)
        self._plans[name].append(plan)
        deliveries = self._deliveries.setdefault(name, {})
        for each in plan.deliveries:
            deliveries.setdefault(
                each.id,
                DeliveryTrace(
                    id=each.id, rule=each.rule, channel=each.channel, to=each.to, locale=each.locale
                ),
            )
            for step in each.fallbacks:
                if step.id not in deliveries:
                    deliveries[step.id] = _fallback_trace(step, each.rule)
                    self._unused.add((name, step.id))

    def add_receipt(self, receipt: ReceiptRecord) -> None:
        id_, rule, channel, name = receipt.delivery, receipt.rule, receipt.channel, self._event_of(receipt)
        deliveries = self._deliveries.setdefault(name, {})
        found = deliveries.get(id_) or DeliveryTrace(id=id_, rule=rule, channel=channel)
        attempts = found.attempts
        if receipt not in attempts:
            # By redrive: entries of a redrive may be read before those that led to the dead letter.
            attempts = tuple(sorted((*attempts, receipt), key=_redriven_at))
        deliveries[id_] = replace(found, to=found.to or receipt.to, attempts=attempts)
        self._unused.discard((name, id_))
        if step := receipt.fallback:
            deliveries.setdefault(step.id, _fallback_trace(step, rule))
            self._unused.discard((name, step.id))
        if receipt.rest:
            deliveries.setdefault(receipt.rest, DeliveryTrace(id=receipt.rest, rule=rule, channel=channel))

    def add_decision(self, decision: RedriveRecord | DropRecord) -> None:
        """Add a redrive or a drop, unless its delivery was never rendered."""
        id_, at = decision.delivery, decision.at
        for deliveries in self._deliveries.values():
            if found := deliveries.get(id_):
                is_drop = isinstance(decision, DropRecord)
                redriven = found.redriven if is_drop else tuple(sorted({*found.redriven, at}))
                deliveries[id_] = replace(found, redriven=redriven, dropped=at if is_drop else found.dropped)
                return

    def build(self) -> tuple[EventTrace, ...]:
        return tuple(self._event_trace(name) for name in self._deliveries)

    def _event_of(self, receipt: ReceiptRecord) -> str:
        """Return the name of the event with this delivery, or else with a delivery of its rule and channel.

        A delivery that is in no plan is the rest of another one, or its plan has expired. Without any
        match, the name is that of an event without a plan.
        """
        rule_and_channel = receipt.rule, receipt.channel
        candidates = [name for name, known in self._deliveries.items() if receipt.delivery in known] or [
            name
            for name, known in self._deliveries.items()
            if any((each.rule, each.channel) == rule_and_channel for each in known.values())
        ]
        return candidates[0] if candidates else str(self._kind)

    def _event_trace(self, name: str) -> EventTrace:
        plans, known = self._plans.get(name, []), self._deliveries[name]
        deliveries = tuple(each for id_, each in known.items() if (name, id_) not in self._unused)
        rendered = {each.id for each in deliveries}
        return EventTrace(
            kind=self._kind,
            name=name,
            plans=tuple(plans),
            deliveries=deliveries,
            suppressed=tuple(dict.fromkeys(each for plan in plans for each in plan.suppressed)),
            held=tuple(dict.fromkeys(each for plan in plans for each in plan.held)),
            failures=tuple(
                dict.fromkeys(
                    each for plan in plans for each in plan.failures if each.delivery not in rendered
                )
            ),
        )


def _fallback_trace(step: FallbackRecord, rule: str) -> DeliveryTrace:
    return DeliveryTrace(id=step.id, rule=rule, channel=step.channel, to=step.to, locale=step.locale)


def _redriven_at(receipt: ReceiptRecord) -> int:
    return receipt.redrive.at if receipt.redrive else 0
