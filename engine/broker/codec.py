"""Decode events from the broker, and encode and decode deliveries as strict JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from msc import errors, wire

from ..model.errors import UndecodableError
from ..model.messages import HOPS, MAX_HOPS, Delivery, Event, Kind, RedriveId
from ..model.subjects import valid_key
from ..rules.catalog import Catalogue

_encoder = msgspec.json.Encoder()
_deliveries = msgspec.json.Decoder(Delivery)

_DEAD_LETTER, _REDRIVEN_AT, _RECEIVED = "Mss-Dead-Letter", "Mss-Redriven-At", "Mss-Received"
_RULE, _CHANNEL, _DELIVERY = "Mss-Rule", "Mss-Channel", "Mss-Delivery"
_DEAD_LETTER_ID = re.compile(r"[0-9]+-[0-9]+", re.ASCII)


def encode(value: Any) -> bytes:
    """Compact JSON of a dataclass or plain value; bytes become base64."""
    return _encoder.encode(value)


def decode_delivery(data: bytes) -> Delivery:
    """Decode a delivery. Raises UndecodableError."""
    try:
        return _deliveries.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise UndecodableError("bad-delivery", str(error)) from error


def decode_event(
    data: bytes,
    *,
    kind: Kind,
    key: str,
    received: int,
    tolerance: float,
    catalogue: Catalogue,
    headers: Mapping[str, str] | None = None,
) -> Event:
    """Decode an event. Raises UndecodableError with the reason for the dead letter.

    ``received`` is the broker's clock in microseconds, against which the sender's is judged:
    ``tolerance`` seconds both ways. How long the event waited in the stream does not matter.
    """
    if key and not valid_key(key):
        raise UndecodableError("bad-subject", f"{key!r} is no key")
    try:
        request = wire.decode_request(data)
        wire.check_request(request, received=received, tolerance=int(tolerance * 1e6))
    except errors.WireError as error:
        raise UndecodableError(error.reason, str(error)) from error
    payload = {} if request.payload is None else request.payload
    if not isinstance(payload, dict):
        raise UndecodableError("payload-not-object", "the payload is not an object")
    name = f"{kind}.{key}" if key else str(kind)
    return Event(
        kind=kind,
        key=key,
        reqid=request.reqid,
        payload=catalogue.canonical(name, payload),
        sent=request.time,
        received=received,
        hops=_read_hops(headers),
    )


def _read_hops(headers: Mapping[str, str] | None) -> int:
    """Return the hop count of an event: too large if the header is not a number."""
    text = (headers or {}).get(HOPS, "0")
    return int(text) if text.isdecimal() and len(text) < 10 else MAX_HOPS + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Redrive:
    """The redrive of an event, from its headers."""

    id: RedriveId
    received: int  # when the broker first received the event, microseconds since the epoch
    rule: str = ""  # as in the header; if it is set, only this rule is planned,
    channel: str = ""  # only for this channel,
    delivery: str = ""  # and only this delivery, if it is still planned

    @property
    def is_partial(self) -> bool:
        """True if one rule is redriven: the rest of the event was planned before."""
        return bool(self.rule)


def redrive_of(headers: Mapping[str, str] | None) -> Redrive | None:
    """Return the redrive that the headers of an event name; None for an event that was not a dead letter.

    Anybody who may publish the event may write them: what they say can only take away from it.
    """
    if not headers or _DEAD_LETTER not in headers:
        return None
    dead_letter, at, received = (headers.get(name, "") for name in (_DEAD_LETTER, _REDRIVEN_AT, _RECEIVED))
    if not (_DEAD_LETTER_ID.fullmatch(dead_letter) and _is_time(at) and _is_time(received)):
        return None
    return Redrive(
        id=RedriveId(dead_letter=dead_letter, at=int(at)),
        received=int(received),
        rule=headers.get(_RULE, ""),
        channel=headers.get(_CHANNEL, ""),
        delivery=headers.get(_DELIVERY, ""),
    )


def redrive_headers(redrive: Redrive) -> dict[str, str]:
    """Return the headers of a redriven event, from which ``redrive_of`` reads ``redrive``."""
    headers = {
        _DEAD_LETTER: redrive.id.dead_letter,
        _REDRIVEN_AT: str(redrive.id.at),
        _RECEIVED: str(redrive.received),
    }
    if redrive.is_partial:
        headers |= {_RULE: redrive.rule, _CHANNEL: redrive.channel, _DELIVERY: redrive.delivery}
    return headers


def _is_time(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 18
