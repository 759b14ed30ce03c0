"""How many bugs one message is forgiven.

They are counted, and not how often a message was handed out: that may be the broker's trouble, or a
process that was killed over something else.
"""

from __future__ import annotations

from collections import Counter

from nats.aio.msg import Msg

from .handout import message_metadata

_FORGIVEN = 4  # of one message, by this process
_MAX_TRACKED_MESSAGES = 1000  # messages whose bugs are remembered


class ErrorBudget:
    """The bugs that the messages of one stream have met."""

    def __init__(self) -> None:
        self._met: Counter[int] = Counter()  # by sequence in the stream

    def allows_retry(self, msg: Msg) -> bool:
        """Count one more; whether ``msg`` may come again."""
        sequence = message_metadata(msg.reply).sequence
        self._met[sequence] += 1
        if len(self._met) > _MAX_TRACKED_MESSAGES:
            del self._met[next(iter(self._met))]
        return self._met[sequence] <= _FORGIVEN
