"""Read archived events in bulk."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from ..broker import Broker
from ..broker.codec import decode_event
from ..broker.reader import StoredMessage, StreamReader
from ..model.errors import BrokerUnsupported, NotPermitted, UndecodableError
from ..model.messages import Event, Kind
from ..rules.catalog import Catalogue

_BATCH = 256  # events that are decoded before the event loop runs again
_ANY_CLOCK = 100 * 365 * 86400.0  # seconds: the sender's clock was checked when the event was received
_NO_SCHEMAS = Catalogue()  # payloads stay as they were sent


@dataclass(slots=True, kw_only=True)
class Archive:
    """The archive of past events."""

    broker: Broker
    hidden: dict[Kind, NotPermitted] = field(default_factory=dict)  # kinds that this user may not read
    missing: dict[Kind, BrokerUnsupported] = field(default_factory=dict)  # kinds without an archive
    undecodable: Counter[str] = field(default_factory=Counter)  # by reason
    waiting: int = 0  # messages of the current kind that were not read so far

    async def events(self, kinds: Collection[Kind], since: int) -> AsyncGenerator[Sequence[Event], None]:
        """Yield batches of events by kind, the oldest first, from ``since``, microseconds since the epoch.

        Payloads are as they were sent. ``received`` is the time of archiving. Messages that cannot be decoded
        are counted. Raises NotPermitted or BrokerUnsupported if no kind can be read, and BrokerError.
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
        topology = self.broker.topology
        stream = topology.archive_stream(kind)
        # The subject of a log without a key ends with its kind; the stream has only logs.
        every = f"{topology.namespace}.archive.>"
        subject = every if kind is Kind.LOG else topology.archive_subject(kind, ">")
        async with StreamReader(self.broker.connection, stream, subject, since=since) as reader:
            while batch := await reader.read_batch(_BATCH):
                self.waiting = reader.pending
                yield batch

    def _decoded(self, kind: Kind, batch: Sequence[StoredMessage]) -> list[Event]:
        events, prefix = [], self.broker.topology.archive_subject(kind, "")
        for stored in batch:
            key = stored.subject.removeprefix(prefix).removeprefix(".")
            try:
                event = decode_event(
                    stored.payload,
                    kind=kind,
                    key=key,
                    received=stored.at,
                    tolerance=_ANY_CLOCK,
                    catalogue=_NO_SCHEMAS,
                    headers=stored.headers,
                )
            except UndecodableError as error:
                self.undecodable[error.reason] += 1
            else:
                events.append(event)
        return events
