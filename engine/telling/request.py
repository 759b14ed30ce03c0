"""A request for an action, and what its caller hears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRequest:
    """One request for an action, as received."""

    key: str  # what stands after the prefix and ``action.``
    reqid: str
    payload: Any  # any JSON
    data: bytes  # the whole envelope
    sent: int  # the sender's clock, microseconds since the epoch
    received: int  # when this process had it, microseconds since the epoch
    person: str | None = None  # the token after the key, where the subject has one: whom it is about


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionResponse:
    """What the caller hears. Neither ``message`` nor ``payload`` tells anything of this server."""

    code: int = 0
    message: str = "ok"
    payload: dict[str, Any] | None = None
    detail: str = ""  # for the operators' log alone


NOT_BEGUN = "not carried out: no time left"
OUTCOME_UNKNOWN = "outcome unknown: it may have been carried out"


def failed(message: str, detail: str = "") -> ActionResponse:
    """The answer of an action that failed."""
    return ActionResponse(code=1, message=message, detail=detail)
