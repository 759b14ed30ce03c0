"""NATS and JetStream, as MSS uses them.

handout      what the broker says of a message that it hands out
connection   one client, and the news when it is lost for good
topology     the names of streams, durables, buckets and subjects
groundwork   all of them, created and checked at start
moment       what several tasks write comes together
publisher    many messages at once, each known to be stored
cells        values that all replicas change
lookup       what lies on one subject of a stream
bugs         how many one message is forgiven
consumer     a durable pull consumer that never stops pulling and never holds too much
"""

from msc.wire import RESENT_HEADER

from .cells import AtomicStore
from .connection import Connection, connect
from .consumer import Consumer, Handle
from .groundwork import Provisioner
from .handout import MessageMetadata, message_metadata
from .lookup import messages_on
from .publisher import OutgoingMessage, PendingAck, Publisher
from .topology import Topology

__all__ = [
    "RESENT_HEADER",
    "AtomicStore",
    "Connection",
    "Consumer",
    "Handle",
    "MessageMetadata",
    "OutgoingMessage",
    "PendingAck",
    "Provisioner",
    "Publisher",
    "Topology",
    "connect",
    "message_metadata",
    "messages_on",
]
