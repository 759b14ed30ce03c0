"""Event names and patterns as NATS subjects, and text made safe for use as one token.

A token is the part between two dots. ``*`` matches one whole token, ``>`` one or more tokens at the end.
Inside a token (``foo*``) both are plain characters, as on the broker.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from .messages import Kind

ONE, REST = "*", ">"
_KINDS = tuple(map(str, Kind))
_UNUSABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # white space, control characters, surrogates
_SAFE_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A set of subjects. ``parse_pattern`` makes and checks it."""

    tokens: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(self.tokens)

    @property
    def wild(self) -> bool:
        """True if it can match more than one subject."""
        return ONE in self.tokens or REST in self.tokens

    def matches(self, subject: str) -> bool:
        """Return whether the pattern matches ``subject``, which has no wildcards."""
        given = subject.split(".")
        for position, token_ in enumerate(self.tokens):
            if position == len(given):
                return False
            if token_ == REST:
                return True
            if token_ not in (ONE, given[position]):
                return False
        return len(given) == len(self.tokens)


def parse_pattern(text: str) -> Pattern:
    """Parse a pattern by the rules of NATS. Raise ValueError with a message for operators."""
    tokens = tuple(text.split("."))
    _check_tokens(text, tokens)
    if REST in tokens[:-1]:
        raise ValueError(f"{text!r}: '>' matches all that follows, so it must be the last token")
    return Pattern(tokens)


def parse_event_pattern(text: str) -> Pattern:
    """Parse the ``event`` of a rule: ``KIND.KEY``, ``log`` alone, or ``>`` for every event.

    Raise ValueError with a message for operators.
    """
    pattern = parse_pattern(text)
    first, rest = pattern.tokens[0], pattern.tokens[1:]
    if first == REST:
        return pattern
    if first not in (*_KINDS, ONE):
        raise ValueError(f"{text!r}: an event starts with its kind: {', '.join(_KINDS)}, or '*' for any")
    if not rest and first != Kind.LOG:
        raise ValueError(f"{text!r}: the key after the kind is missing, as in {first}.login or {first}.>")
    return pattern


def valid_key(text: str) -> bool:
    """Return whether ``text`` can be the key of an event: tokens that are not empty, and no wildcards."""
    tokens = text.split(".")
    return all(tokens) and ONE not in tokens and REST not in tokens and not _UNUSABLE.search(text)


def is_safe_token(text: str) -> bool:
    """Return whether ``text`` has 1 to 64 characters, each ``_``, ``-`` or alphanumeric in ASCII."""
    return _SAFE_TOKEN.fullmatch(text) is not None


def token(text: str) -> str:
    """Return ``text`` as one token of a subject or KV key: itself if safe, else 32 hex digits of its hash."""
    if is_safe_token(text):
        return text
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def covers(wide: Pattern, narrow: Pattern) -> bool:
    """Return whether ``wide`` matches every subject that ``narrow`` matches."""
    for position, token_ in enumerate(wide.tokens):
        if position == len(narrow.tokens):
            return False
        if token_ == REST:
            return True
        narrow_token = narrow.tokens[position]
        # ``>`` may match several tokens, so ``*`` does not cover it.
        if narrow_token == REST or token_ not in (ONE, narrow_token):
            return False
    return len(wide.tokens) == len(narrow.tokens)


def _check_tokens(text: str, tokens: tuple[str, ...]) -> None:
    if not text:
        raise ValueError("the event is empty: it is KIND.KEY, as in notice.login.abnormal")
    if not all(tokens):
        raise ValueError(f"{text!r}: a token before, after or between the dots is empty")
    if found := _UNUSABLE.search(text):
        raise ValueError(f"{text!r}: {found.group()!r} is not allowed in the name of an event")
