"""Read events in bulk from the event streams, which keep them for `retention.archive`."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from ..broker import Broker
from ..broker.codec import decode_event, redrive_of
from ..broker.reader import StoredMessage, StreamReader
from ..model.errors import BrokerUnsupported, NotPermitted, UndecodableError
from ..model.messages import Event, Kind
from ..rules.catalog import Catalogue

_BATCH = 256  # events that are decoded before the event loop runs again
_NO_SCHEMAS = Catalogue()  # payloads stay as they were sent


@dataclass(slots=True, kw_only=True)
class Archive:
    """The archive of past events."""

    broker: Broker
    tolerance: float  # seconds that a sender's clock may be off; the server did not plan an event beyond it
    hidden: dict[Kind, NotPermitted] = field(default_factory=dict)  # kinds that this user may not read
    missing: dict[Kind, BrokerUnsupported] = field(default_factory=dict)  # kinds without a stream
    undecodable: Counter[str] = field(default_factory=Counter)  # by reason
    waiting: int = 0  # messages of the current kind that were not read so far

    async def events(self, kinds: Collection[Kind], since: int) -> AsyncGenerator[Sequence[Event], None]:
        """Yield batches of events by kind, the oldest first, from ``since``, microseconds since the epoch.

        Payloads are as they were sent. ``received`` is when the broker stored the event. Messages that cannot
        be decoded are counted. Raises NotPermitted or BrokerUnsupported if no kind can be read, and
        BrokerError.
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
        # A log without a key has no token after its kind; the stream has only logs.
        subject = ">" if kind is Kind.LOG else topology.subjects(kind)[0]
        stream = topology.stream(kind)
        async with StreamReader(self.broker.connection, stream, subject, since=since) as reader:
            while batch := await reader.read_batch(_BATCH):
                self.waiting = reader.pending
                yield batch

    def _decoded(self, kind: Kind, batch: Sequence[StoredMessage]) -> list[Event]:
        events = []
        for stored in batch:
            if redrive_of(stored.headers) is not None:
                continue  # the event itself is in the stream, too
            try:
                event = decode_event(
                    stored.payload,
                    kind=kind,
                    key=self.broker.topology.key(kind, stored.subject),
                    received=stored.at,
                    tolerance=self.tolerance,
                    catalogue=_NO_SCHEMAS,
                    headers=stored.headers,
                )
            except UndecodableError as error:
                self.undecodable[error.reason] += 1
            else:
                events.append(event)
        return events
