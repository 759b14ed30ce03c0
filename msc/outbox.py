"""Messages that wait for the broker to come back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

from .message import ClientMessage


class Outbox:
    """A queue of messages, bounded in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit  # bytes
        self.size = 0  # bytes
        self._messages: deque[ClientMessage] = deque()

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[ClientMessage]:
        return iter(self._messages)

    def has_room(self, message: ClientMessage) -> bool:
        return self.size + message.size <= self.limit

    def append(self, message: ClientMessage) -> None:
        self._messages.append(message)
        self.size += message.size

    def peek(self, size: int) -> list[ClientMessage]:
        """The first message, and those after it as long as all are at most ``size`` bytes."""
        batch = list(islice(self._messages, 1))
        total = sum(message.size for message in batch)
        for message in islice(self._messages, 1, None):
            total += message.size
            if total > size:
                break
            batch.append(message)
        return batch

    def drop(self, count: int) -> None:
        """Forget the first ``count`` messages."""
        for _ in range(count):
            self.size -= self._messages.popleft().size
