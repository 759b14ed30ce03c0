"""Deliveries that wait for long, kept by the broker until they are due.

Each lies in the timer stream as a message that the broker publishes again at its time. From there it
goes back to its channel, with the number of attempts that it has behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from nats.aio.msg import Msg

from .broker import OutgoingMessage, PendingAck, Publisher, Topology, message_metadata
from .codec import encode
from .draft import DigestTimer
from .model import Delivery

ATTEMPTS = "Mss-Attempts"  # header: attempts that were made before the message was published
_ID = "Mss-Delivery"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def attempts_before(msg: Msg) -> int:
    """How many attempts a message of the delivery stream has behind it."""
    text = (msg.headers or {}).get(ATTEMPTS, "0")
    return int(text) if text.isdecimal() else 0


def delivery_timer(
    topology: Topology, delivery: Delivery, payload: bytes, *, attempts: int, at: int
) -> OutgoingMessage:
    """The message that brings ``delivery`` back at ``at``, microseconds since the epoch."""
    return OutgoingMessage(
        subject=topology.timer_subject("delivery", delivery.id),
        payload=payload,
        id=f"timer.{delivery.id}.{attempts}.{at}",
        headers={
            "Nats-Schedule": _schedule(at),
            "Nats-Schedule-Target": topology.due_subject(
                "delivery", topology.delivery_subject(delivery.kind, delivery.channel)
            ),
            ATTEMPTS: str(attempts),
            _ID: delivery.id,
        },
    )


def _schedule(at: int) -> str:
    """``at`` as the broker's header says it. It knows whole seconds: never too early."""
    when = _EPOCH + timedelta(seconds=-(-at // 1_000_000))
    return f"@at {when:%Y-%m-%dT%H:%M:%S}Z"


def digest_timer(topology: Topology, wanted: DigestTimer, *, by: str = "") -> OutgoingMessage:
    """The message that says, at its time, that a digest is due. A later one of the same key replaces it.

    ``by`` tells it from others with the same key and time.
    """
    return OutgoingMessage(
        subject=topology.timer_subject("digest", wanted.key),
        payload=encode(wanted),
        id=f"alarm.{wanted.key}.{wanted.at}.{by}",
        headers={
            "Nats-Schedule": _schedule(wanted.at),
            "Nats-Schedule-Target": topology.due_subject("digest", wanted.key),
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayedForwarder:
    """Moves deliveries that are due back to their channels."""

    topology: Topology
    publisher: Publisher

    def handle(self, msg: Msg) -> PendingAck:
        headers = msg.headers or {}
        attempts, id_ = headers.get(ATTEMPTS, "0"), headers.get(_ID, "")
        delivery = OutgoingMessage(
            subject=self.topology.delivery_of_due(msg.subject),
            payload=msg.data,
            id=f"{id_}.{attempts}.{message_metadata(msg.reply).sequence}",
            headers={ATTEMPTS: attempts},
        )
        return PendingAck(publisher=self.publisher, messages=(delivery,))
