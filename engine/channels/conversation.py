"""Commands to a mail server and its replies, several commands at once where the server allows it.

The library connects, encrypts and logs in; it waits for each reply before it sends the next command,
though, and does so at a cost that would bound how many mails a process can send. From there on this
protocol has the connection.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from dataclasses import dataclass
from typing import cast

from aiosmtplib import SMTP

_MAX_REPLY_BYTES = 64 * 1024  # bytes; what sends more is no mail server
_LINE = re.compile(rb"([2-5][0-9]{2})([ -]?)([^\r\n]*)\r?\n")


class ConnectionLost(Exception):  # noqa: N818 -- what happened, for the caller to judge
    """The server hung up, fell silent or talks nonsense; the text says which."""


@dataclass(frozen=True, slots=True)
class SmtpReply:
    """What the server says to one command."""

    code: int
    text: str  # on one line

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


class SmtpConnection(asyncio.Protocol):
    """An open line to a mail server, greeted and logged in."""

    def __init__(self, smtp: SMTP) -> None:
        """Take over the connection of ``smtp``, which is not to be used any more."""
        self._loop = asyncio.get_running_loop()
        self._smtp = smtp  # kept: it would close the connection when it is collected
        self._transport = cast(asyncio.Transport, smtp.transport)
        self.extensions = {name.lower(): value for name, value in smtp.esmtp_extensions.items()}
        self._timeout = smtp.timeout
        self._buffer = b""
        self._text: list[str] = []  # of a reply of several lines that is not whole yet
        self._replies: deque[SmtpReply] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._lost = ""
        self._transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        return not self._lost and not self._transport.is_closing()

    @property
    def is_quiet(self) -> bool:
        """Whether the server has said nothing that nobody asked for: a line to keep."""
        return self.is_open and not self._replies and not self._buffer and not self._text

    def write(self, *commands: bytes) -> None:
        """Send ``commands``; each needs a ``reply``. Raises LineLost."""
        if not self.is_open:
            raise ConnectionLost(self._lost or "the server closed the connection")
        self._transport.write(b"".join(commands))

    async def reply(self) -> SmtpReply:
        """The next reply, within the time-out. Raises LineLost."""
        if not self._replies:
            await self._arrival()
        return self._replies.popleft()

    def close(self) -> None:
        """Hang up; what the transport has not sent yet may still go."""
        self._lost = self._lost or "closed"
        self._transport.close()

    def abort(self) -> None:
        """Hang up at once: a server that reads nothing would keep the rest of a message here for ever."""
        self._lost = self._lost or "closed"
        self._transport.abort()

    async def _arrival(self) -> None:
        if self._lost:
            raise ConnectionLost(self._lost)
        self._waiter = self._loop.create_future()
        limit = self._loop.call_later(self._timeout or 60.0, self._expire, self._waiter)
        try:
            await self._waiter
        finally:
            limit.cancel()
            self._waiter = None
        if not self._replies:
            raise ConnectionLost(self._lost)

    def _expire(self, waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            self._lost = f"no answer within {self._timeout:g} s"
            waiter.set_result(None)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # asyncio calls these

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while found := _LINE.match(self._buffer):
            self._buffer = self._buffer[found.end() :]
            self._text.append(found[3].decode("utf-8", "replace"))
            if found[2] != b"-":
                self._replies.append(SmtpReply(int(found[1]), " ".join(" ".join(self._text).split())))
                self._text.clear()
        if b"\n" in self._buffer or len(self._buffer) + sum(map(len, self._text)) > _MAX_REPLY_BYTES:
            said = " ".join(self._buffer[:100].decode("utf-8", "replace").split())
            self._fail(f"the server said {said!r}, which is no reply")
            self._transport.abort()
        elif self._replies:
            self._wake()

    def eof_received(self) -> bool:
        self._fail("the server closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was lost: {exc}" if exc else "the server closed the connection")

    def _fail(self, reason: str) -> None:
        self._lost = self._lost or reason
        self._wake()
