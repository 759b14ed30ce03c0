"""The wire protocol: the envelope around every message, read and written as the Go client does.

A request, also the form of a notice, an audit and a log record, is compact JSON without headers::

    {"version":"0.1.1","time":<µs since the epoch>,"reqid":"<32 hex>","payload":{...}}

A reply is ``{"version":…,"time":…,"reqid":…,"code":<int32>,"message":"…","payload":<object or null>}``.

This module is pure: no clock, no randomness, no I/O. Everything it raises is a WireError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from . import gojson
from .errors import Code, WireError

VERSION = "0.1.1"
RESENT_HEADER = "Mss-Possible-Duplicate"  # header: the stream may have the message already


@dataclass(frozen=True, slots=True)
class Request:
    """A message of an application."""

    version: str
    time: int  # the sender's clock, microseconds since the epoch
    reqid: str
    payload: Any  # any JSON; applications send an object or None


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply of an action."""

    version: str
    time: int  # the server's clock, microseconds since the epoch
    reqid: str  # the request's
    code: int  # 0 is success
    message: str
    payload: dict[str, Any] | None


def decode_request(data: bytes) -> Request:
    """Decode a request as leniently as Go.

    Keys match in any case; unknown keys are ignored; the last of a repeated key wins. A field that is null or
    missing has its zero value. Integers stay exact. Raises WireError.
    """
    fields = gojson.load_fields(data, _REQUEST_FIELDS)
    return Request(
        _text(fields, "version"), _integer(fields, "time", 64), _text(fields, "reqid"), fields.get("payload")
    )


def check_request(request: Request, *, received: int, tolerance: int) -> None:
    """Raise WireError, with the code and the message of the reply, if a request must be refused.

    ``received`` is the time of the broker; the clock of the sender may differ by ``tolerance`` in both
    directions. Both are in microseconds.
    """
    if request.version != VERSION:
        _check_version(request.version)
    if abs(request.time - received) > tolerance:
        raise WireError(f"request time {request.time} invalid", reason="bad-time", code=Code.TIME)
    if not request.reqid:
        raise WireError("request missing reqid", reason="missing-reqid", code=Code.REQID)


def encode_payload(payload: Any) -> bytes:
    """Encode a payload for ``seal``. Raises WireError.

    Floats are in the format of Python (``1.0`` where Go has ``1``), and keys keep their order. A lone
    surrogate becomes U+FFFD.
    """
    return gojson.dumps(payload, inside=1).encode()


def seal(payload: bytes, *, time: int, reqid: str, version: str = VERSION) -> bytes:
    """Put an encoded payload into its envelope. A buffered message gets its time here."""
    head = (
        f'{{"version":{_dump_text(version, "version")},"time":{_dump_integer(time, "time", 64)}'
        f',"reqid":{_dump_text(reqid, "reqid")},"payload":'
    )
    return b"%b%b}" % (head.encode(), payload)


def decode_reply(data: bytes) -> Reply:
    """Decode a reply as strictly as the Go client. Raises WireError, also if it has no version."""
    fields = gojson.load_fields(data, _REPLY_FIELDS)
    version = _text(fields, "version")
    if not version:
        raise WireError("version cannot be empty", reason="bad-version", code=Code.VERSION)
    payload = fields.get("payload")
    return Reply(
        version,
        _integer(fields, "time", 64),
        _text(fields, "reqid"),
        _integer(fields, "code", 32),
        _text(fields, "message"),
        _object_or_none(payload),
    )


def encode_reply(reply: Reply) -> bytes:
    """Encode a reply as Go does, byte by byte. Raises WireError if the Go client would refuse it."""
    return (
        f'{{"version":{_dump_text(reply.version, "version")},"time":{_dump_integer(reply.time, "time", 64)}'
        f',"reqid":{_dump_text(reply.reqid, "reqid")},"code":{_dump_integer(reply.code, "code", 32)}'
        f',"message":{_dump_text(reply.message, "message")}'
        f',"payload":{gojson.dumps(_object_or_none(reply.payload), inside=1)}}}'
    ).encode()


# Fields

_REQUEST_FIELDS = frozenset({"version", "time", "reqid", "payload"})
_REPLY_FIELDS = _REQUEST_FIELDS | {"code", "message"}


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return "" if value is None else _require_text(value, name)


def _integer(fields: dict[str, Any], name: str, bits: int) -> int:
    value = fields.get(name)
    return 0 if value is None else _require_integer(value, name, bits)


def _dump_text(value: object, name: str) -> str:
    return gojson.dumps(_require_text(value, name))


def _dump_integer(value: object, name: str, bits: int) -> str:
    return str(int(_require_integer(value, name, bits)))


def _require_text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise WireError(f"{name} is not a string", reason="wrong-type")
    return value


def _require_integer(value: object, name: str, bits: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise WireError(f"{name} is not an integer", reason="wrong-type")
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise WireError(f"{name} does not fit {bits} bits", reason="number-out-of-range")
    return value


def _object_or_none(value: object) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise WireError("payload is not an object", reason="wrong-type")
    return value


# Versions

_NUMBER = "(0|[1-9][0-9]*)"
_LABEL = "(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_SEMVER = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}"
    rf"(?:-{_LABEL}(?:\.{_LABEL})*)?"  # pre-release
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"  # build
)
_OURS = tuple(map(int, VERSION.split(".")))
_MAX_PART = len(str(2**64 - 1))  # digits
_SHOWN = 64  # characters of a foreign version that go into a message


def _check_version(version: str) -> None:
    if not version:
        raise _bad_version("version cannot be empty")
    match = _SEMVER.fullmatch(version)
    if match is None:
        raise _bad_version("parse request version error: Invalid Semantic Version")
    for part in match.groups():
        if len(part) > _MAX_PART or int(part) >= 1 << 64:
            reason = f'strconv.ParseUint: parsing "{part[:_SHOWN]}": value out of range'
            raise _bad_version(f"parse request version error: {reason}")
    major, minor, _patch = map(int, match.groups())
    if major != _OURS[0] or (major == 0 and minor != _OURS[1]):
        raise _bad_version(f"version incompatible, expect {VERSION}, got {version[:_SHOWN]}")


def _bad_version(message: str) -> WireError:
    return WireError(message, reason="bad-version", code=Code.VERSION)
