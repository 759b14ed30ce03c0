"""The errors of the client, as one tree. Nothing else is raised, but cancellation and TypeError.

MscError
├── ConnectError           no connection could be made: nobody listens, refused, wrong certificate, bad option
├── NotConnected           the broker is away, refuses us, or the client is closed
│   └── BufferFull         the broker is away or stuck, and what may wait for it already does
├── RequestError           an action did not give its result
│   ├── NoResponders       nobody serves that action; it did not run
│   ├── RequestTimeout     no answer in time; the action may have run
│   ├── ReplyInvalid       an answer that is none of ours; the action may have run
│   └── ActionFailed       the action says that it failed; carries code and message
├── NotConfirmed           no stream has taken the message, or none said so in time
├── MessageTooLarge        more than the broker takes, headers included
├── PermissionDenied       the broker does not let this user use the subject
└── InvalidMessage         (also a ValueError) a key, reqid or payload that cannot be sent
"""

from __future__ import annotations

from enum import IntEnum


class MscError(Exception):
    """Any error that the client raises on purpose."""


class ConnectError(MscError):
    """There is no connection to begin with; the reason is the broker's or the system's own."""


class NotConnected(MscError):  # noqa: N818 -- named for what is the case
    """The broker cannot be reached now. Raised by ``close`` too, for what could not be sent any more."""

    def __init__(self, message: str, *, unsent: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.unsent = unsent  # reqids of the messages that are lost with the client


class BufferFull(NotConnected):
    """The message was not taken, because the buffer is full; what is in the buffer stays there."""


class RequestError(MscError):
    """An action did not give its result."""


class NoResponders(RequestError):  # noqa: N818
    """Nobody serves that action."""


class RequestTimeout(RequestError):  # noqa: N818
    """No answer in time. The action may have run all the same."""


class ReplyInvalid(RequestError):  # noqa: N818
    """The answer is not a reply to this request. The action may have run."""


class ActionFailed(RequestError):  # noqa: N818
    """The action answered with an error."""

    def __init__(self, code: int, message: str, reqid: str) -> None:
        super().__init__(f"{message} (code {code})")
        self.code = code
        self.message = message
        self.reqid = reqid


class NotConfirmed(MscError):  # noqa: N818
    """The broker did not confirm that the message is stored. Sending it again with the same reqid is safe."""


class MessageTooLarge(MscError):  # noqa: N818
    """The message, headers included, is larger than the broker's max_payload."""


class PermissionDenied(MscError):  # noqa: N818
    """The broker does not let this user publish there, or listen for the reply."""


class InvalidMessage(MscError, ValueError):  # noqa: N818
    """The key, the reqid or the payload cannot be sent."""


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
