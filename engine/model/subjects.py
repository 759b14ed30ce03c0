"""Event names and patterns as NATS subjects, and text made safe to be one token.

A token is the part between two dots. ``*`` stands for one whole token, ``>`` for one or more at the end. As
a part of a token (``foo*``) both are plain characters, as on the broker.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from .messages import Kind

ONE, REST = "*", ">"
_KINDS = tuple(map(str, Kind))
_UNUSABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # white space, control, half a character
_SAFE_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Pattern:
    """Which subjects are meant. Made by ``parse_pattern``, which checks it."""

    tokens: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(self.tokens)

    @property
    def wild(self) -> bool:
        """Whether it may mean more than one subject."""
        return ONE in self.tokens or REST in self.tokens

    @property
    def literal_wildcards(self) -> tuple[str, ...]:
        """Tokens such as ``foo*`` that look like wildcards and are none: worth a warning."""
        return tuple(t for t in self.tokens if t not in (ONE, REST) and (ONE in t or REST in t))

    def matches(self, subject: str) -> bool:
        """Whether the concrete ``subject`` is one of those meant."""
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
    """A pattern by the rules of NATS; ValueError, in words for operators, when it is none."""
    tokens = tuple(text.split("."))
    _check_tokens(text, tokens)
    if REST in tokens[:-1]:
        raise ValueError(f"{text!r}: '>' stands for all that follows, so nothing may follow it")
    return Pattern(tokens)


def parse_event_pattern(text: str) -> Pattern:
    """What a rule's ``event`` may be: ``KIND.KEY``, ``log`` alone, or ``>`` for everything.

    ValueError, in words for operators, when it is neither.
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
    """Whether ``text`` can be the key of an event that has happened: whole tokens, no wildcards."""
    tokens = text.split(".")
    return all(tokens) and ONE not in tokens and REST not in tokens and not _UNUSABLE.search(text)


def is_safe_token(text: str) -> bool:
    """Whether ``text`` is one token anywhere: at most 64 letters, digits, ``_`` and ``-``."""
    return _SAFE_TOKEN.fullmatch(text) is not None


def token(text: str) -> str:
    """``text`` as one token of a subject or KV key: itself if safe, else 32 hex digits of its hash."""
    if is_safe_token(text):
        return text
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def covers(wide: Pattern, narrow: Pattern) -> bool:
    """Whether ``wide`` matches every subject that ``narrow`` matches."""
    for position, token_ in enumerate(wide.tokens):
        if position == len(narrow.tokens):
            return False
        if token_ == REST:
            return True
        meant = narrow.tokens[position]
        # Of one token there is nothing that covers "one or more".
        if meant == REST or token_ not in (ONE, meant):
            return False
    return len(wide.tokens) == len(narrow.tokens)


def _check_tokens(text: str, tokens: tuple[str, ...]) -> None:
    if not text:
        raise ValueError("the event is empty: it is KIND.KEY, as in notice.login.abnormal")
    if not all(tokens):
        raise ValueError(f"{text!r}: nothing stands before, after or between two dots")
    if found := _UNUSABLE.search(text):
        raise ValueError(f"{text!r}: {found.group()!r} may not stand in an event's name")
