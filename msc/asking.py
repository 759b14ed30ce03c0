"""One request over a connection that may drop, close, or forbid it meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import nats.errors
from nats.aio.msg import Msg

from .errors import NoResponders, NotConnected, RequestTimeout
from .message import ClientMessage, clock
from .session import NatsClient, error_text
from .troubles import NatsErrors


async def request_once(
    session: NatsClient,
    troubles: NatsErrors,
    message: ClientMessage,
    *,
    limit: float,
    headers: Mapping[str, str] | None,
    resend: bool,
) -> Msg | None:
    """The first answer within ``limit`` seconds; None when the connection dropped and ``resend`` is set.

    Raises NoResponders, RequestTimeout, NotConnected, and what the broker has against it.
    """
    with troubles.request(message.subject) as failed:
        asking = asyncio.create_task(
            session.client.request(
                message.subject,
                message.body(clock()),
                timeout=limit,
                headers=dict(headers) if headers else None,
            ),
            name="msc-request",
        )
        dropped = asyncio.create_task(session.dropped.wait(), name="msc-dropped")
        watched: set[asyncio.Future[Any]] = {asking, failed, dropped} if resend else {asking, failed}
        try:
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                return asking.result()
        except nats.errors.NoRespondersError:
            raise NoResponders(f"nobody serves {message.subject}") from None
        except TimeoutError:
            raise RequestTimeout(f"no answer from {message.subject} within {limit:.3g} s") from None
        except nats.errors.Error as error:
            raise NotConnected(error_text(error)) from error
        finally:
            asking.cancel()
            dropped.cancel()
            await asyncio.gather(asking, dropped, return_exceptions=True)
        if failed.done():
            raise failed.result()
    return None
