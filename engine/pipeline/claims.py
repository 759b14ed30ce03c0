"""Claims: which attempts have begun, for deliveries where that matters after a crash.

A delivery that must not go out twice is claimed before the send, by an atomic write. A claim without a
known failure belongs to a worker that crashed or still sends: nobody can say whether the message went out.
A delivery with a fallback records its attempts too, since an attempt that never began did not go out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import nats.errors
import nats.js.errors
from nats.js.kv import KeyValue

from ..model.errors import BrokerError
from ..model.messages import Delivery

WasNotSent = Callable[[int], Awaitable[bool]]  # of an attempt, from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptClaims:
    """The claims on deliveries, in a bucket of all replicas."""

    bucket: KeyValue

    async def claim(
        self, delivery: str, attempt: int, was_not_sent: Callable[[int], Awaitable[bool]]
    ) -> bool:
        """Claim ``attempt`` of ``delivery``; False where an earlier one may have sent it.

        ``was_not_sent`` says whether the history has an attempt as one that did not go out. Raises
        BrokerError: nothing may be sent.
        """
        key, value = f"delivery.{delivery}", str(attempt).encode()
        try:
            try:
                await self.bucket.create(key, value)
            except nats.js.errors.KeyWrongLastSequenceError:
                entry = await self.bucket.get(key)
                if not await was_not_sent(int(entry.value or b"0")):
                    return False
                await self.bucket.update(key, value, last=entry.revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            return False  # another worker was quicker
        except (nats.errors.Error, TimeoutError) as error:
            raise BrokerError(f"no claim can be made: {error or 'no answer'}") from error
        return True

    async def note(self, delivery: str, attempt: int) -> None:
        """Write down that ``attempt`` of ``delivery`` begins. Raises BrokerError: nothing may be sent."""
        try:
            await self.bucket.put(f"delivery.{delivery}", str(attempt).encode())
        except (nats.errors.Error, TimeoutError) as error:
            raise BrokerError(f"no attempt can be noted: {error or 'no answer'}") from error

    async def begun(self, delivery: str) -> int:
        """The last attempt of ``delivery`` that was claimed or noted; 0: none was. Raises BrokerError."""
        try:
            return int((await self.bucket.get(f"delivery.{delivery}")).value or b"0")
        except nats.js.errors.KeyNotFoundError:
            return 0
        except (nats.errors.Error, TimeoutError) as error:
            raise BrokerError(f"the ledger cannot be asked: {error or 'no answer'}") from error

    async def is_first_back(self, delivery: Delivery) -> bool:
        """Whether no other command has brought the same dead letter back. Raises BrokerError.

        The stream drops the second within its window; a command that was killed before it removed the
        letter may be run again much later.
        """
        revival = delivery.redrive
        if revival is None:
            return True
        key, value = f"letter.{revival.letter}.{delivery.id}", str(revival.at).encode()
        try:
            try:
                await self.bucket.create(key, value)
            except nats.js.errors.KeyWrongLastSequenceError:
                return (await self.bucket.get(key)).value == value
        except (nats.errors.Error, TimeoutError) as error:
            raise BrokerError(f"the ledger cannot be asked: {error or 'no answer'}") from error
        return True
