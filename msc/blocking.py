"""The client for programs without an event loop: Django, Flask, scripts.

    with msc.blocking.connect("nats://127.0.0.1:4222") as client:
        client.notice("login.abnormal", {"userid": "bob"})

It may be a global variable of a module, and all threads may share it. It connects at the first call. An event
loop in one background thread does the work. After a fork, the child gets a connection of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import functools
import inspect
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from . import client as asynchronous
from .errors import MscError, NotConnected

log = logging.getLogger(__name__)

_GRACE = 10.0  # seconds after the limit of a call, after which the event loop must be stuck
_FLUSH_LIMIT = 5.0  # seconds
_STOP_LIMIT = 5.0  # seconds

P = ParamSpec("P")
T = TypeVar("T")


def _blocking_method(
    method: Callable[Concatenate[asynchronous.Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[BlockingClient, P], T]:
    """Return ``method`` of the asynchronous client as one that blocks, with the same parameters."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(self: BlockingClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        loop, client = self._ready()
        return _wait_for(loop, method(client, *args, **kwargs), given.arguments["timeout"])

    return call


def _with_parameters_of(
    source: Callable[P, asynchronous.Client],
) -> Callable[[Callable[..., BlockingClient]], Callable[P, BlockingClient]]:
    """Give a function the parameters of ``source``, for type checkers and for ``help``."""
    return functools.wraps(source, assigned=())


class BlockingClient:
    """A client with the methods and the errors of ``msc.Client``, for any thread."""

    def __init__(self, make: Callable[[], asynchronous.Client], connect_timeout: float) -> None:
        make()  # raises now if an argument is wrong
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
        """Send the buffered messages within ``timeout`` seconds, and close. See ``msc.Client.close``."""
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
            log.error("%s", lost)  # noqa: TRY400 -- the message says it all
            error.add_note(str(lost))

    notice = _blocking_method(asynchronous.Client.notice)
    audit = _blocking_method(asynchronous.Client.audit)
    log = _blocking_method(asynchronous.Client.log)
    request = _blocking_method(asynchronous.Client.request)
    iplocation = _blocking_method(asynchronous.Client.iplocation)
    sendverifyemail = _blocking_method(asynchronous.Client.sendverifyemail)
    accountaddemail = _blocking_method(asynchronous.Client.accountaddemail)

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
        """Start again in a forked child, without the loop and the connection of the parent.

        They are not closed: the parent uses their sockets, and sends the messages in its buffer. The lock may
        be held by a thread that does not exist in the child.
        """
        _abandoned.append((self._loop, self._client))
        self._loop = self._thread = self._client = None
        self._lock = threading.Lock()


_living: weakref.WeakSet[BlockingClient] = weakref.WeakSet()
_abandoned: list[object] = []  # kept: their finalizers would close sockets of the parent


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()


def _wait_for(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], limit: float) -> T:
    """Run ``work`` in the thread of the loop, and return its result."""
    try:
        future = asyncio.run_coroutine_threadsafe(work, loop)
    except RuntimeError:  # another thread has closed the client
        work.close()
        raise NotConnected("the client is closed") from None
    try:
        return future.result(limit + _GRACE)
    except concurrent.futures.CancelledError:
        raise NotConnected("the client was closed") from None
    except TimeoutError:
        raise NotConnected("the thread of the client does not answer") from None
    finally:
        future.cancel()  # after a KeyboardInterrupt; a finished future stays as it is


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
        log.warning("tasks of the client did not end")
    loop.call_soon_threadsafe(loop.stop)
    thread.join(_STOP_LIMIT)
    if not thread.is_alive():
        loop.close()


@_with_parameters_of(asynchronous.connect)
def connect(*args: Any, **kwargs: Any) -> BlockingClient:
    """Return a client that connects at its first call, or in ``with``. Parameters as of ``msc.connect``."""
    return BlockingClient(
        lambda: asynchronous.connect(*args, **kwargs), float(kwargs.get("connect_timeout", 10.0))
    )


def _forked() -> None:
    for client in list(_living):
        client._forked()  # noqa: SLF001 -- of this module


def _close_all() -> None:
    """Close all clients at the end of the program, and log their errors."""
    for client in list(_living):
        try:
            client.close()
        except MscError as error:
            log.error("%s", error)  # noqa: TRY400 -- the message says it all


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

atexit.register(_close_all)
