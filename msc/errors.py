"""The errors of the client, as one tree. Only CancelledError and TypeError are raised besides these.

MscError
├── ConnectError           no connection: no broker, login refused, wrong certificate, wrong option
├── NotConnected           the broker is away or refuses the login, or the client is closed
│   └── BufferFull         the broker is away or too slow, and the buffer is full
├── RequestError           an action did not return a result
│   ├── NoResponders       no service has that action; it did not run
│   ├── RequestTimeout     no answer in time; the action may have run
│   ├── ReplyInvalid       an answer that is not a valid reply; the action may have run
│   └── ActionFailed       the action failed; has its code and message
├── NotConfirmed           no stream has confirmed in time that it stored the message
├── MessageTooLarge        larger than the broker accepts, headers included
├── PermissionDenied       the broker forbids this user to use the subject
└── InvalidMessage         (also a ValueError) a key, reqid or payload that cannot be sent
"""

from __future__ import annotations

from enum import IntEnum


class MscError(Exception):
    """Any error that the client raises on purpose."""


class ConnectError(MscError):
    """No connection could be made. The message has the reason of the broker or of the system."""


class NotConnected(MscError):  # noqa: N818 -- the name states the condition
    """The broker is not available. ``close`` raises it if buffered messages could not be sent."""

    def __init__(self, message: str, *, unsent: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.unsent = unsent  # reqids of the lost messages


class BufferFull(NotConnected):
    """The buffer is full. The message was not accepted; the buffered messages stay."""


class RequestError(MscError):
    """An action did not return a result."""


class NoResponders(RequestError):  # noqa: N818
    """No service has that action. It did not run."""


class RequestTimeout(RequestError):  # noqa: N818
    """No answer in time. The action may have run."""


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
    """The broker did not confirm that a stream stored the message. A repeat with the same reqid is safe."""


class MessageTooLarge(MscError):  # noqa: N818
    """The message, headers included, is larger than the broker's max_payload."""


class PermissionDenied(MscError):  # noqa: N818
    """The broker forbids this user to publish on the subject, or to subscribe to replies."""


class InvalidMessage(MscError, ValueError):  # noqa: N818
    """The key, the reqid or the payload cannot be sent."""


class Code(IntEnum):
    """The code of a reply."""

    OK = 0
    ERROR = 1
    NO_REPLY = 100
    VERSION = 101
    TIME = 102
    REQID = 103
    ACTION_MISSING = 104
    NOT_IMPLEMENTED = 105


class WireError(ValueError):
    """A message that does not follow the protocol, read or to be written.

    ``reason`` is one stable word: not-json, not-an-object, wrong-type, too-deep, number-out-of-range,
    bad-version, bad-time, missing-reqid. The text never quotes the payload.
    """

    def __init__(self, message: str, *, reason: str, code: Code = Code.ERROR) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code  # for the reply
