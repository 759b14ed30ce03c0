"""A durable pull consumer that pulls all the time and never has too many messages in flight.

``fetch`` of nats-py waits for one message at a time and has no standing pull request. This consumer
publishes pull requests itself, for as many messages as it has room for. It pulls again after a reconnect, or
when its inbox is silent. It counts the bugs that a message meets, not its deliveries: the broker or a killed
process may also cause a redelivery.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ..model.errors import BrokerError, BrokerUnsupported
from .broker import Broker
from .connection import message_metadata
from .publisher import PendingAck

log = logging.getLogger(__name__)

_EXPIRES = 30.0  # seconds that one pull request stands
_HEARTBEAT = 5.0  # seconds between heartbeats of the server while there are no messages
_SILENCE = 2.5 * _HEARTBEAT  # seconds without a message or heartbeat: the pulls are lost
_DRAIN_LIMIT = 2.0  # seconds
_UNANSWERED_PULLS = 30  # "no responders" in a row before the consumer counts as deleted
_MAX_SETTLED = 512  # messages whose results are being stored, in addition to those that are handled
_MAX_IN_A_ROW = 64  # messages handled before other tasks run, which send the results
_FLUSH_WINDOW = 0.002  # seconds in which the results of tasks are collected
_REDELIVERY_WAIT = 2.0  # seconds before the redelivery of a message whose handler failed
_ACK = "$JS.ACK."  # where a message of a stream is acknowledged; nothing else has such a reply
_GONE = ("consumer deleted", "consumer not found", "stream not found", "push based")


Handle = Callable[[Msg], PendingAck | Coroutine[Any, Any, PendingAck | None]]

_MAX_RETRIES = 4  # of one message after a bug, in this process
_MAX_TRACKED_MESSAGES = 1000  # messages whose bugs are counted


class Consumer:
    """Passes the messages of one durable consumer to ``handle``, at most ``limit`` at the same time.

    ``handle`` returns a PendingAck at once, or a coroutine if it has to wait; that runs in a task of its
    own. The consumer stores the messages of the PendingAck and then acknowledges, while it handles the next
    message. A coroutine that returns None has acknowledged the message, or asked for a redelivery. After an
    exception, the message is redelivered; after too many bugs, ``give_up`` returns the PendingAck.
    """

    def __init__(
        self,
        broker: Broker,
        stream: str,
        durable: str,
        *,
        limit: int,
        ack_wait: float,
        handle: Handle,
        give_up: Callable[[Msg], PendingAck] | None = None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = broker.connection
        self._publisher = broker.publisher
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._name = f"{stream}/{durable}"
        self._task_name = f"handle {self._name}"
        self._limit = limit
        self._ack_wait = ack_wait
        self._handle = handle
        self._give_up = give_up  # for a message that meets too many bugs
        self._bugs = ErrorBudget()
        self._on_stop = on_stop  # ends the waits of messages in flight
        self._handled: dict[str, Msg] = {}  # by reply subject
        self._settled: dict[str, Msg] = {}  # and not yet acknowledged
        self._in_a_row = 0
        self._flush_window = FlushWindow(_FLUSH_WINDOW)
        self._pulls: dict[str, int] = {}  # reply subject -> messages still to come
        self._pull_count = 0
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._stopping = False
        self._over = False
        self._gone = ""
        self._unanswered = 0
        self._heard = False
        self._wake = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self.pulling = asyncio.Event()  # set once the first pull has gone out

    async def run(self) -> None:
        """Pull and handle until ``stop``, then finish the messages in flight.

        Raises BrokerUnsupported if the consumer was deleted, and BrokerLost if the client is closed.
        """
        self._connection.on_reconnect(self._renew)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                touch = self._tasks.create_task(self._heartbeat(), name=f"keep {self._name}")
                await self._keep_pulling()
                await self._drain()
                while self.in_flight:
                    self._wake.clear()
                    await self._wake.wait()
                touch.cancel()
        finally:
            self._connection.forget_reconnect(self._renew)
            self._over = True

    def stop(self) -> None:
        """Pull no more."""
        self._stopping = True
        self._on_stop()
        self._wake.set()

    @property
    def in_flight(self) -> int:
        """The number of messages that are received and not yet acknowledged."""
        return len(self._handled) + len(self._settled)

    async def _keep_pulling(self) -> None:
        while not self._stopping:
            self._connection.require_open()
            if self._gone:
                raise BrokerUnsupported(f"consumer {self._name}: {self._gone}")
            if not self._inbox:
                await self._subscribe()
            self._wake.clear()
            await self._pull()
            try:
                async with asyncio.timeout(_SILENCE):
                    await self._wake.wait()
            except TimeoutError:
                if self._pulls and not self._heard:
                    log.warning("consumer %s: no heartbeat; pulling again", self._name)
                    self._renew()
                self._heard = False

    def _room(self) -> int:
        """Return how many more messages can be pulled."""
        free = self._limit - len(self._handled)
        if len(self._settled) > _MAX_SETTLED:
            free -= len(self._settled) - _MAX_SETTLED
        return free - sum(self._pulls.values())

    def _wants(self) -> bool:
        # A pull for each free slot would double the traffic; a fifth of the slots keeps the pipe full.
        room = self._room()
        return room > 0 and (not self._pulls or room >= self._limit / 5)

    def _renew(self) -> None:
        """Drop the inbox and every pull: both are lost with the connection, or may be."""
        self._pulls.clear()
        self._inbox = ""
        self._wake.set()

    async def _subscribe(self) -> None:
        await self._unsubscribe()
        self._inbox = self._connection.client.new_inbox()
        self._subscription = await self._connection.client.subscribe(
            f"{self._inbox}.*", cb=self._received, pending_msgs_limit=-1, pending_bytes_limit=-1
        )

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None and self._connection.client.is_connected:
            # Draining handles the messages that have arrived: dropped, they would wait for ack_wait.
            await self._connection.wait_bounded(subscription.drain(), _DRAIN_LIMIT)  # type: ignore[no-untyped-call]

    async def _drain(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None and self._connection.client.is_connected:
            await self._connection.drain(subscription, _DRAIN_LIMIT)

    async def _pull(self) -> None:
        if not self._wants():
            return
        room = self._room()
        self._pull_count += 1
        reply = f"{self._inbox}.{self._pull_count}"
        self._pulls[reply] = room
        request = {"batch": room, "expires": int(_EXPIRES * 1e9), "idle_heartbeat": int(_HEARTBEAT * 1e9)}
        try:
            await self._connection.publish(self._next, json.dumps(request).encode(), reply=reply)
        except nats.errors.OutboundBufferLimitError:
            del self._pulls[reply]  # the broker is not available; the reconnect wakes this task
        self.pulling.set()

    async def _received(self, msg: Msg) -> None:
        self._heard = True
        if not msg.reply.startswith(_ACK):
            self._status(msg)
            return
        self._unanswered = 0
        self._count_one()
        if self._over:
            return  # the connection is lost or closed: the message is redelivered
        if self._tasks is None:
            await msg.nak()  # another replica can handle it at once
            return
        # Also while stopping: a message that is dropped would come again, marked as redelivered.
        self._handled[msg.reply] = msg
        try:
            begun = self._handle(msg)
            if isinstance(begun, PendingAck):
                self._free_slot(msg)
                await self._store(msg, begun)
        except Exception as error:  # noqa: BLE001 -- `_finish` decides about every error
            begun = _raised(error)
        if not isinstance(begun, PendingAck):
            self._tasks.create_task(self._finish(msg, begun), name=self._task_name)
        self._in_a_row = (self._in_a_row + 1) % _MAX_IN_A_ROW
        if not self._in_a_row:
            await asyncio.sleep(0)

    async def _finish(self, msg: Msg, begun: Awaitable[PendingAck | None]) -> None:
        try:
            pending_ack = await begun
            if pending_ack is not None:
                self._free_slot(msg)
                await self._flush_window.wait()
                await self._store(msg, pending_ack)
                return
        except BrokerError as error:
            log.warning("consumer %s: %s", self._name, error)
            await self._nak(msg)
        except Exception:
            # The one place where a bug is caught: the message is delayed, and the process continues.
            if self._give_up is not None and not self._bugs.allows_retry(msg):
                log.exception("consumer %s: a bug; the message is dead-lettered", self._name)
                self._free_slot(msg)
                await self._store(msg, self._give_up(msg))
                return
            log.exception("consumer %s: a bug; the message will be redelivered", self._name)
            await self._nak(msg)
        self._done(msg)

    def _free_slot(self, msg: Msg) -> None:
        """Let the next message be handled while the results of ``msg`` are stored."""
        self._settled[msg.reply] = self._handled.pop(msg.reply)
        self._look_for_room()

    async def _store(self, msg: Msg, pending_ack: PendingAck) -> None:
        async def then(error: BrokerError | None) -> None:
            try:
                if error is None:
                    await msg.ack()
                    if pending_ack.settled is not None:
                        pending_ack.settled()
                else:
                    log.warning("consumer %s: %s", self._name, error)
                    await self._nak(msg)
            except nats.errors.Error as failure:
                log.warning("consumer %s: not acknowledged: %s", self._name, failure)
            finally:
                self._settled.pop(msg.reply, None)
                if self._stopping or len(self._settled) >= _MAX_SETTLED:  # otherwise there was room before
                    self._look_for_room()

        await self._publisher.send(pending_ack.messages, then)

    def _done(self, msg: Msg) -> None:
        self._handled.pop(msg.reply, None)
        self._settled.pop(msg.reply, None)
        self._look_for_room()

    def _look_for_room(self) -> None:
        if self._stopping or self._wants():
            self._wake.set()

    async def _nak(self, msg: Msg) -> None:
        with contextlib.suppress(nats.errors.Error):
            await msg.nak(delay=_REDELIVERY_WAIT)

    async def _heartbeat(self) -> None:
        """Report the messages in flight as in progress, well within ack_wait."""
        while True:
            await asyncio.sleep(self._ack_wait / 3)
            for msg in (*self._handled.values(), *self._settled.values()):
                with contextlib.suppress(nats.errors.Error):
                    await msg.in_progress()

    def _count_one(self) -> None:
        # A message does not name its pull request; the server serves the oldest first.
        oldest = next(iter(self._pulls), None)
        if oldest is not None:
            self._pulls[oldest] -= 1
            if self._pulls[oldest] == 0:
                del self._pulls[oldest]

    def _status(self, msg: Msg) -> None:
        headers = msg.headers or {}
        status, description = headers.get("Status", ""), headers.get("Description", "").lower()
        if status == "100":
            return  # a heartbeat
        self._pulls.pop(msg.subject, None)
        if status == "503":
            self._unanswered += 1
            if self._unanswered > _UNANSWERED_PULLS:
                self._gone = "no server replies to its pull requests"
            asyncio.get_running_loop().call_later(1.0, self._wake.set)
            return
        if any(word in description for word in _GONE):
            self._gone = description
        self._wake.set()


async def _raised(error: Exception) -> None:
    raise error


class ErrorBudget:
    """Counts the bugs that each message of a stream meets."""

    def __init__(self) -> None:
        self._met: Counter[int] = Counter()  # by sequence in the stream

    def allows_retry(self, msg: Msg) -> bool:
        """Count one more bug; return whether ``msg`` may be redelivered."""
        sequence = message_metadata(msg.reply).sequence
        self._met[sequence] += 1
        if len(self._met) > _MAX_TRACKED_MESSAGES:
            del self._met[next(iter(self._met))]
        return self._met[sequence] <= _MAX_RETRIES


class FlushWindow:
    """Collects the writes of several tasks, because each write to the broker costs a system call.

    The first task waits for ``seconds``; a task that comes in between waits for the rest of them.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._over: asyncio.Event | None = None

    async def wait(self) -> None:
        """Return at the end of the window, in the same turn of the event loop as the other tasks."""
        if self._over is None:
            self._over = asyncio.Event()
            asyncio.get_running_loop().call_later(self._seconds, self._end, self._over)
        await self._over.wait()

    def _end(self, over: asyncio.Event) -> None:
        self._over = None
        over.set()
