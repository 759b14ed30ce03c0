"""The client of MSS, a message service on NATS.

    async with msc.connect("nats://127.0.0.1:4222") as client:
        await client.notice("login.abnormal", {"userid": "bob"})

``msc.blocking`` has the same client for programs without an event loop.
"""

from __future__ import annotations

from .client import PREFIX, Client, connect
from .errors import (
    ActionFailed,
    BufferFull,
    ConnectError,
    InvalidMessage,
    MessageTooLarge,
    MscError,
    NoResponders,
    NotConfirmed,
    NotConnected,
    PermissionDenied,
    ReplyInvalid,
    RequestError,
    RequestTimeout,
)
from .messages import IPLocation, new_reqid
from .options import TLS, ConnectOptions

__version__ = "0.1.0"

__all__ = [
    "PREFIX",
    "TLS",
    "ActionFailed",
    "BufferFull",
    "Client",
    "ConnectError",
    "ConnectOptions",
    "IPLocation",
    "InvalidMessage",
    "MessageTooLarge",
    "MscError",
    "NoResponders",
    "NotConfirmed",
    "NotConnected",
    "PermissionDenied",
    "ReplyInvalid",
    "RequestError",
    "RequestTimeout",
    "__version__",
    "connect",
    "new_reqid",
]
