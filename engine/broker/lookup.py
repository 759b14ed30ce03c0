"""Reading what lies on one subject of a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator

import nats.errors
import nats.js.errors
from nats.js.api import RawStreamMsg

from ..errors import BrokerError
from .connection import Connection


async def messages_on(connection: Connection, stream: str, subject: str) -> AsyncIterator[RawStreamMsg]:
    """The messages on ``subject``, oldest first, one round trip each. Raises BrokerError.

    The stream's leader is asked: a follower might not have heard yet of what was stored a moment ago.
    """
    sequence = 1
    while True:
        try:
            msg = await connection.js.get_msg(stream, seq=sequence, subject=subject, next=True)
        except nats.js.errors.NotFoundError:
            return
        except (nats.errors.Error, TimeoutError) as error:
            raise BrokerError(f"{stream} cannot be read: {error or 'no answer'}") from error
        yield msg
        sequence = (msg.seq or sequence) + 1
