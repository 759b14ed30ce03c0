"""The events that the archive still has, read in bulk."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from ..broker import Connection, Topology
from ..broker.codec import decode_event, read_hops
from ..broker.reader import StoredMessage, StreamReader
from ..model.errors import BrokerUnsupported, NotPermitted, UndecodableError
from ..model.messages import Event, Kind
from ..rules.catalog import Catalogue

_AT_ONCE = 256  # events; what else the process has to do waits for so many
_ANY_CLOCK = 100 * 365 * 86400.0  # seconds: how well the sender's clock went was judged when it came
_SPELLED_AS_IT_CAME = Catalogue()


@dataclass(slots=True, kw_only=True)
class Archive:
    """What was planned once, of the kinds that may be read."""

    connection: Connection
    topology: Topology
    hidden: dict[Kind, NotPermitted] = field(default_factory=dict)  # kinds that we may not read
    missing: dict[Kind, BrokerUnsupported] = field(default_factory=dict)  # kinds that have no archive
    undecodable: Counter[str] = field(default_factory=Counter)  # by reason
    waiting: int = 0  # messages of the present reading that are still to come

    async def events(self, kinds: Collection[Kind], since: int) -> AsyncGenerator[Sequence[Event], None]:
        """Those archived since then (microseconds since the epoch), kind by kind, the oldest first.

        Their payloads are spelled as they came. ``received`` is when the archive took them. Raises
        NotPermitted or BrokerUnfit where no kind can be read, BrokerError.
        """
        for kind in kinds:
            try:
                async with aclosing(self._stored(kind, since)) as batches:
                    async for batch in batches:
                        yield self._decoded(kind, batch)
            except NotPermitted as error:
                self.hidden[kind] = error
            except BrokerUnsupported as error:
                self.missing[kind] = error
        if self.hidden.keys() | self.missing.keys() >= set(kinds):
            raise next(iter((*self.hidden.values(), *self.missing.values())))

    async def _stored(self, kind: Kind, since: int) -> AsyncGenerator[list[StoredMessage], None]:
        stream = self.topology.archive_stream(kind)
        # A bare log has no key; nothing else lies in the stream of logs.
        subject = self.topology.archive_subject(kind, ">")
        subject = f"{self.topology.namespace}.archive.>" if kind is Kind.LOG else subject
        async with StreamReader(self.connection, stream, subject, since=since) as reading:
            while batch := await reading.read_batch(_AT_ONCE):
                self.waiting = reading.pending
                yield batch

    def _decoded(self, kind: Kind, batch: Sequence[StoredMessage]) -> list[Event]:
        events = []
        for stored in batch:
            key = stored.subject.removeprefix(self.topology.archive_subject(kind, "")).removeprefix(".")
            try:
                event = decode_event(
                    stored.payload,
                    kind=kind,
                    key=key,
                    received=stored.at,
                    tolerance=_ANY_CLOCK,
                    catalogue=_SPELLED_AS_IT_CAME,
                    hops=read_hops(stored.headers),
                )
            except UndecodableError as error:
                self.undecodable[error.reason] += 1
            else:
                events.append(event)
        return events
