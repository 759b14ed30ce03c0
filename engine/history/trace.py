"""Trace a reqid: its events and all that became of them, built from the history.

Entries may arrive in any order, twice, or without the first of them, which the broker may no longer have.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from ..broker import Connection, Topology
from ..broker.reader import StreamReader
from ..model.errors import BrokerError, NotPermitted
from ..model.messages import Held, Kind, Outcome, Suppressed
from ..model.subjects import token
from ..planning.records import EventRecord, FailureRecord, FallbackRecord, PlanRecord
from .dead_letter_store import DeadLetterStore
from .dead_letters import DeadLetter, DeadLetterFilter
from .entries import DropRecord, HistoryEntry, ReceiptRecord, RedriveRecord, read_entry

WAITING, DEAD = "waiting", "dead"  # a delivery's status, where it is not the outcome of its last attempt

_MAX_ENTRIES = 10_000  # of one kind: a sender may use one reqid for everything
_CLOCKS_APART = 60_000_000  # microseconds by which an engine's clock and the broker's may differ
_SEARCH_LIMIT = 3.0  # seconds for the dead letters, of which there may be very many


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


@dataclass(slots=True, kw_only=True)
class TraceReader:
    """What is known of one reqid so far. Made by ``tracing``."""

    connection: Connection
    topology: Topology
    reqid: str
    hidden: dict[Kind, NotPermitted] = field(default_factory=dict)  # kinds that we may not read
    cut: bool = False  # there is more than was read
    _entries: dict[Kind, list[HistoryEntry]] = field(default_factory=dict)
    _readings: dict[Kind, StreamReader] = field(default_factory=dict)

    @property
    def stories(self) -> tuple[EventTrace, ...]:
        """One for each event of the reqid."""
        return tuple(
            story for kind, entries in self._entries.items() for story in build_traces(kind, entries)
        )

    def settled(self) -> bool:
        """Whether there is something and nothing of it is waited for."""
        stories = self.stories
        return bool(stories) and all(story.is_final for story in stories)

    async def present(self) -> AsyncGenerator[tuple[Kind, HistoryEntry], None]:
        """The entries that are there, kind by kind, each from the oldest on."""
        for kind, reading in self._readings.items():
            for _ in range(_MAX_ENTRIES):
                if (stored := await reading.next_existing()) is None:
                    break
                if (entry := self._take(kind, stored.payload)) is not None:
                    yield kind, entry
            self.cut = self.cut or not reading.caught_up

    async def following(self) -> AsyncGenerator[tuple[Kind, HistoryEntry], None]:
        """The entries that come after those, for ever."""
        coming: dict[asyncio.Task[bytes], Kind] = {}

        def await_next(kind: Kind) -> None:
            coming[asyncio.create_task(_payload(self._readings[kind]), name=f"trace {kind}")] = kind

        for kind in self._readings:
            await_next(kind)
        try:
            while coming:
                arrived, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
                for task in arrived:
                    kind = coming.pop(task)
                    if (entry := self._take(kind, task.result())) is not None:
                        yield kind, entry
                    await_next(kind)
        finally:
            for task in coming:
                task.cancel()

    async def dead_letters(self) -> list[DeadLetter]:
        """The letters that lie among the dead because of it, as far as they are found in short time."""
        found: list[DeadLetter] = []
        for story in self.stories:
            ends = [each.attempts[-1].at for each in story.deliveries if each.is_given_up]
            ends += [plan.at for plan in story.plans if plan.failures]
            if not ends:
                continue
            wanted = DeadLetterFilter(kind=story.kind, reqid=self.reqid, since=min(ends) - _CLOCKS_APART)
            try:
                async with asyncio.timeout(_SEARCH_LIMIT):
                    found += [
                        letter
                        async for letter in DeadLetterStore(
                            connection=self.connection, topology=self.topology
                        ).search(wanted)
                    ]
            except (TimeoutError, BrokerError):
                continue  # the history says that there is one: where it lies is an extra
        return found

    def _take(self, kind: Kind, payload: bytes) -> HistoryEntry | None:
        entry = read_entry(payload)
        if entry is not None:
            self._entries.setdefault(kind, []).append(entry)
        return entry


async def _payload(reading: StreamReader) -> bytes:
    return (await reading.next_message()).payload


@asynccontextmanager
async def open_trace(connection: Connection, topology: Topology, reqid: str) -> AsyncIterator[TraceReader]:
    """Begin to read the history of ``reqid``. Raises NotPermitted where no kind may be read, BrokerError."""
    tracer = TraceReader(connection=connection, topology=topology, reqid=reqid)
    async with AsyncExitStack() as stack:
        for kind in Kind:
            subject = topology.history_subject(kind, token(reqid))
            reading = StreamReader(connection, topology.history_stream, subject)
            try:
                tracer._readings[kind] = await stack.enter_async_context(reading)  # noqa: SLF001 -- it is ours
            except NotPermitted as error:
                tracer.hidden[kind] = error
                if len(tracer.hidden) == len(Kind):
                    raise
        yield tracer
