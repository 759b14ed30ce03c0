"""Messages to send, checked, and the payloads that both sides know by name."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import errors, wire
from .errors import InvalidMessage

_MAX_SUBJECT = 1024  # bytes; the broker closes the connection at a command of 4096
_UNUSABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f*>\ud800-\udfff]")
_REQID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_ENVELOPE = len(wire.seal(b"", time=10**15, reqid=""))

IPLOCATION = "iplocation"  # action
SENDVERIFYEMAIL = "sendverifyemail"  # action
ACCOUNTADDEMAIL = "accountaddemail"  # audit


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientMessage:
    """A notice, audit, log record or request, before it gets its time."""

    subject: str
    reqid: str
    payload: bytes  # JSON

    @property
    def size(self) -> int:
        """Bytes of the subject and the envelope."""
        return len(self.subject.encode()) + self.body_size

    @property
    def body_size(self) -> int:
        """Bytes of the envelope: a time has 16 digits until the year 2286, a reqid nothing to escape."""
        return _ENVELOPE + len(self.reqid) + len(self.payload)

    def body(self, now: int) -> bytes:
        """The envelope with the time ``now`` (µs): when it goes, as the server refuses what is 10 s old."""
        return wire.seal(self.payload, time=now, reqid=self.reqid)


def compose(
    prefix: str, kind: str, key: str, payload: Mapping[str, Any] | None, reqid: str | None = None
) -> ClientMessage:
    """The message of ``kind`` (action, notice, audit, log) under ``key``. Raises InvalidMessage.

    The payload is encoded here: what is done to it afterwards does not matter.
    """
    subject = f"{prefix}.{kind}"
    if key or kind != "log":
        subject += f".{require_key(key, 'key')}"
    if len(subject.encode()) > _MAX_SUBJECT:
        raise InvalidMessage(f"the key is too long: a subject has at most {_MAX_SUBJECT} bytes")
    if reqid is not None and not (isinstance(reqid, str) and _REQID.fullmatch(reqid)):
        raise InvalidMessage("a reqid is up to 128 of A-Z a-z 0-9 . _ : -")
    if payload is not None and not isinstance(payload, Mapping):
        raise InvalidMessage(f"the payload is a {type(payload).__name__}, not an object")
    try:
        body = wire.encode_payload(None if payload is None else dict(payload))
    except errors.WireError as error:
        raise InvalidMessage(f"the payload cannot be sent: {error}") from error
    return ClientMessage(subject=subject, reqid=reqid or new_reqid(), payload=body)


def clock() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


def new_reqid() -> str:
    """32 lower-case hex digits that nobody else has."""
    return uuid.uuid4().hex


def require_key(key: str, what: str) -> str:
    """``key`` if it can be part of a subject. Raises InvalidMessage."""
    if not isinstance(key, str):
        raise TypeError(f"the {what} is a {type(key).__name__}, not a string")
    if not all(key.split(".")) or _UNUSABLE.search(key):
        raise InvalidMessage(
            f"{key!r} is no {what}: words with dots between, without spaces, wildcards or control characters"
        )
    return key


@dataclass(frozen=True, slots=True, kw_only=True)
class IPLocation:
    """Where an IP address is. An address that the database does not know has "" and 0 everywhere."""

    continent: str = ""
    country: str = ""
    city: str = ""
    longitude: float = 0.0  # degrees, east positive
    latitude: float = 0.0  # degrees, north positive
    timezone: str = ""  # IANA name

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any] | None) -> IPLocation:
        """Raises ValueError, naming the field, for a wrong type. Keys in any case, null is the zero value."""
        given = {str(key).casefold(): value for key, value in (payload or {}).items() if value is not None}
        return cls(
            **{name: _text(given, name) for name in ("continent", "country", "city", "timezone")},
            longitude=_number(given, "longitude"),
            latitude=_number(given, "latitude"),
        )


def iplocation(ipaddr: str, locale: str = "") -> dict[str, Any]:
    """The payload that asks where ``ipaddr`` is, with names in ``locale`` (``zh-CN``; else English)."""
    return {"ipaddr": ipaddr, "locale": locale}


def sendverifyemail(
    *, subject: str, userid: str, to: str, href: str, locale: str, expire: str
) -> dict[str, Any]:
    """The payload that has a verification mail sent; ``expire`` is a text such as "24 hours"."""
    return {"subject": subject, "userid": userid, "to": to, "href": href, "locale": locale, "expire": expire}


def accountaddemail(
    *, newemail: str, userid: str, httpurl: str, locale: str, mailto: Sequence[str] | None, subject: str
) -> dict[str, Any]:
    """The payload that says that ``newemail`` was added to an account; ``mailto`` is to be told."""
    if isinstance(mailto, str):
        raise TypeError("mailto is a list of addresses, not one")
    return {
        "newemail": newemail,
        "userid": userid,
        "httpurl": httpurl,
        "locale": locale,
        "mailto": None if mailto is None else list(mailto),
        "subject": subject,
    }


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a string")  # noqa: TRY004 -- the other side's mistake, not misuse
    return value


def _number(given: Mapping[str, Any], name: str) -> float:
    value = given.get(name, 0)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{name} is not a number")  # noqa: TRY004
    return float(value)
