"""Read the history of a reqid, and follow it. Entry: `open_trace`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from ..broker import Broker
from ..broker.reader import StreamReader
from ..model.errors import BrokerError, NotPermitted
from ..model.messages import Kind
from ..model.subjects import token
from .dead_letter_store import DeadLetterStore
from .dead_letters import DeadLetter, DeadLetterFilter
from .entries import ClaimRecord, HistoryEntry, read_entry
from .trace import EventTrace, build_traces

_MAX_ENTRIES = 10_000  # of one kind: a sender may use one reqid for all its events
_MAX_CLOCK_SKEW = 60_000_000  # microseconds between the clocks of a replica and the broker
_SEARCH_LIMIT = 3.0  # seconds to search the dead letters, of which there may be many


@dataclass(slots=True, kw_only=True)
class TraceReader:
    """The history of one reqid as far as it was read. ``open_trace`` creates it."""

    broker: Broker
    reqid: str
    readers: dict[Kind, StreamReader]
    hidden: dict[Kind, NotPermitted]  # kinds that this user may not read
    is_truncated: bool = False  # there are more entries than were read
    _entries: dict[Kind, list[HistoryEntry]] = field(default_factory=dict)

    @property
    def traces(self) -> tuple[EventTrace, ...]:
        """One trace for each event of the reqid."""
        return tuple(
            trace for kind, entries in self._entries.items() for trace in build_traces(kind, entries)
        )

    def is_final(self) -> bool:
        """Return whether there is an event, and no other attempt is expected."""
        traces = self.traces
        return bool(traces) and all(trace.is_final for trace in traces)

    async def stored_entries(self) -> AsyncGenerator[tuple[Kind, HistoryEntry], None]:
        """Yield the entries that are stored, by kind, each from the oldest."""
        for kind, reader in self.readers.items():
            for _ in range(_MAX_ENTRIES):
                if (stored := await reader.next_existing()) is None:
                    break
                if (entry := self._add(kind, stored.payload)) is not None:
                    yield kind, entry
            self.is_truncated = self.is_truncated or not reader.caught_up

    async def new_entries(self) -> AsyncGenerator[tuple[Kind, HistoryEntry], None]:
        """Yield the entries that are stored from now on, without end."""
        reads: dict[asyncio.Task[bytes], Kind] = {}

        def read_next(kind: Kind) -> None:
            reads[asyncio.create_task(_next_payload(self.readers[kind]), name=f"trace {kind}")] = kind

        for kind in self.readers:
            read_next(kind)
        try:
            while reads:
                done, _ = await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    kind = reads.pop(task)
                    if (entry := self._add(kind, task.result())) is not None:
                        yield kind, entry
                    read_next(kind)
        finally:
            for task in reads:
                task.cancel()

    async def dead_letters(self) -> list[DeadLetter]:
        """Return the dead letters of the reqid that are found within a few seconds."""
        found: list[DeadLetter] = []
        store = DeadLetterStore(self.broker)
        for trace in self.traces:
            ends = [each.attempts[-1].at for each in trace.deliveries if each.is_dead_lettered]
            ends += [plan.at for plan in trace.plans if plan.failures]
            if not ends:
                continue
            wanted = DeadLetterFilter(kind=trace.kind, reqid=self.reqid, since=min(ends) - _MAX_CLOCK_SKEW)
            try:
                async with asyncio.timeout(_SEARCH_LIMIT):
                    found += [dead_letter async for dead_letter in store.search(wanted)]
            except (TimeoutError, BrokerError):
                continue  # the trace shows that there is one; only its place is missing
        return found

    def _add(self, kind: Kind, payload: bytes) -> HistoryEntry | None:
        """Add an entry and return it; None for an entry that traces do not show."""
        entry = read_entry(payload)
        if entry is None or isinstance(entry, ClaimRecord):
            return None
        self._entries.setdefault(kind, []).append(entry)
        return entry


async def _next_payload(reader: StreamReader) -> bytes:
    return (await reader.next_message()).payload


@asynccontextmanager
async def open_trace(broker: Broker, reqid: str) -> AsyncIterator[TraceReader]:
    """Open the history of ``reqid``. Raises NotPermitted if no kind may be read, and BrokerError."""
    readers: dict[Kind, StreamReader] = {}
    hidden: dict[Kind, NotPermitted] = {}
    async with AsyncExitStack() as stack:
        for kind in Kind:
            subject = broker.topology.history_subject(kind, token(reqid))
            reader = StreamReader(broker.connection, broker.topology.history_stream, subject)
            try:
                readers[kind] = await stack.enter_async_context(reader)
            except NotPermitted as error:
                hidden[kind] = error
                if len(hidden) == len(Kind):
                    raise
        yield TraceReader(broker=broker, reqid=reqid, readers=readers, hidden=hidden)
