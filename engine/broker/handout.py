"""What the broker says of a message that it hands out from a stream; it says so in the reply subject."""

from __future__ import annotations

from msgspec import Struct

_SHORT = 9  # tokens of a reply subject that names neither domain nor account


class MessageMetadata(Struct, frozen=True, gc=False):
    """One message of a stream, handed out once."""

    sequence: int  # in its stream
    num_delivered: int  # how often it was handed out, this time included
    stored_at: int  # when the broker took it, microseconds since the epoch


def message_metadata(reply: str) -> MessageMetadata:
    """Read ``$JS.ACK.[domain.account.]stream.consumer.number.sequence.sequence.nanoseconds.pending``.

    nats-py's ``metadata`` says the same, with a datetime and in five times the time.
    """
    tokens = reply.split(".")
    at = 4 if len(tokens) == _SHORT else 6
    return MessageMetadata(int(tokens[at + 1]), int(tokens[at]), int(tokens[at + 3]) // 1000)
