"""What a policy bucket says of itself: which revisions were pushed, and which one is in force.

All of it is one value, so that it changes as one: compare-and-set needs no more than that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from .codec import encode
from .errors import InvalidBucket, RevisionNotFound

MAX_REVISIONS = 200  # revisions that are kept
MAX_MESSAGE_LENGTH = 500  # characters of a message
CURRENT = "current"  # the key that it lies under, and what people may call the revision in force
_MIN_HASH_LENGTH = 6  # digits of a content hash that are told from a number


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedRevision:
    """A policy that was pushed."""

    number: int  # from 1, in the order of pushing
    revision: str  # of the policy, as ``mss check`` prints it: equal files have equal ones
    blob: str  # under which its files lie
    parts: int  # in how many pieces
    size: int  # bytes of these
    who: str
    at: int  # microseconds since the epoch
    message: str = ""
    parent: int = 0  # what was in force before; 0: nothing

    def __str__(self) -> str:
        return f"revision {self.number} ({self.revision})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revisions:
    """The value of the pointer."""

    current: int = 0  # number of the revision in force; 0: nothing was pushed yet
    moved_by: str = ""  # who last moved the pointer
    moved_at: int = 0  # and when, microseconds since the epoch
    pushed: tuple[PushedRevision, ...] = ()  # the oldest first

    @property
    def active(self) -> PushedRevision | None:
        return next((each for each in self.pushed if each.number == self.current), None)

    def require(self) -> PushedRevision:
        """The revision in force. Raises BadBucket where there is none."""
        if (found := self.active) is None:
            words = (
                f"revision {self.current} is in force and not there" if self.current else "nothing was pushed"
            )
            raise InvalidBucket(f"{words}: mss push DIR")
        return found

    def with_pushed(self, pushed: PushedRevision) -> Revisions:
        """With one more, which is in force from now on; it gets its number and its parent here."""
        number = max((each.number for each in self.pushed), default=self.current) + 1
        newest = replace(
            pushed, number=number, parent=self.current, message=pushed.message[:MAX_MESSAGE_LENGTH]
        )
        kept = (*self.pushed, newest)[-MAX_REVISIONS:]
        return Revisions(current=number, moved_by=pushed.who, moved_at=pushed.at, pushed=kept)

    def with_active(self, number: int, *, who: str, at: int) -> Revisions:
        """With another one in force."""
        return replace(self, current=number, moved_by=who, moved_at=at)

    def resolve(self, name: str) -> PushedRevision:
        """The revision that somebody calls ``name``: ``current``, a number, or the policy's own revision.

        Raises NotPushed.
        """
        if name == CURRENT and self.active is not None:
            return self.active
        if len(name) < _MIN_HASH_LENGTH:
            found = [each for each in self.pushed if str(each.number) == name]
        else:
            found = [each for each in self.pushed if each.revision.startswith(name)]
        if not found:
            raise RevisionNotFound(f"there is no revision {name}; mss revisions lists them")
        if len({each.revision for each in found}) > 1:
            raise RevisionNotFound(f"{name} may be any of {', '.join(str(each.number) for each in found)}")
        return found[-1]

    def previous(self) -> PushedRevision:
        """What was in force before the present one was pushed. Raises NotPushed."""
        parent = self.require().parent
        found = next((each for each in self.pushed if each.number == parent), None)
        if found is None:
            raise RevisionNotFound(
                f"{self.require()} is the first one" if not parent else f"revision {parent} is forgotten"
            )
        return found

    def candidates(self) -> tuple[PushedRevision, ...]:
        """What may be served where the one in force cannot: all others, the newest first."""
        others = [each for each in self.pushed if each.number != self.current]
        return tuple(reversed(others))

    def encoded(self) -> bytes:
        return encode(self)


_revisions_decoder = msgspec.json.Decoder(Revisions)


def read_revisions(data: bytes) -> Revisions:
    """The value of the pointer; nothing yet is no revisions. Raises BadBucket."""
    if not data:
        return Revisions()
    try:
        return _revisions_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidBucket(f"its pointer cannot be read: {error}") from error
