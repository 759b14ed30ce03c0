"""The client for programs without an event loop: Django, Flask, scripts.

    with msc.blocking.connect("nats://127.0.0.1:4222") as client:
        client.notice("login.abnormal", {"userid": "bob"})

It may be a module's global and serve many threads; it connects at the first call. An event loop in one
background thread does the work. After a fork, the child gets a connection of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import functools
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from . import client as asynchronous
from .errors import MscError, NotConnected
from .messages import IPLocation

log = logging.getLogger(__name__)

_GRACE = 10.0  # seconds beyond a call's own limit after which its event loop must be stuck
_FLUSH_LIMIT = 5.0  # seconds
_STOP_LIMIT = 5.0  # seconds

P = ParamSpec("P")
T = TypeVar("T")


def _with_parameters_of(
    _: Callable[P, asynchronous.Client],
) -> Callable[[Callable[..., BlockingClient]], Callable[P, BlockingClient]]:
    """Lend a function the parameters of another, so that they are written down once."""
    return lambda function: functools.wraps(function)(function)


class BlockingClient:
    """The methods of ``msc.Client``, with the same errors, for any thread."""

    def __init__(self, make: Callable[[], asynchronous.Client], connect_timeout: float) -> None:
        make()  # says at once what is wrong with the arguments
        self._make = make
        self._connect_timeout = connect_timeout
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: asynchronous.Client | None = None
        self._closed = False
        _living.add(self)

    def open(self) -> Self:
        """Connect now. Raises ConnectError."""
        self._ready()
        return self

    def close(self, timeout: float = _FLUSH_LIMIT) -> None:
        """Send what waits, within ``timeout`` seconds, and close for good. Raises as ``msc.Client.close``."""
        with self._lock:
            self._closed = True
            loop, thread, client = self._loop, self._thread, self._client
            self._loop = self._thread = self._client = None
        _living.discard(self)
        if loop is None or thread is None or client is None:
            return
        try:
            _wait_for(loop, client.close(timeout), timeout)
        finally:
            _stop(loop, thread)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except MscError as lost:
            if error is None:
                raise
            log.error("%s", lost)  # noqa: TRY400 -- the words say it all
            error.add_note(str(lost))

    def notice(
        self,
        key: str,
        payload: Mapping[str, Any] | None,
        *,
        confirm: bool = False,
        reqid: str | None = None,
        timeout: float = 5.0,
    ) -> str:
        """See ``msc.Client.notice``."""
        return self._call(
            lambda c: c.notice(key, payload, confirm=confirm, reqid=reqid, timeout=timeout), timeout
        )

    def audit(
        self,
        key: str,
        payload: Mapping[str, Any] | None,
        *,
        confirm: bool = False,
        reqid: str | None = None,
        timeout: float = 5.0,
    ) -> str:
        """See ``msc.Client.audit``."""
        return self._call(
            lambda c: c.audit(key, payload, confirm=confirm, reqid=reqid, timeout=timeout), timeout
        )

    def log(
        self,
        payload: Mapping[str, Any] | None,
        key: str = "",
        *,
        confirm: bool = False,
        reqid: str | None = None,
        timeout: float = 5.0,
    ) -> str:
        """See ``msc.Client.log``."""
        return self._call(
            lambda c: c.log(payload, key, confirm=confirm, reqid=reqid, timeout=timeout), timeout
        )

    def request(
        self, key: str, payload: Mapping[str, Any] | None, timeout: float = 60.0
    ) -> dict[str, Any] | None:
        """See ``msc.Client.request``."""
        return self._call(lambda c: c.request(key, payload, timeout), timeout)

    def iplocation(self, ipaddr: str, locale: str = "", *, timeout: float = 60.0) -> IPLocation:
        """See ``msc.Client.iplocation``."""
        return self._call(lambda c: c.iplocation(ipaddr, locale, timeout=timeout), timeout)

    def sendverifyemail(
        self, *, subject: str, userid: str, to: str, href: str, locale: str = "", expire: str = "",
        timeout: float = 60.0,
    ) -> None:  # fmt: skip
        """See ``msc.Client.sendverifyemail``."""
        self._call(
            lambda c: c.sendverifyemail(
                subject=subject,
                userid=userid,
                to=to,
                href=href,
                locale=locale,
                expire=expire,
                timeout=timeout,
            ),
            timeout,
        )

    def accountaddemail(
        self, *, newemail: str, userid: str, httpurl: str = "", locale: str = "",
        mailto: Sequence[str] | None = None, subject: str = "",
        confirm: bool = False, reqid: str | None = None, timeout: float = 5.0,
    ) -> str:  # fmt: skip
        """See ``msc.Client.accountaddemail``."""
        return self._call(
            lambda c: c.accountaddemail(
                newemail=newemail, userid=userid, httpurl=httpurl, locale=locale, mailto=mailto,
                subject=subject, confirm=confirm, reqid=reqid, timeout=timeout,
            ),
            timeout,
        )  # fmt: skip

    # The thread

    def _call(self, ask: Callable[[asynchronous.Client], Coroutine[Any, Any, T]], timeout: float) -> T:
        loop, client = self._ready()
        return _wait_for(loop, ask(client), timeout)

    def _ready(self) -> tuple[asyncio.AbstractEventLoop, asynchronous.Client]:
        with self._lock:
            if self._closed:
                raise NotConnected("the client is closed")
            if self._loop is None or self._client is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_run, args=(loop,), name="msc", daemon=True)
                thread.start()
                client = self._make()
                try:
                    _wait_for(loop, client.open(), self._connect_timeout)
                except BaseException:
                    _stop(loop, thread)
                    raise
                self._loop, self._thread, self._client = loop, thread, client
            return self._loop, self._client

    def _forked(self) -> None:
        """In the child: leave the parent's loop and connection alone, and begin anew.

        Nothing of them is closed, as the sockets are the parent's too; what waits in the parent's
        buffer is the parent's to send. The lock may be held by a thread that is no more.
        """
        _abandoned.append((self._loop, self._client))
        self._loop = self._thread = self._client = None
        self._lock = threading.Lock()


_living: weakref.WeakSet[BlockingClient] = weakref.WeakSet()
_abandoned: list[object] = []  # kept, lest they close what is the parent's when they are collected


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()


def _wait_for(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], limit: float) -> T:
    """The result of ``work``, done in the loop's thread."""
    try:
        future = asyncio.run_coroutine_threadsafe(work, loop)
    except RuntimeError:  # another thread has closed the client meanwhile
        work.close()
        raise NotConnected("the client is closed") from None
    try:
        return future.result(limit + _GRACE)
    except concurrent.futures.CancelledError:
        raise NotConnected("the client was closed") from None
    except TimeoutError:
        raise NotConnected("the client's thread does not answer") from None
    finally:
        future.cancel()  # for a KeyboardInterrupt; does nothing to what is done


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    async def cancel_all() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await loop.shutdown_asyncgens()
        await loop.shutdown_default_executor()

    try:
        asyncio.run_coroutine_threadsafe(cancel_all(), loop).result(_STOP_LIMIT)
    except TimeoutError:
        log.warning("the client's tasks do not end")
    loop.call_soon_threadsafe(loop.stop)
    thread.join(_STOP_LIMIT)
    if not thread.is_alive():
        loop.close()


@_with_parameters_of(asynchronous.connect)
def connect(*args: Any, **kwargs: Any) -> BlockingClient:
    """A client that connects at its first call, or on entering ``with``. Takes what ``msc.connect`` takes."""
    return BlockingClient(
        lambda: asynchronous.connect(*args, **kwargs), float(kwargs.get("connect_timeout", 10.0))
    )


def _forked() -> None:
    for client in list(_living):
        client._forked()  # noqa: SLF001 -- this module's own


def _close_all() -> None:
    """At the end of the program: nobody is left to be told but the log."""
    for client in list(_living):
        try:
            client.close()
        except MscError as error:
            log.error("%s", error)  # noqa: TRY400 -- the words say it all


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

atexit.register(_close_all)
