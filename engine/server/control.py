"""The control protocol between the command and the replicas, on ``<namespace>.control.<verb>``.

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

_LEAVE_LIMIT = 2.0  # seconds
_HEAR_LIMIT = 5.0  # seconds for the broker to take a question
_QUIET = 0.5  # seconds in which replicas say that they are there
_MAX_PROBLEMS = 50  # in one answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadResult:
    """How a reload went."""

    revision: str  # in force now; of a rehearsal: of the files
    changed: bool
    problems: tuple[Problem, ...] = ()  # why nothing was changed
    restart_required: tuple[str, ...] = ()  # settings that take effect at the next start
    at: float = 0.0  # seconds since the epoch

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerLag:
    """What is still to be done of one stream, or for one channel, over all replicas."""

    name: str
    pending: int = 0  # that nobody has been handed yet
    in_flight: int = 0  # handed out and not yet done with
    error: str = ""  # why the broker did not say


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What one replica does and how it stands."""

    version: str
    started: float  # seconds since the epoch
    rules: int
    is_serving: bool
    kinds: tuple[str, ...] = ()  # of events that it takes
    actions: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()  # whose deliveries it sends, those of earlier policies too
    in_flight: int = 0  # messages and requests that it has not yet done with
    streams: tuple[ConsumerLag, ...] = ()
    queues: tuple[ConsumerLag, ...] = ()  # of channels
    reload: ReloadResult | None = None  # the last one
    source_error: str = ""  # why the policy cannot be looked at where it lies; empty while it can


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReply:
    """What one replica says to one request."""

    id: str  # of the replica, unlike any other's
    name: str
    revision: str
    since: float  # when that revision came into force, seconds since the epoch
    is_done: bool = True  # False: it is there, and will say more
    error: str = ""  # why it can say nothing
    reload: ReloadResult | None = None
    status: Status | None = None


@dataclass(kw_only=True)
class Control:
    """Answers for one replica over one connection."""

    connection: Connection
    namespace: str
    identity: Callable[[], ReplicaReply]  # who this is
    commands: Mapping[str, Callable[[], Awaitable[ReplicaReply]]]
    tasks: asyncio.TaskGroup
    _subscriptions: list[Subscription] = field(default_factory=list)
    _in_flight: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """Listen. Where permissions forbid it, the log says so and all else works."""
        for verb in self.commands:
            self._subscriptions.append(
                await self.connection.client.subscribe(
                    f"{self.namespace}.control.{verb}", cb=partial(self._received, verb)
                )
            )

    async def close(self) -> None:
        """Hear no more, and say what is still to be said."""
        if self.connection.client.is_connected:
            for subscription in self._subscriptions:
                await self.connection.wait_bounded(subscription.drain(), _LEAVE_LIMIT)  # type: ignore[no-untyped-call]
        if self._in_flight:
            await asyncio.wait(list(self._in_flight), timeout=_LEAVE_LIMIT)
        for task in self._in_flight:
            task.cancel()

    async def _received(self, verb: str, msg: Msg) -> None:
        if msg.reply and not msg.reply.startswith("$"):
            task = self.tasks.create_task(self._answer(verb, msg.reply), name=f"control {verb}")
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)

    async def _answer(self, verb: str, reply: str) -> None:
        await self._send(reply, replace(self.identity(), is_done=False))
        try:
            answer = await self.commands[verb]()
        except Exception as error:
            # Nobody may be left waiting over a bug.
            log.exception("control %s: a bug", verb)
            answer = replace(self.identity(), error=f"a bug: {error!r}")
        await self._send(reply, answer)

    async def _send(self, reply: str, answer: ReplicaReply) -> None:
        try:
            await self.connection.publish(reply, encode(answer))
        except (BrokerError, nats.errors.Error) as error:
            log.warning("control: an answer could not be sent: %s", error)


def shortened(reloaded: ReloadResult | None) -> ReloadResult | None:
    """With no more problems than fit into a message."""
    return reloaded and replace(reloaded, problems=reloaded.problems[:_MAX_PROBLEMS])


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReplies:
    """What came of asking."""

    done: tuple[ReplicaReply, ...]  # in order of names
    silent: tuple[ReplicaReply, ...]  # said that they are there, and no more


async def ask_replicas(
    connection: Connection, namespace: str, verb: str, *, limit: float, expect: int = 0
) -> ReplicaReplies:
    """Ask every replica and wait until each that is there has answered, at most ``limit`` seconds.

    With ``expect``, wait for that many. Raises NotPermitted, BrokerError.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = connection.client.new_inbox()
    subscription = await connection.client.subscribe(inbox, cb=arrived.put)
    said = len(connection.violations)
    await connection.publish(f"{namespace}.control.{verb}", b"", reply=inbox)
    if not await connection.flush(_HEAR_LIMIT):
        raise BrokerError("NATS does not answer")
    deadline, quiet = loop.time() + limit, loop.time() + _QUIET
    here: dict[str, ReplicaReply] = {}
    done: dict[str, ReplicaReply] = {}
    while True:
        waits = len(done) < max(expect, len(here))
        until = deadline if waits else min(deadline, quiet)
        try:
            async with asyncio.timeout_at(until):
                msg = await arrived.get()
        except TimeoutError:
            break
        if not msg.data and (msg.headers or {}).get("Status") == "503":
            break  # nobody is there
        answer = _decoded(msg.data)
        (done if answer.is_done else here)[answer.id] = answer
    await subscription.unsubscribe()
    if connection.violations[said:]:
        raise NotPermitted("; ".join(connection.violations[said:]))
    silent = [answer for id_, answer in here.items() if id_ not in done]
    return ReplicaReplies(done=_by_name(done.values()), silent=_by_name(silent))


def _by_name(answers: Iterable[ReplicaReply]) -> tuple[ReplicaReply, ...]:
    return tuple(sorted(answers, key=lambda answer: (answer.name, answer.id)))


def _decoded(data: bytes) -> ReplicaReply:
    try:
        return msgspec.json.decode(data, type=ReplicaReply)
    except msgspec.MsgspecError as error:
        raise BrokerError(f"something else than MSS answers: {error}") from error
