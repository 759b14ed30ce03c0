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

from msc.wire import AGAIN

from .cells import Cells
from .connection import Connection, connect
from .consumer import Consumer, Handle
from .groundwork import Groundwork
from .handout import Handout, handout
from .lookup import messages_on
from .publisher import Outgoing, Publisher, Settlement
from .topology import Topology

__all__ = [
    "AGAIN",
    "Cells",
    "Connection",
    "Consumer",
    "Groundwork",
    "Handle",
    "Handout",
    "Outgoing",
    "Publisher",
    "Settlement",
    "Topology",
    "connect",
    "handout",
    "messages_on",
]
