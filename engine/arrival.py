"""An event as a message of a stream brings it."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from nats.aio.msg import Msg

from msc import wire

from .broker import MessageMetadata
from .catalogue import Catalogue
from .dead import Redrive
from .errors import UndecodableError
from .gates import event_fingerprint
from .model import HOPS, MAX_HOPS, Event, Kind, RedriveId
from .rulebook import Rulebook
from .subjects import valid_key


class ReceivedEvent(Struct, frozen=True, kw_only=True):
    """One event in hand."""

    msg: Msg
    metadata: MessageMetadata
    redrive: Redrive | None  # it was a dead letter
    event: Event
    rulebook: Rulebook  # by which it is planned
    at: int  # when it was taken in hand, by which hours and limits judge; microseconds since the epoch

    @property
    def redrive_id(self) -> RedriveId | None:
        return self.redrive.id if self.redrive else None

    @property
    def message_id(self) -> str:
        """Tells the message from every other, and not from itself when it is handed out again."""
        return f"{self.event.kind}.{self.metadata.sequence}"

    @property
    def event_run_id(self) -> str:
        """Tells the event from every other, and not from itself however often it was published."""
        life = f".{self.redrive_id.at}" if self.redrive_id else ""
        return f"{event_fingerprint(self.event)}{life}"

    @property
    def is_partial(self) -> bool:
        """Whether the rest of the event was planned before."""
        return self.redrive is not None and self.redrive.is_partial


def decode_event(
    data: bytes,
    *,
    kind: Kind,
    key: str,
    received: int,
    tolerance: float,
    catalogue: Catalogue,
    hops: int = 0,
) -> Event:
    """The event in ``data``. Raises UndecodableError with the reason that the dead letter carries.

    ``received`` is the broker's clock in microseconds, against which the sender's is judged:
    ``tolerance`` seconds both ways. How long the event waited in the stream does not matter.
    """
    if key and not valid_key(key):
        raise UndecodableError("bad-subject", f"{key!r} is no key")
    try:
        request = wire.decode_request(data)
        wire.check_request(request, received=received, tolerance=int(tolerance * 1e6))
    except wire.WireError as error:
        raise UndecodableError(error.reason, str(error)) from error
    payload = {} if request.payload is None else request.payload
    if not isinstance(payload, dict):
        raise UndecodableError("payload-not-object", "the payload is not an object")
    name = f"{kind}.{key}" if key else str(kind)
    return Event(
        kind=kind,
        key=key,
        reqid=request.reqid,
        payload=catalogue.canonical(name, payload),
        sent=request.time,
        received=received,
        hops=hops,
    )


def read_hops(headers: Mapping[str, str] | None) -> int:
    """How many messages of MSS's own led to an event; more than it may be where nobody can say."""
    text = (headers or {}).get(HOPS, "0")
    return int(text) if text.isdecimal() and len(text) < 10 else MAX_HOPS + 1
