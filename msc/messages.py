"""Messages to send, and the payload of one reply."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import errors, wire
from .errors import InvalidMessage

_MAX_SUBJECT = 1024  # bytes; the broker closes the connection if a command has 4096
_UNUSABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f*>\ud800-\udfff]")
_REQID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_ENVELOPE = len(wire.seal(b"", time=10**15, reqid=""))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientMessage:
    """A notice, audit, log record or request. It gets its time when it is sent."""

    subject: str
    reqid: str
    payload: bytes  # JSON

    @property
    def size(self) -> int:
        """Bytes of the subject and the envelope."""
        return len(self.subject.encode()) + self.body_size

    @property
    def body_size(self) -> int:
        """Bytes of the envelope. A time has 16 digits until the year 2286; a reqid needs no escapes."""
        return _ENVELOPE + len(self.reqid) + len(self.payload)

    def body(self, now: int) -> bytes:
        """Return the envelope. ``now`` is the time of sending, in µs: the server refuses older messages."""
        return wire.seal(self.payload, time=now, reqid=self.reqid)


def compose(
    prefix: str, kind: str, key: str, payload: Mapping[str, Any] | None, reqid: str | None = None
) -> ClientMessage:
    """Return the message of ``kind`` (action, notice, audit, log) for ``key``. Raises InvalidMessage.

    The payload is encoded here, so later changes to it have no effect.
    """
    subject = f"{prefix}.{kind}"
    if key or kind != "log":
        subject += f".{require_key(key, 'key')}"
    if len(subject.encode()) > _MAX_SUBJECT:
        raise InvalidMessage(f"the key is too long: a subject has at most {_MAX_SUBJECT} bytes")
    if reqid is not None and not (isinstance(reqid, str) and _REQID.fullmatch(reqid)):
        raise InvalidMessage("a reqid has 1 to 128 characters of A-Z a-z 0-9 . _ : -")
    if payload is not None and not isinstance(payload, Mapping):
        raise InvalidMessage(f"the payload is a {type(payload).__name__}, not an object")
    try:
        body = wire.encode_payload(None if payload is None else dict(payload))
    except errors.WireError as error:
        raise InvalidMessage(f"the payload cannot be sent: {error}") from error
    return ClientMessage(subject=subject, reqid=reqid or new_reqid(), payload=body)


def clock() -> int:
    """Return the time in microseconds since the epoch."""
    return time.time_ns() // 1000


def new_reqid() -> str:
    """Return a unique id of 32 lower-case hex digits."""
    return uuid.uuid4().hex


def require_key(key: str, what: str) -> str:
    """Return ``key`` if it can be part of a subject. Raises InvalidMessage."""
    if not isinstance(key, str):
        raise TypeError(f"the {what} is a {type(key).__name__}, not a string")
    if not all(key.split(".")) or _UNUSABLE.search(key):
        raise InvalidMessage(
            f"{key!r} is not a valid {what}: use names with dots between them, without spaces, wildcards or "
            "control characters"
        )
    return key


@dataclass(frozen=True, slots=True, kw_only=True)
class IPLocation:
    """The location of an IP address. All fields are "" or 0 if the database does not have the address."""

    continent: str = ""
    country: str = ""
    city: str = ""
    longitude: float = 0.0  # degrees, east positive
    latitude: float = 0.0  # degrees, north positive
    timezone: str = ""  # IANA name

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any] | None) -> IPLocation:
        """Parse a reply. Keys match in any case; null is "" or 0. Raises ValueError for a wrong type."""
        given = {str(key).casefold(): value for key, value in (payload or {}).items() if value is not None}
        return cls(
            **{name: _text(given, name) for name in ("continent", "country", "city", "timezone")},
            longitude=_number(given, "longitude"),
            latitude=_number(given, "latitude"),
        )


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a string")  # noqa: TRY004 -- a wrong reply, not a wrong call
    return value


def _number(given: Mapping[str, Any], name: str) -> float:
    value = given.get(name, 0)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{name} is not a number")  # noqa: TRY004
    return float(value)
