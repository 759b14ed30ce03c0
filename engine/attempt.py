"""One hand-out of a stored delivery, and how much time it has. ``now`` is microseconds since the epoch."""

from __future__ import annotations

import math
from dataclasses import replace

from msgspec import Struct
from nats.aio.msg import Msg

from .broker import MessageMetadata, message_metadata
from .codec import decode_delivery
from .due import attempts_before
from .model import Delivery
from .retry import RetryPolicy

_EARLY = 1.0  # seconds by which the broker may hand out too early what waited


class DeliveryAttempt(Struct, frozen=True, kw_only=True):
    """One message of the delivery stream, read."""

    msg: Msg
    metadata: MessageMetadata
    delivery: Delivery
    number: int  # from 1
    channel_retry: RetryPolicy  # of its channel

    @classmethod
    def read(cls, msg: Msg, channel: RetryPolicy) -> DeliveryAttempt:
        """Raises UndecodableError for a message that holds no delivery."""
        handed = message_metadata(msg.reply)
        number = attempts_before(msg) + handed.num_delivered
        return cls(
            msg=msg, metadata=handed, delivery=decode_delivery(msg.data), number=number, channel_retry=channel
        )

    @property
    def id(self) -> str:
        """Tells it from every other attempt, also at a copy of the same delivery."""
        return f"{self.delivery.id}.{self.metadata.sequence}.{self.metadata.num_delivered}"

    @property
    def retry(self) -> RetryPolicy:
        """The channel's, within the time that the delivery has before its fall-back goes on."""
        within = self.delivery.fallback_after
        return (
            replace(self.channel_retry, deadline=min(self.channel_retry.deadline, within))
            if within
            else self.channel_retry
        )

    def age(self, now: int) -> float:
        """Seconds since the broker took the event, or since it was brought back or took over."""
        return max(0.0, (now - self.delivery.deadline_start) / 1e6)

    def is_late(self, now: int) -> bool:
        """Whether it must not begin any more."""
        early = _EARLY if self.delivery.fallbacks and self.number > 1 else 0.0
        return self.age(now) > self.retry.deadline - early

    def seconds_until_fallback(self, now: int) -> float:
        """Seconds after which a fall-back goes on; without one there is no hurry."""
        return max(0.0, self.retry.deadline - self.age(now)) if self.delivery.fallbacks else math.inf
