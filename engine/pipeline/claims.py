"""Claims: which attempts have begun, for deliveries where that matters after a crash.

A delivery that must not go out twice is claimed before the send, by an atomic write. A claim without a
known failure belongs to a worker that crashed or still sends: whether the message was sent is unknown.
A delivery with a fallback records its attempts too, since an attempt that never began did not go out.
If a claim or a record fails, nothing may be sent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..broker import Bucket
from ..model.errors import BrokerError
from ..model.messages import Delivery


@dataclass(frozen=True, slots=True)
class AttemptClaims:
    """The claims on deliveries, in the bucket of all replicas. Every method raises BrokerError."""

    bucket: Bucket

    async def claim(
        self, delivery: str, attempt: int, was_not_sent: Callable[[int], Awaitable[bool]]
    ) -> bool:
        """Claim ``attempt`` of ``delivery``; False if an earlier attempt or another worker may send it.

        ``was_not_sent`` returns whether the history records an attempt, from 1, as not sent.
        """
        key, value = _key(delivery), _encode(attempt)
        if await self.bucket.put(key, value, last=0):
            return True
        present = await self.bucket.get(key)
        if not present.revision:
            raise BrokerError(f"{key}: the server that was asked has not stored the earlier claim yet")
        if present.data and not await was_not_sent(int(present.data)):
            return False
        return bool(await self.bucket.put(key, value, last=present.revision))

    async def note(self, delivery: str, attempt: int) -> None:
        """Record that ``attempt`` of ``delivery`` begins."""
        await self.bucket.put(_key(delivery), _encode(attempt))

    async def begun(self, delivery: str) -> int:
        """Return the last attempt of ``delivery`` that was claimed or recorded; 0 if none was."""
        return int((await self.bucket.get(_key(delivery))).data or b"0")

    async def is_first_back(self, delivery: Delivery) -> bool:
        """Return whether no other command has redriven the same dead letter.

        The stream drops a second copy within its window. A command that was killed before it removed the
        dead letter may be run again much later.
        """
        redrive = delivery.redrive
        if redrive is None:
            return True
        key, value = f"redrive.{redrive.dead_letter}.{delivery.id}", _encode(redrive.at)
        found, _ = await self.bucket.update(key, lambda data: (None if data else value, data or value))
        return found == value


def _key(delivery: str) -> str:
    return f"delivery.{delivery}"


def _encode(number: int) -> bytes:
    return str(number).encode()
