"""The broker as one value: everything that the parts of a replica share over one connection."""

from __future__ import annotations

from collections.abc import AsyncIterator

import nats.js.errors

from ..model.messages import Kind
from ..model.subjects import token
from .connection import Connection
from .kv import AtomicStore, Bucket, OwnBucket
from .publisher import Publisher
from .reader import messages_on
from .topology import Topology


class Broker:
    """A connection, the names of everything behind it, one publisher, and the buckets of MSS.

    Start the publisher before anything is published.
    """

    __slots__ = ("connection", "ledger", "preferences", "publisher", "state", "topology")

    def __init__(
        self, connection: Connection, topology: Topology, *, publisher: Publisher | None = None
    ) -> None:
        self.connection = connection
        self.topology = topology
        self.publisher = publisher or Publisher(connection)
        self.ledger = OwnBucket(connection, topology.bucket("LEDGER"), self.publisher)
        self.state = AtomicStore(OwnBucket(connection, topology.bucket("STATE"), self.publisher))
        self.preferences = Bucket(connection, topology.bucket("PREFERENCES"))

    @property
    def max_payload(self) -> int:
        """Bytes that the broker accepts in one message, with room for headers."""
        return self.connection.largest_payload

    async def oldest_unplanned(self, kind: Kind) -> float | None:
        """Return when the oldest unplanned event of a kind was stored, or None if all events are planned.

        The time is in seconds since the epoch. Raises nats-py's errors.
        """
        stream = self.topology.stream(kind)
        consumer = await self.connection.js.consumer_info(stream, self.topology.planner)
        if not (consumer.num_pending or consumer.num_ack_pending):
            return None
        planned = consumer.ack_floor.stream_seq if consumer.ack_floor else 0
        try:
            oldest = await self.connection.js.get_msg(stream, seq=planned + 1, next=True)
        except nats.js.errors.NotFoundError:
            return None  # it was planned in between
        return oldest.time.timestamp() if oldest.time else None

    async def history(self, kind: Kind, reqid: str) -> AsyncIterator[bytes]:
        """Yield the history entries of one reqid, the oldest first. Raises BrokerError."""
        subject = self.topology.history_subject(kind, token(reqid))
        async for msg in messages_on(self.connection, self.topology.history_stream, subject):
            yield msg.data or b""
