"""Durations (``10s``, ``1h30m``), rates (``100/m``), and times in microseconds and in ISO 8601."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from math import isfinite

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}  # seconds

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)", re.ASCII)
_WHOLE = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as 1h30m. Raise ValueError with a message for operators."""
    if not isinstance(text, str):
        raise ValueError(f"expected a duration such as 30s, 5m, 1h, found {text!r}")  # noqa: TRY004
    if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", text, re.ASCII):
        raise ValueError(f"{text} has no unit; write {text}s for seconds (units: {', '.join(UNITS)})")
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration such as 30s, 5m, 1h (units: {', '.join(UNITS)})")
    seconds = sum(float(number) * UNITS[unit] for number, unit in _PART.findall(text))
    if not isfinite(seconds):
        raise ValueError(f"{text[:20]}… is too long")
    return seconds


def in_units(seconds: float) -> str:
    """Return ``seconds`` as operators write them: 900.0 is 15m."""
    left, parts = round(seconds * 1000), []
    for unit, length in sorted(UNITS.items(), key=lambda item: -item[1]):
        count, left = divmod(left, round(length * 1000))
        parts += [f"{count}{unit}"] if count else []
    return "".join(parts) or "0s"


def parse_count_per(text: str) -> tuple[int, float]:
    """Return the number and the seconds of a rate such as 10/s or 5/2h. Raise ValueError if it is none."""
    number, slash, per = text.partition("/") if isinstance(text, str) else ("", "", "")
    if not slash or not re.fullmatch(r"[1-9][0-9]{0,8}", number, re.ASCII):
        raise ValueError(f"{text!r} is not a rate such as 10/s, 100/m, 1000/h")
    try:
        seconds = parse_duration(per if per[:1].isdigit() else f"1{per}")
    except ValueError:
        seconds = 0.0
    if seconds <= 0.0:
        raise ValueError(f"{text!r} is not a rate such as 10/s, 100/m, 1000/h")
    return int(number), seconds


def parse_rate(text: str) -> float:
    """Return the number per second of a rate such as 10/s. Raise ValueError with a message for operators."""
    count, seconds = parse_count_per(text)
    return count / seconds


def parse_time(text: str) -> datetime:
    """Parse a time of RFC 3339 with an offset. Raise ValueError with a message for operators."""
    try:
        time = datetime.fromisoformat(text.strip().upper())
    except ValueError as error:
        raise ValueError(f"{text!r} is not a time: {error}") from error
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no offset; write it as in 2026-03-02T23:30:00+08:00")
    return time


def from_micros(at: int) -> datetime:
    """Return ``at``, microseconds since the epoch, as a datetime in UTC."""
    return EPOCH + timedelta(microseconds=at)


def to_micros(time: datetime) -> int:
    """Return the microseconds from the epoch to ``time``, which must have an offset."""
    return (time - EPOCH) // timedelta(microseconds=1)


def iso_time(at: int, timespec: str = "microseconds") -> str:
    """Return ``at``, microseconds since the epoch, in ISO 8601: 2026-01-01T12:00:00.000000Z."""
    return from_micros(at).isoformat(timespec=timespec).replace("+00:00", "Z")
