"""What the broker has complained of: nats-py tells it to a callback, and the callers must hear it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator

from .errors import MscError, NotConnected, PermissionDenied

_REMEMBERED = 1000  # subjects
_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)


class NatsErrors:
    """Complaints, by the subject that they are about. nats-py gives them in lower case."""

    def __init__(self) -> None:
        self.refusal = ""  # why the broker does not let us in, while it does not
        self.inbox = ""  # why no reply can reach us, while none can
        self._denied: dict[str, str] = {}  # subject: the broker's words
        self._unreported: dict[str, MscError] = {}  # subject: what befell a message after its call
        self._requests: dict[asyncio.Future[MscError], str] = {}  # those that wait for a reply

    def record(self, words: str) -> None:
        """Take in what the broker said."""
        if is_refusal(words):
            self.refusal = words
        match = _VIOLATION.search(words)
        if match is None:
            return
        if match[1].lower() == "subscription":
            self.inbox = words  # we subscribe to nothing else
            self.end_requests(PermissionDenied(words))
            return
        subject = match[2].lower()
        if len(self._denied) < _REMEMBERED or subject in self._denied:
            self._denied[subject] = words
        asked = [future for future, other in self._requests.items() if other == subject]
        for future in asked:
            _settle(future, PermissionDenied(words))
        if not asked:
            self.record_unreported(subject, PermissionDenied(words))

    def record_unreported(self, subject: str, error: MscError) -> None:
        """Remember what happened to a message whose caller has gone on."""
        if len(self._unreported) < _REMEMBERED:
            self._unreported.setdefault(subject.lower(), error)

    def pop_denial(self, subject: str) -> str:
        """The broker's words when it has refused ``subject``, which are then forgotten; else ""."""
        return self._denied.pop(subject.lower(), "")

    def denial(self, subject: str, words: str) -> PermissionDenied:
        """The error to raise for ``subject``; it tells of the earlier messages too."""
        self._denied[subject.lower()] = words
        self._unreported.pop(subject.lower(), None)
        return PermissionDenied(words)

    def raise_unreported(self) -> None:
        """Raise what happened to messages whose callers were not told."""
        for error in self._unreported.values():
            raise error

    @contextlib.contextmanager
    def request(self, subject: str) -> Iterator[asyncio.Future[MscError]]:
        """A future that gets the error which makes waiting for a reply pointless."""
        future: asyncio.Future[MscError] = asyncio.get_running_loop().create_future()
        self._requests[future] = subject.lower()
        try:
            yield future
        finally:
            del self._requests[future]
            future.cancel()

    def end_requests(self, error: MscError) -> None:
        for future in self._requests:
            _settle(future, error)

    def connected(self) -> None:
        self.refusal = ""

    def disconnected(self) -> None:
        self.inbox = ""  # the next connection subscribes again

    def closed(self) -> None:
        self.end_requests(NotConnected("the connection was closed; the request may have been served"))


def is_refusal(words: str) -> bool:
    """Whether the broker says that it does not let us in."""
    return "authorization" in words.lower() or "authentication" in words.lower()


def _settle(future: asyncio.Future[MscError], error: MscError) -> None:
    if not future.done():
        future.set_result(error)
