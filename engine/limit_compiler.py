"""What a rule says of too many messages: ``dedupe``, ``throttle``, ``digest``."""

from __future__ import annotations

import math

from .cursors import Complaints, Cursor
from .durations import parse_duration
from .limits import MOST_EVENTS, NO_LIMITS, Dedupe, Digest, Limits, Throttle
from .paths import Path, parse_path


def compile_limits(entry: Cursor, complaints: Complaints) -> Limits:
    """The limits of the rule at ``entry``, which the schema has passed."""
    dedupe, throttle, digest = (entry.get(name) for name in ("dedupe", "throttle", "digest"))
    if not (dedupe or throttle or digest):
        return NO_LIMITS
    limits = Limits(
        dedupe=_dedupe(dedupe, complaints) if dedupe else None,
        throttle=_throttle(throttle, complaints) if throttle else None,
        digest=_digest(digest, complaints) if digest else None,
    )
    if throttle and _is_pointless(limits):
        message = "dedupe lets so few through that this never holds anything back"
        complaints.add(throttle, "pointless-throttle", message, severity="warning", at_key=True)
    if entry.value.get("critical") and (held := digest or (throttle and _digests(throttle))):
        message = "the rule is critical, and this makes its messages wait"
        complaints.add(held, "digest-of-critical", message, severity="warning", at_key=True)
    return limits


def _dedupe(at: Cursor, complaints: Complaints) -> Dedupe:
    return Dedupe(key=_key(at, complaints), window=_length(at, "window", complaints))


def _throttle(at: Cursor, complaints: Complaints) -> Throttle:
    per, key = _length(at, "per", complaints), _key(at, complaints)
    beyond = Digest(
        key=key,
        wait=per,
        max_events=at.value.get("max_events", MOST_EVENTS),
        template=at.value.get("template", ""),
        flushes=at.value.get("on_remove", "flush") == "flush",
    )
    return Throttle(key=key, limit=at.value["limit"], per=per, digest=beyond if _digests(at) else None)


def _digest(at: Cursor, complaints: Complaints) -> Digest:
    return Digest(
        key=_key(at, complaints),
        wait=_length(at, "wait", complaints),
        interval=_length(at, "interval", complaints) if "interval" in at.value else 0.0,
        max_events=at.value.get("max_events", MOST_EVENTS),
        template=at.value.get("template", ""),
        flushes=at.value.get("on_remove", "flush") == "flush",
    )


def _digests(throttle: Cursor) -> Cursor | None:
    return throttle / "on_limit" if throttle.value.get("on_limit") == "digest" else None


def _key(at: Cursor, complaints: Complaints) -> tuple[Path, ...]:
    paths = []
    for each in (at / "key").each():
        try:
            paths.append(parse_path(each.value))
        except ValueError as error:
            complaints.add(each, "bad-path", str(error))
    return tuple(paths)


def _length(at: Cursor, name: str, complaints: Complaints) -> float:
    seconds = parse_duration(at.value[name])
    if seconds <= 0.0:
        complaints.add(at / name, "out-of-range", f"{name} has to be longer than nothing")
    return seconds


def _is_pointless(limits: Limits) -> bool:
    """Whether of what ``dedupe`` lets through never more than the limit comes in time."""
    dedupe, throttle = limits.dedupe, limits.throttle
    if dedupe is None or throttle is None or dedupe.window <= 0.0 or set(dedupe.key) != set(throttle.key):
        return False
    return math.ceil(throttle.per / dedupe.window) <= throttle.limit
