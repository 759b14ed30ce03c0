"""What a reply says of a request, and the error that carries it."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """How a request ended, in a reply."""

    OK = 0
    ERROR = 1
    NO_REPLY = 100
    VERSION = 101
    TIME = 102
    REQID = 103
    ACTION_MISSING = 104
    NOT_IMPLEMENTED = 105


class WireError(ValueError):
    """A message that is not, or cannot become, one of the protocol's.

    ``reason`` is one stable word: not-json, not-an-object, wrong-type, too-deep, number-out-of-range,
    bad-version, bad-time, missing-reqid. The text never quotes the payload.
    """

    def __init__(self, message: str, *, reason: str, code: Code = Code.ERROR) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code  # what a reply says of it
