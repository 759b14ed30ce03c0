"""NATS and JetStream, as MSS uses them.

connection   one client, and the news when it is lost for good
topology     the streams, durables and buckets, created and checked at start
publisher    many messages at once, each known to be stored
cells        one value that all replicas change
lookup       what lies on one subject of a stream
consumer     a durable pull consumer that never stops pulling and never holds too much
"""

from .cells import change
from .connection import AGAIN, Connection, connect
from .consumer import Consumer
from .lookup import holds_any, messages_on
from .publisher import Outgoing, Publisher
from .topology import Topology

__all__ = [
    "AGAIN",
    "Connection",
    "Consumer",
    "Outgoing",
    "Publisher",
    "Topology",
    "change",
    "connect",
    "holds_any",
    "messages_on",
]
