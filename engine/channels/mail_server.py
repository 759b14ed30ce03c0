"""One mail server and the connections to it, kept for the next mail."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass

from ..breaker import CircuitBreaker
from ..errors import Deferred, Refused
from .conversation import ConnectionLost, SmtpConnection
from .smtp import Envelope, SmtpServer, connect, reset, send_data, send_envelope

_IDLE_LIMIT = 30.0  # seconds a connection is kept without a mail; servers wait longer than that


@dataclass(frozen=True, slots=True)
class _IdleConnection:
    line: SmtpConnection
    since: float  # the loop's clock, seconds


class SmtpPool:
    """The connections to one MTA; the one used last is used first."""

    def __init__(self, mta: SmtpServer, *, timeout: float, keep: int) -> None:
        self.mta = mta
        self.breaker = CircuitBreaker()
        self._timeout = timeout  # seconds for connecting, for each command and for the body
        self._keep_at_most = keep
        self._kept: list[_IdleConnection] = []
        self._closed = False
        self._reaper: asyncio.TimerHandle | None = None
        self._own_name = ""

    async def send(self, envelope: Envelope) -> str:
        """Hand the mail over and return the server's words; raises as ``Channel.send`` does."""
        works = False
        try:
            words = await self._send(envelope)
            works = True
        except Refused:
            works = True
            raise
        except Deferred as error:
            works = error.provider_works
            raise
        finally:
            if works:
                self.breaker.record_success()
            else:
                self.breaker.record_failure(time.monotonic())
        return words

    async def _send(self, envelope: Envelope) -> str:
        kept = self._acquire()
        if kept is not None:
            try:
                return await self._send_over(kept, envelope)
            except Deferred as error:
                if kept.is_open or error.remaining:
                    raise
                # The server had closed it meanwhile, and does not have the mail.
        return await self._send_over(await self._connect(), envelope)

    async def close(self) -> None:
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        kept, self._kept = self._kept, []
        await asyncio.gather(*(self._quit(each.line) for each in kept))

    async def _quit(self, line: SmtpConnection) -> None:
        try:
            async with asyncio.timeout(min(self._timeout, 2.0)):
                line.write(b"QUIT\r\n")
                await line.reply()
        except (ConnectionLost, TimeoutError):
            pass  # every mail on it has been acknowledged
        finally:
            line.close()

    async def _send_over(self, line: SmtpConnection, envelope: Envelope) -> str:
        keep = False
        try:
            turned = await send_envelope(line, envelope)
            note = await send_data(line, envelope.message)
            keep = True
        except (Refused, Deferred):
            keep = line.is_open and await reset(line)
            raise
        finally:
            if keep:
                self._release(line)
            else:
                line.abort()
        words = "; ".join([note, *turned.words])
        if turned.for_now:
            raise Deferred(words, remaining=turned.for_now)
        return words

    async def _connect(self) -> SmtpConnection:
        return await connect(self.mta, timeout=self._timeout, own_name=await self._introduction())

    async def _introduction(self) -> str:
        """This machine's name for EHLO; asking DNS for it takes long where DNS is broken."""
        if not self._own_name:
            try:
                name = await asyncio.wait_for(asyncio.to_thread(socket.getfqdn), self._timeout)
            except (OSError, UnicodeError):
                name = ""
            usable = "." in name and name.isascii() and name.isprintable() and " " not in name
            self._own_name = name if usable else "[127.0.0.1]"
        return self._own_name

    def _acquire(self) -> SmtpConnection | None:
        """The connection that was used last, if it is still good as far as can be seen."""
        self._reap()
        while self._kept:
            line = self._kept.pop().line
            if line.is_quiet:
                return line
            line.abort()
        return None

    def _release(self, line: SmtpConnection) -> None:
        if self._closed or not line.is_quiet or len(self._kept) >= self._keep_at_most:
            _quit_without_reply(line)
            return
        loop = asyncio.get_running_loop()
        self._kept.append(_IdleConnection(line, loop.time()))
        if self._reaper is None:
            self._reaper = loop.call_later(_IDLE_LIMIT, self._reap)

    def _reap(self) -> None:
        """Hang up what has been idle for too long, and come back for the rest."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._kept and (now - self._kept[0].since >= _IDLE_LIMIT or not self._kept[0].line.is_quiet):
            _quit_without_reply(self._kept.pop(0).line)
        if self._reaper is not None:
            self._reaper.cancel()
        oldest = self._kept[0].since if self._kept else None
        self._reaper = None if oldest is None else loop.call_at(oldest + _IDLE_LIMIT, self._reap)


def _quit_without_reply(line: SmtpConnection) -> None:
    """Say QUIT without waiting for the answer, which changes nothing."""
    with contextlib.suppress(ConnectionLost):
        line.write(b"QUIT\r\n")
    line.close()
