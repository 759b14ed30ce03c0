"""Deliveries as they lie in a stream: JSON, read back strictly."""

from __future__ import annotations

from typing import Any

import msgspec

from .errors import UndecodableError
from .model import Delivery

_encoder = msgspec.json.Encoder()
_deliveries = msgspec.json.Decoder(Delivery)


def encode(value: Any) -> bytes:
    """Compact JSON of a dataclass or plain value; bytes become base64."""
    return _encoder.encode(value)


def decode_delivery(data: bytes) -> Delivery:
    """The delivery in ``data``. Raises UndecodableError when it is none."""
    try:
        return _deliveries.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise UndecodableError("bad-delivery", str(error)) from error
