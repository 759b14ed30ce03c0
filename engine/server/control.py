"""The control protocol between commands and replicas, on ``<namespace>.control.<command>``.

A replica confirms a request at once, and replies when it has finished. So the caller knows which replicas
to wait for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ..broker import Connection
from ..broker.codec import encode
from ..model.errors import BrokerError, NotPermitted
from ..model.problems import Problem

log = logging.getLogger(__name__)

_CLOSE_LIMIT = 2.0  # seconds
_FLUSH_LIMIT = 5.0  # seconds for the broker to accept a request
_CONFIRM_LIMIT = 0.5  # seconds for replicas to confirm a request
_MAX_PROBLEMS = 50  # in one reply


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadResult:
    """The result of one reload."""

    revision: str  # the active one; of a dry run the one of the files
    changed: bool
    problems: tuple[Problem, ...] = ()  # the reasons of a refused reload
    restart_required: tuple[str, ...] = ()  # settings that take effect at the next start
    at: float = 0.0  # seconds since the epoch

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerLag:
    """The unfinished messages of one stream or one channel, over all replicas."""

    name: str
    pending: int = 0  # not delivered to a replica yet
    in_flight: int = 0  # delivered and not acknowledged
    error: str = ""  # why the broker did not report it


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The work and the state of one replica."""

    version: str
    started: float  # seconds since the epoch
    rules: int
    is_serving: bool
    kinds: tuple[str, ...] = ()  # of events that it consumes
    actions: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()  # whose deliveries it sends, those of earlier policies included
    in_flight: int = 0  # messages and requests that are not finished
    streams: tuple[ConsumerLag, ...] = ()
    queues: tuple[ConsumerLag, ...] = ()  # of channels
    reload: ReloadResult | None = None  # the last one
    source_error: str = ""  # why the source of the policy cannot be read; empty if it can


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReply:
    """One reply of one replica to one request."""

    id: str  # of the replica, unique
    name: str
    revision: str
    since: float  # when that revision became active, seconds since the epoch
    is_done: bool = True  # False: a confirmation, the result follows
    error: str = ""  # why there is no result
    reload: ReloadResult | None = None
    status: Status | None = None


@dataclass(kw_only=True)
class Control:
    """The replies of one replica over one connection."""

    connection: Connection
    namespace: str
    identity: Callable[[], ReplicaReply]
    commands: Mapping[str, Callable[[], Awaitable[ReplicaReply]]]
    tasks: asyncio.TaskGroup
    _subscriptions: list[Subscription] = field(default_factory=list)
    _in_flight: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """Subscribe. If permissions forbid it, the log says so and everything else works."""
        for command in self.commands:
            self._subscriptions.append(
                await self.connection.client.subscribe(
                    f"{self.namespace}.control.{command}", cb=partial(self._received, command)
                )
            )

    async def close(self) -> None:
        """Unsubscribe, and send the replies that are still due."""
        if self.connection.client.is_connected:
            for subscription in self._subscriptions:
                await self.connection.wait_bounded(subscription.drain(), _CLOSE_LIMIT)  # type: ignore[no-untyped-call]
        if self._in_flight:
            await asyncio.wait(list(self._in_flight), timeout=_CLOSE_LIMIT)
        for task in self._in_flight:
            task.cancel()

    async def _received(self, command: str, msg: Msg) -> None:
        if msg.reply and not msg.reply.startswith("$"):
            task = self.tasks.create_task(self._answer(command, msg.reply), name=f"control {command}")
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)

    async def _answer(self, command: str, subject: str) -> None:
        await self._send(subject, replace(self.identity(), is_done=False))
        try:
            reply = await self.commands[command]()
        except Exception as error:
            # The caller must get a reply in spite of a bug.
            log.exception("control %s: a bug", command)
            reply = replace(self.identity(), error=f"a bug: {error!r}")
        await self._send(subject, reply)

    async def _send(self, subject: str, reply: ReplicaReply) -> None:
        try:
            await self.connection.publish(subject, encode(reply))
        except (BrokerError, nats.errors.Error) as error:
            log.warning("control: a reply could not be sent: %s", error)


def shortened(result: ReloadResult | None) -> ReloadResult | None:
    """Return ``result`` with no more problems than fit into a message."""
    return result and replace(result, problems=result.problems[:_MAX_PROBLEMS])


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReplies:
    """The replies to one request, in order of names."""

    done: tuple[ReplicaReply, ...]
    silent: tuple[ReplicaReply, ...]  # confirmed the request, but did not reply in time


async def ask_replicas(
    connection: Connection, namespace: str, command: str, *, limit: float, expect: int = 0
) -> ReplicaReplies:
    """Ask all replicas, and wait until each one that confirmed has replied, at most ``limit`` seconds.

    With ``expect``, wait for at least that many. Raises NotPermitted, BrokerError.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = connection.client.new_inbox()
    subscription = await connection.client.subscribe(inbox, cb=arrived.put)
    known = len(connection.violations)
    await connection.publish(f"{namespace}.control.{command}", b"", reply=inbox)
    if not await connection.flush(_FLUSH_LIMIT):
        raise BrokerError("NATS does not answer")
    deadline, confirmed_by = loop.time() + limit, loop.time() + _CONFIRM_LIMIT
    confirmed: dict[str, ReplicaReply] = {}
    done: dict[str, ReplicaReply] = {}
    while True:
        waits = len(done) < max(expect, len(confirmed))
        until = deadline if waits else min(deadline, confirmed_by)
        try:
            async with asyncio.timeout_at(until):
                msg = await arrived.get()
        except TimeoutError:
            break
        if not msg.data and (msg.headers or {}).get("Status") == "503":
            break  # there is no replica
        reply = _decoded(msg.data)
        (done if reply.is_done else confirmed)[reply.id] = reply
    await subscription.unsubscribe()
    if connection.violations[known:]:
        raise NotPermitted("; ".join(connection.violations[known:]))
    silent = [reply for id_, reply in confirmed.items() if id_ not in done]
    return ReplicaReplies(done=_by_name(done.values()), silent=_by_name(silent))


def _by_name(replies: Iterable[ReplicaReply]) -> tuple[ReplicaReply, ...]:
    return tuple(sorted(replies, key=lambda reply: (reply.name, reply.id)))


def _decoded(data: bytes) -> ReplicaReply:
    try:
        return msgspec.json.decode(data, type=ReplicaReply)
    except msgspec.MsgspecError as error:
        raise BrokerError(f"a program other than MSS replied: {error}") from error
