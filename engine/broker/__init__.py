"""NATS and JetStream, as MSS uses them. Entry: `connect`.

broker         one value with the connection, the names, the publisher and the buckets
connection     one client, its health, and the metadata of delivered messages
topology       the names of streams, consumers, buckets and subjects
provisioning   creates and checks them at the start
publisher      many messages in flight, each acknowledged
consumer       a durable pull consumer with a bounded number of messages in flight
kv             buckets: values that all replicas change, by compare-and-set
reader         reads a stream by subject
codec          events and deliveries, to and from bytes
embedded       nats-server as a child process
"""

from __future__ import annotations

from msc.wire import RESENT_HEADER

from .broker import Broker
from .connection import Connection, MessageMetadata, connect, connect_options, message_metadata
from .consumer import Consumer, Handle
from .kv import AtomicStore, Bucket, OwnBucket
from .provisioning import Provisioner
from .publisher import OutgoingMessage, PendingAck, Publisher
from .topology import Topology

__all__ = [
    "RESENT_HEADER",
    "AtomicStore",
    "Broker",
    "Bucket",
    "Connection",
    "Consumer",
    "Handle",
    "MessageMetadata",
    "OutgoingMessage",
    "OwnBucket",
    "PendingAck",
    "Provisioner",
    "Publisher",
    "Topology",
    "connect",
    "connect_options",
    "message_metadata",
]
