"""What a rule says of too many messages: ``dedupe``, ``throttle``, ``digest``, ``budget``."""

from __future__ import annotations

import math

from .cursors import Diagnostics, DocumentNode
from .durations import parse_count_per, parse_duration
from .limits import DEFAULT_MAX_EVENTS, GLOBAL_BUDGET, NO_LIMITS, Budget, Dedupe, Digest, Limits, Throttle
from .paths import FieldPath, parse_path


def compile_limits(entry: DocumentNode, whole: Budget | None, complaints: Diagnostics) -> Limits:
    """The limits of the rule at ``entry``, which the schema has passed; ``whole`` is the policy's budget."""
    dedupe, throttle, digest = (entry.get(name) for name in ("dedupe", "throttle", "digest"))
    own = entry.get("budget")
    if not (dedupe or throttle or digest or own or whole):
        return NO_LIMITS
    budgets = {entry.value["id"]: compile_budget(own, complaints)} if own else {}
    limits = Limits(
        dedupe=_dedupe(dedupe, complaints) if dedupe else None,
        throttle=_throttle(throttle, complaints) if throttle else None,
        digest=_digest(digest, complaints) if digest else None,
        budgets={**budgets, GLOBAL_BUDGET: whole} if whole else budgets,
    )
    if throttle and _is_pointless(limits):
        message = "dedupe lets so few through that this never holds anything back"
        complaints.add(throttle, "ineffective-throttle", message, severity="warning", at_key=True)
    if entry.value.get("critical") and (held := digest or (throttle and _digests(throttle))):
        message = "the rule is critical, and this makes its messages wait"
        complaints.add(held, "delayed-critical", message, severity="warning", at_key=True)
    return limits


def compile_budget(at: DocumentNode, complaints: Diagnostics) -> Budget:
    """The budget at ``at``, which the schema has passed: ``1000/h``, or a mapping that says more."""
    if isinstance(at.value, str):
        limit, per = parse_count_per(at.value)
        return Budget(limit=limit, per=per, digest=Digest(key=(), wait=per))
    per = _length(at, "per", complaints)
    digests = at.value.get("on_limit", "digest") == "digest"
    return Budget(limit=at.value["limit"], per=per, digest=_gathering(at, (), per) if digests else None)


def _dedupe(at: DocumentNode, complaints: Diagnostics) -> Dedupe:
    return Dedupe(key=_key(at, complaints), window=_length(at, "window", complaints))


def _throttle(at: DocumentNode, complaints: Diagnostics) -> Throttle:
    per, key = _length(at, "per", complaints), _key(at, complaints)
    beyond = _gathering(at, key, per) if _digests(at) else None
    return Throttle(key=key, limit=at.value["limit"], per=per, digest=beyond)


def _digest(at: DocumentNode, complaints: Diagnostics) -> Digest:
    interval = _length(at, "interval", complaints) if "interval" in at.value else 0.0
    return _gathering(at, _key(at, complaints), _length(at, "wait", complaints), interval)


def _gathering(at: DocumentNode, key: tuple[FieldPath, ...], wait: float, interval: float = 0.0) -> Digest:
    return Digest(
        key=key,
        wait=wait,
        interval=interval,
        max_events=at.value.get("max_events", DEFAULT_MAX_EVENTS),
        template=at.value.get("template", ""),
        flushes=at.value.get("on_remove", "flush") == "flush",
    )


def _digests(throttle: DocumentNode) -> DocumentNode | None:
    return throttle / "on_limit" if throttle.value.get("on_limit") == "digest" else None


def _key(at: DocumentNode, complaints: Diagnostics) -> tuple[FieldPath, ...]:
    paths = []
    for each in (at / "key").each():
        try:
            paths.append(parse_path(each.value))
        except ValueError as error:
            complaints.add(each, "bad-path", str(error))
    return tuple(paths)


def _length(at: DocumentNode, name: str, complaints: Diagnostics) -> float:
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
