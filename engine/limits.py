"""What keeps a reader from too many messages of one rule, as the rule says it."""

from __future__ import annotations

from dataclasses import dataclass

from .paths import Path

MOST_EVENTS = 50  # of one digest in full, where nothing else is said


@dataclass(frozen=True, slots=True, kw_only=True)
class Dedupe:
    """Of events that are alike, one in each window."""

    key: tuple[Path, ...]  # fields that make them alike
    window: float  # seconds, from the one that passes


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """Events that are alike are told of together."""

    key: tuple[Path, ...]
    wait: float  # seconds from the first one
    interval: float = 0.0  # seconds at least between two digests
    max_events: int = MOST_EVENTS  # in full; the rest is counted
    template: str = ""  # "": that of the entry
    flushes: bool = True  # when the rule is gone, what was gathered is sent; else it is not


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """So many events that are alike in each stretch of time."""

    key: tuple[Path, ...]
    limit: int
    per: float  # seconds
    digest: Digest | None = None  # what is beyond the limit is told of together; None: not at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """All of one rule."""

    dedupe: Dedupe | None = None
    throttle: Throttle | None = None
    digest: Digest | None = None

    @property
    def there(self) -> bool:
        return bool(self.dedupe or self.throttle or self.digest)


NO_LIMITS = Limits()
