"""Messages that wait for the broker to come back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

from .message import Message


class Outbox:
    """A queue of messages, bounded in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit  # bytes
        self.size = 0  # bytes
        self._messages: deque[Message] = deque()

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._messages)

    def has_room(self, message: Message) -> bool:
        return self.size + message.size <= self.limit

    def append(self, message: Message) -> None:
        self._messages.append(message)
        self.size += message.size

    def first(self, size: int) -> list[Message]:
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
