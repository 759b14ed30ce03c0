"""The history of one reqid, read from the broker: what is there, and what still comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from .broker import Connection, Topology
from .broker.reading import StreamReader
from .dead import DeadLetter, DeadLetterFilter
from .entries import HistoryEntry, read_entry
from .errors import BrokerError, NotPermitted
from .letters import DeadLetterStore
from .model import Kind
from .subjects import token
from .trace import EventTrace, build_traces

_MAX_ENTRIES = 10_000  # of one kind: a sender may use one reqid for everything
_CLOCKS_APART = 60_000_000  # microseconds by which an engine's clock and the broker's may differ
_SEARCH_LIMIT = 3.0  # seconds for the dead letters, of which there may be very many


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
