"""The server: one connection, the consumers of every event kind and channel, the actions, and how they stop.

All that depends on a connection lives in one session and ends with it. When the client is closed for
good, which nats-py does on an expired token or a changed password, a new session is made.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import nats.errors
from nats.js.kv import KeyValue

from msc.options import ConnectOptions

from .actions import Resources as ActionResources
from .actions.assembly import make_actions
from .actions.service import Actions
from .broker import Connection, Consumer, Publisher, Topology, connect
from .channels import Channel, Resources, open_channel
from .claims import Claims
from .deliver import Deliverer
from .due import Due
from .entrance import Entrance
from .errors import BrokerError, BrokerLost, BrokerUnfit, innermost
from .intake import Intake
from .loader import settle
from .metrics import Metrics
from .model import Kind
from .notices import Herald
from .pace import Pace
from .rulebook import ActionSpec, ChannelSpec, Rulebook
from .settings import Settings
from .spending import Spending
from .workers import Workers

log = logging.getLogger(__name__)

_EVENTS_IN_HAND = 512  # of one kind in one process
_START_LIMIT = 10.0  # seconds for the broker to say what is not permitted
_DUE_IN_HAND = 256  # deliveries that are moved back to their channels at the same time
_PUBLISH_LIMIT = 5.0  # seconds for the broker to take a channel's message
_SESSION_WAIT = 2.0  # seconds before a lost session is made anew
_BROKER_TROUBLE = (BrokerError, nats.errors.Error, TimeoutError, OSError)


def now() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


def print_block(text: str) -> None:
    """Where console channels write."""
    print(text, flush=True)


def topology_of(settings: Settings) -> Topology:
    """The names on the broker that ``settings`` ask for."""
    return Topology(
        prefix=settings.prefix,
        namespace=settings.namespace,
        streams=settings.stream_prefix,
        replicas=settings.replicas,
        kinds=settings.kinds,
        archive_age=settings.archive_age,
        history_age=settings.history_age,
        dead_age=settings.dead_age,
        ledger_age=settings.ledger_age,
        ack_wait=settings.ack_wait,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    """What lives and dies with one connection."""

    topology: Topology
    connection: Connection
    publisher: Publisher
    ledger: KeyValue
    state: KeyValue
    herald: Herald
    actions: Actions


@dataclass(kw_only=True)
class Server:
    """One replica of MSS."""

    settings: Settings
    rulebook: Rulebook
    metrics: Metrics = field(default_factory=Metrics)
    ready: asyncio.Event = field(default_factory=asyncio.Event)  # events are being taken
    _actions: Actions | None = None  # of the present session
    _workers: Workers | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set; then finish what is in hand within the grace and return.

        Raises BrokerUnfit when the broker cannot serve MSS at the first start; later that is logged
        and tried again, as a lost connection is.
        """
        self._show()
        settle()
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            while not stop.is_set():
                session = asyncio.create_task(self._outcome(stop), name="session")
                await asyncio.wait((session, stopped), return_when=asyncio.FIRST_COMPLETED)
                await self._finish(session)
        finally:
            stopped.cancel()

    async def adopt(self, rulebook: Rulebook, settings: Settings) -> None:
        """Go by ``rulebook`` and ``settings`` from now on; of the settings, by what can change live.

        Raises PolicyError or BrokerError, having changed nothing, when something does not open.
        """
        before = (self.rulebook, self.settings)
        actions, workers = self._actions, self._workers
        opened = await workers.prepare(rulebook.channels) if workers else {}
        self.rulebook, self.settings = rulebook, settings
        try:
            if actions is not None:
                await actions.apply(self._action_specs())
        except BaseException:
            self.rulebook, self.settings = before
            for channel in opened.values():
                await channel.close()
            raise
        # From here on nothing can fail.
        if workers is not None and workers is self._workers:
            workers.commit(rulebook.channels, opened)
        self._show()

    def _show(self) -> None:
        self.metrics.rules.set(len(self.rulebook.rules))
        self.metrics.revision.clear()
        self.metrics.revision.labels(self.rulebook.revision).set(1)

    async def _finish(self, session: asyncio.Task[Exception | None]) -> None:
        """Wait for a session that is over or told to stop; cancel it when the grace is used up."""
        was_serving = self.ready.is_set()
        if not session.done():
            await asyncio.wait((session,), timeout=self.settings.shutdown_grace if was_serving else 0)
        if not session.done():
            if was_serving:
                log.warning("the grace is over; what is in hand goes back to the streams")
            session.cancel()
            await asyncio.wait((session,))
        self.ready.clear()
        error = None if session.cancelled() else session.result()
        if isinstance(error, BrokerUnfit) and not was_serving:
            raise error
        if error is not None:
            log.error("the session is over: %s", str(error) or type(error).__name__)
            await asyncio.sleep(_SESSION_WAIT)

    async def _outcome(self, stop: asyncio.Event) -> Exception | None:
        """Run one session; what the broker did to it is returned, a bug is raised."""
        try:
            await self._session(stop)
        except _BROKER_TROUBLE as error:
            return error
        except BaseExceptionGroup as group:
            trouble, rest = group.split(_BROKER_TROUBLE)
            if rest is not None:
                raise rest from None
            return innermost(trouble) if trouble else None
        return None

    async def _session(self, stop: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            session = await self._begin(stack)
            consumers = [
                *(self._intake(session, kind) for kind in self.settings.kinds),
                self._due(session),
            ]
            async with asyncio.TaskGroup() as tasks:
                attending = [
                    tasks.create_task(session.publisher.run(), name="publisher"),
                    tasks.create_task(_watch(session.connection), name="connection"),
                    tasks.create_task(session.connection.keep_since(session.topology.epoch), name="epoch"),
                ]
                consuming = [tasks.create_task(consumer.run(), name="consumer") for consumer in consumers]
                workers = self._make_workers(session, tasks)
                workers.commit(self.rulebook.channels, await workers.prepare(self.rulebook.channels))
                acting = tasks.create_task(session.actions.run(self._action_specs()), name="actions")
                await session.actions.started.wait()
                for consumer in consumers:
                    await consumer.pulling.wait()
                await workers.pulling()
                await session.connection.round_trip(_START_LIMIT)
                session.connection.require_permitted()
                await session.actions.visibility.start()
                self._actions, self._workers = session.actions, workers
                self.ready.set()
                log.info(
                    "serving %s.* with %d rules, revision %s",
                    self.settings.prefix, len(self.rulebook.rules), self.rulebook.revision,
                )  # fmt: skip
                await stop.wait()
                self._actions = self._workers = None
                in_hand = sum(consumer.in_hand for consumer in consumers)
                in_hand += workers.in_hand + session.actions.in_hand
                log.info("stopping: finishing %d in hand", in_hand)
                session.actions.stop()
                for consumer in consumers:
                    consumer.stop()
                await workers.close()
                await asyncio.wait((*consuming, acting))
                for task in attending:
                    task.cancel()

    async def _begin(self, stack: AsyncExitStack) -> _Session:
        """Connect, make what is missing on the broker, open the channels."""
        connection = await connect(self._options())
        stack.push_async_callback(connection.close)
        topology = topology_of(self.settings)
        await topology.prepare(connection)
        publisher = Publisher(connection)
        await publisher.start()
        stack.push_async_callback(publisher.close)
        resources = _resources(connection)
        ledger, state = await topology.ledger(connection), await topology.state(connection)
        return _Session(
            topology=topology,
            connection=connection,
            publisher=publisher,
            ledger=ledger,
            state=state,
            herald=Herald(topology=topology, publisher=publisher, state=state, clock=now),
            actions=make_actions(
                self.settings,
                connection,
                ledger,
                ActionResources(
                    connection=connection,
                    rulebook=lambda: self.rulebook,
                    open_channel=partial(open_channel, resources=resources),
                    metrics=self.metrics,
                ),
                clock=now,
            ),
        )

    def _options(self) -> dict[str, Any]:
        options = ConnectOptions(
            servers=self.settings.servers,
            name="mss",
            inbox_prefix=f"_INBOX_{self.settings.namespace}",
            **self.settings.access,
        )
        return options.to_nats()

    def _make_workers(self, session: _Session, tasks: asyncio.TaskGroup) -> Workers:
        return Workers(
            connection=session.connection,
            topology=session.topology,
            open_channel=partial(open_channel, resources=_resources(session.connection)),
            consumer=partial(self._deliverer, session),
            ensure=partial(session.topology.ensure_workers, session.connection),
            tasks=tasks,
        )

    def _action_specs(self) -> dict[str, ActionSpec]:
        """The policy's actions without those that are left to others."""
        if not self.settings.actions:
            return {}
        off = self.settings.actions_off
        return {key: spec for key, spec in self.rulebook.actions.items() if key not in off}

    def _intake(self, session: _Session, kind: Kind) -> Consumer:
        intake = Intake(
            kind=kind,
            topology=session.topology,
            connection=session.connection,
            publisher=session.publisher,
            spending=Spending(state=session.state, herald=session.herald, clock=now),
            rulebook=lambda: self.rulebook,
            metrics=self.metrics,
            clock=now,
            tolerance=self.settings.clock_tolerance,
        )
        return Consumer(
            session.connection,
            session.topology.stream(kind),
            session.topology.planner,
            limit=_EVENTS_IN_HAND,
            ack_wait=self.settings.ack_wait,
            handle=intake.handle,
        )

    def _deliverer(self, session: _Session, spec: ChannelSpec, channel: Channel) -> Consumer:
        pace = spec.rate and Pace(rate=spec.rate, key=f"rate.{spec.name}", state=session.state, clock=now)
        entrance = Entrance(name=spec.name, pace=pace or None)
        deliverer = Deliverer(
            spec=spec,
            channel=channel,
            topology=session.topology,
            connection=session.connection,
            publisher=session.publisher,
            entrance=entrance,
            claims=Claims(bucket=session.ledger),
            herald=session.herald,
            metrics=self.metrics,
            clock=now,
        )
        return Consumer(
            session.connection,
            session.topology.delivery_stream,
            session.topology.worker(spec.name),
            limit=spec.concurrency,
            ack_wait=self.settings.ack_wait,
            handle=deliverer.handle,
            on_stop=entrance.close,
        )

    def _due(self, session: _Session) -> Consumer:
        return Consumer(
            session.connection,
            session.topology.timer_stream,
            session.topology.due_worker,
            limit=_DUE_IN_HAND,
            ack_wait=self.settings.ack_wait,
            handle=Due(topology=session.topology, publisher=session.publisher).handle,
        )


def _resources(connection: Connection) -> Resources:
    """What channels may use of this process."""

    async def publish(subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        await connection.hand_over(subject, payload, headers, limit=_PUBLISH_LIMIT)

    return Resources(publish=publish, write=print_block)


async def _watch(connection: Connection) -> None:
    await connection.lost.wait()
    raise BrokerLost("the connection to NATS is closed")
