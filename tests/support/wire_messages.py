"""Messages as the original Go client encodes them."""

from __future__ import annotations

import json
import time
from typing import Any
from uuid import uuid4

from msc import wire


def envelope(payload: Any, *, reqid: str | None = None, sent: int | None = None) -> bytes:
    """Return a message as the original client publishes it."""
    message = {
        "version": "0.1.1",
        "time": time.time_ns() // 1000 if sent is None else sent,
        "reqid": uuid4().hex if reqid is None else reqid,
        "payload": payload,
    }
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()


def login(number: int = 1, **more: Any) -> dict[str, Any]:
    """Return the payload of an unusual sign-in of user ``number``."""
    return {
        "userid": f"u{number}",
        "mailto": f"u{number}@example.com",
        "phone": f"+86138{number:08d}",
        "locale": "en",
        "ip": "203.0.113.9",
        "city": "Singapore",
        "result": "success",
        **more,
    }


def encode_request(request: wire.Request) -> bytes:
    """Return a request as Go encodes it, byte by byte. Raises WireError."""
    payload = wire.encode_payload(request.payload)
    return wire.seal(payload, version=request.version, time=request.time, reqid=request.reqid)
