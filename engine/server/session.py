"""A session: everything that lives over one connection, and how it changes at a reload.

Streams, publisher, consumers, channel workers and actions start with the session and end with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import nats.errors

from msc.errors import ConnectError

from ..actions import HandlerResources
from ..actions.service import ActionService, PreparedActions
from ..broker import Broker, Connection, Consumer, Handle, Provisioner, Topology, connect, connect_options
from ..channels import Channel, ChannelResources, open_channel
from ..metrics import ChannelState, Metrics
from ..model.errors import BrokerError, BrokerLost, BrokerUnsupported, innermost
from ..model.messages import Kind
from ..pipeline.channel_workers import ChannelWorkers
from ..pipeline.deliver import DeliveryWorker
from ..pipeline.digests import DigestFlusher
from ..pipeline.dispatch import DelayedForwarder
from ..pipeline.flow_control import DistributedRateLimiter, FlowControl
from ..pipeline.ingest import EventIngester
from ..pipeline.operator_notices import OperatorNotifier
from ..preferences.cache import PreferenceCache
from ..preferences.store import PreferenceStore
from ..rules.rulebook import ActionSpec, ChannelSpec, Rulebook
from ..runtime import free_gradually, is_cancelled, now, run_in_thread
from ..settings import Settings
from .control import ConsumerLag, Control, ReplicaReply, Status
from .health import measure_backlog

log = logging.getLogger(__name__)

_EVENTS_IN_FLIGHT = 512  # of one kind in one process
_TIMERS_IN_FLIGHT = 256  # due deliveries, and due digests, at the same time
_PUBLISH_LIMIT = 5.0  # seconds for the broker to take a channel's message
_START_LIMIT = 10.0  # seconds for the broker to report missing permissions
_BACKLOG_PERIOD = 60.0  # seconds
_INFO_LIMIT = 2.0  # seconds for the broker to describe a consumer
_NATS_ERRORS = (nats.errors.Error, TimeoutError, OSError)
_BROKER_ERRORS = (BrokerError, *_NATS_ERRORS)

Lags: TypeAlias = dict[tuple[str, str], ConsumerLag]  # by stream and durable


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedReload:
    """A policy and settings that a session can switch to, with all that they need already open."""

    rulebook: Rulebook
    settings: Settings
    channels: dict[str, Channel]  # those that are new or changed
    actions: PreparedActions


@dataclass(kw_only=True)
class Session:
    """One connection to the broker, and all work over it."""

    settings: Settings  # the current ones; a reload replaces them
    rulebook: Callable[[], Rulebook]  # the active one
    metrics: Metrics
    identity: Callable[[], ReplicaReply]  # of this replica
    commands: Mapping[str, Callable[[], Awaitable[ReplicaReply]]]  # of the control protocol
    is_patient: bool = True  # waits for a broker that is not available
    ready: asyncio.Event = field(default_factory=asyncio.Event)  # events are consumed
    task: asyncio.Task[Exception | None] = field(init=False)  # its result is the error that ended the session
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _parts: _SessionParts | None = None  # while the session serves
    _ingesters: dict[Kind, Consumer] = field(default_factory=dict)
    _consuming: set[asyncio.Task[None]] = field(default_factory=set)

    def start(self) -> None:
        """Begin to serve in a task. An error of the broker is its result; a bug is raised."""
        self.task = asyncio.create_task(self._run(), name="session")

    async def end(self, grace: float) -> Exception | None:
        """Finish the messages in flight within ``grace`` seconds, then cancel; returns the task's error."""
        is_serving = self.ready.is_set()
        if not self.task.done():
            if is_serving:
                log.info("stopping: finishing %d messages in flight", self.in_flight)
            self._stopping.set()
            await asyncio.wait((self.task,), timeout=grace if is_serving else 0)
        if not self.task.done():
            if is_serving:
                log.warning("the grace is over; messages in flight return to the streams")
            await self.cancel()
        return None if self.task.cancelled() else self.task.result()

    async def cancel(self) -> None:
        """End at once; messages in flight return to the streams."""
        self.task.cancel()
        await asyncio.wait((self.task,))

    async def _run(self) -> Exception | None:
        try:
            await self._serve()
        except _BROKER_ERRORS as error:
            return error
        except BaseExceptionGroup as group:
            expected, bugs = group.split(_BROKER_ERRORS)
            if bugs is not None:
                raise bugs from None
            return innermost(expected) if expected else None
        return None

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack:
            parts = await self._connect(stack)
            connection = parts.broker.connection
            tracking = connection.track_server_start(parts.provisioner.server_started_at)
            background = [
                parts.tasks.create_task(parts.broker.publisher.run(), name="publisher"),
                parts.tasks.create_task(_raise_when_lost(connection), name="connection"),
                parts.tasks.create_task(tracking, name="epoch"),
                parts.tasks.create_task(parts.preferences.run(), name="preferences"),
                parts.tasks.create_task(self._watch_backlog(parts.broker), name="backlog"),
            ]
            actions = await self._start(parts)
            control = Control(
                connection=connection,
                namespace=self.settings.namespace,
                identity=self.identity,
                commands=self.commands,
                tasks=parts.tasks,
            )
            await control.start()
            self._parts = parts
            self.ready.set()
            try:
                await self._stopping.wait()
            finally:
                self._parts = None
            parts.actions.stop()
            for consumer in (*self._ingesters.values(), *parts.timers):
                consumer.stop()
            await parts.workers.close()
            await asyncio.wait((*self._consuming, actions))
            await control.close()
            for task in background:
                task.cancel()

    async def prepare(self, rulebook: Rulebook, settings: Settings) -> PreparedReload:
        """Open all that ``rulebook`` and ``settings`` need, and change nothing.

        Raises PolicyError or BrokerError if something cannot be opened; then everything is closed again.
        No other task runs between the return of this method and a ``commit`` that follows at once.
        """
        channels: dict[str, Channel] = {}
        try:
            parts = self._serving()
            for kind in settings.kinds:
                if kind not in self._ingesters:
                    await parts.provisioner.ensure_kind(kind)
            channels = await parts.workers.prepare(rulebook.channels)
            actions = await self._serving().actions.prepare(action_specs(rulebook, settings), rulebook)
        except BaseException as error:
            for channel in channels.values():
                await channel.close()
            if isinstance(error, _NATS_ERRORS):
                raise BrokerError(f"NATS: {str(error) or 'no answer'}") from error
            raise
        return PreparedReload(rulebook=rulebook, settings=settings, channels=channels, actions=actions)

    async def commit(self, prepared: PreparedReload, replaced: Rulebook) -> None:
        """Switch to what ``prepare`` returned, at once. Never raises.

        Returns when the broker knows the new subjects of actions and the removed actions have replied.
        Digests of rules that ``replaced`` had, and that are gone, are sent in the background.
        """
        parts = self._serving()
        self.settings = prepared.settings
        parts.workers.commit(prepared.rulebook.channels, prepared.channels)
        self._consume_kinds(parts)
        flushing = flush_removed_digests(parts.flusher, replaced, prepared.rulebook)
        parts.tasks.create_task(flushing, name="flush")
        try:
            await parts.actions.commit(prepared.actions)
        except nats.errors.Error as error:
            # Only a closed connection fails here; the next session subscribes to all subjects.
            log.warning("actions are served when the server is connected again: %s", error)

    @property
    def actions(self) -> ActionService | None:
        """The actions, while the session serves."""
        return self._parts.actions if self._parts else None

    @property
    def in_flight(self) -> int:
        """Messages and requests that are not yet finished."""
        if self._parts is None:
            return 0
        consumed = sum(consumer.in_flight for consumer in (*self._ingesters.values(), *self._parts.timers))
        return consumed + self._parts.workers.in_flight + self._parts.actions.in_flight

    def channel_states(self) -> tuple[ChannelState, ...]:
        """Return the state of each channel whose deliveries are sent."""
        return self._parts.workers.states() if self._parts else ()

    async def complete(self, status: Status) -> Status:
        """Return ``status`` with the work of this session."""
        if (parts := self._parts) is None:
            return status
        streams, queues = await self.lags()
        return replace(
            status,
            kinds=tuple(map(str, self._ingesters)),
            actions=parts.actions.keys,
            channels=parts.workers.names,
            in_flight=self.in_flight,
            streams=tuple(streams.values()),
            queues=tuple(queues.values()),
        )

    async def lags(self) -> tuple[Lags, Lags]:
        """Return the lag of the consumers of events and timers, and of those of channels."""
        if (parts := self._parts) is None:
            return {}, {}
        topology = parts.broker.topology
        streams = {
            **{(topology.stream(kind), topology.planner): str(kind) for kind in self._ingesters},
            (topology.timer_stream, topology.delivery_timer_worker): "due",
            (topology.timer_stream, topology.digest_timer_worker): "digest",
        }
        queues = {(topology.delivery_stream, topology.worker(name)): name for name in parts.workers.names}
        asked = (_lag(parts.broker.connection, name, *key) for key, name in (streams | queues).items())
        lags = dict(zip((*streams, *queues), await asyncio.gather(*asked), strict=True))
        return {key: lags[key] for key in streams}, {key: lags[key] for key in queues}

    async def _watch_backlog(self, broker: Broker) -> None:
        """Measure the backlog of events until cancelled."""
        while not is_cancelled():
            await asyncio.sleep(_BACKLOG_PERIOD)
            await measure_backlog(broker, tuple(self._ingesters), self.metrics, now())

    def _serving(self) -> _SessionParts:
        if self._parts is None or self._parts.broker.connection.lost.is_set():
            raise BrokerError("there is no connection to NATS at this moment")
        return self._parts

    async def _connect(self, stack: AsyncExitStack) -> _SessionParts:
        """Connect, and create what is missing on the broker; ``stack`` closes it all."""
        try:
            connection = await connect(connect_options(self.settings), is_patient=self.is_patient)
        except ConnectError as error:
            raise BrokerUnsupported(str(error)) from error
        stack.push_async_callback(connection.close)
        broker = Broker(connection, Topology.of(self.settings))
        provisioner = Provisioner(broker.topology, connection)
        await provisioner.provision()
        await broker.publisher.start()
        stack.push_async_callback(broker.publisher.close)
        return _SessionParts(
            lambda: self.settings,
            self.rulebook,
            self.metrics,
            broker=broker,
            provisioner=provisioner,
            tasks=await stack.enter_async_context(asyncio.TaskGroup()),
        )

    async def _start(self, parts: _SessionParts) -> asyncio.Task[None]:
        """Start everything, and return when all of it runs. Returns the task of the actions."""
        rulebook = self.rulebook()
        self._consume_kinds(parts)
        for consumer in parts.timers:
            self._consume(parts, consumer)
        parts.workers.commit(rulebook.channels, await parts.workers.prepare(rulebook.channels))
        specs = action_specs(rulebook, self.settings)
        actions = parts.tasks.create_task(parts.actions.run(specs), name="actions")
        await parts.actions.started.wait()
        for consumer in (*self._ingesters.values(), *parts.timers):
            await consumer.pulling.wait()
        await parts.workers.pulling()
        await parts.broker.connection.flush(_START_LIMIT)
        parts.broker.connection.require_permitted()
        await parts.actions.micro.start()
        return actions

    def _consume_kinds(self, parts: _SessionParts) -> None:
        """Consume exactly the kinds of events that the settings name."""
        for kind in self.settings.kinds:
            if kind not in self._ingesters:
                self._ingesters[kind] = parts.ingester(kind)
                self._consume(parts, self._ingesters[kind])
        for kind in self._ingesters.keys() - set(self.settings.kinds):
            self._ingesters.pop(kind).stop()

    def _consume(self, parts: _SessionParts, consumer: Consumer) -> None:
        task = parts.tasks.create_task(consumer.run(), name="consumer")
        self._consuming.add(task)
        task.add_done_callback(self._consuming.discard)


class _SessionParts:
    """The parts of a connected session."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        rulebook: Callable[[], Rulebook],
        metrics: Metrics,
        *,
        broker: Broker,
        provisioner: Provisioner,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.broker, self.provisioner, self.tasks = broker, provisioner, tasks
        self._settings, self._rulebook, self._metrics = settings, rulebook, metrics
        self._consumer = partial(Consumer, broker, ack_wait=settings().ack_wait)
        self._notifier = OperatorNotifier(
            broker=broker, clock=now, is_enabled=lambda: Kind.NOTICE in settings().kinds
        )
        self.preferences = PreferenceCache(PreferenceStore(broker.preferences), metrics)

        async def publish(subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
            await broker.connection.publish_confirmed(subject, payload, headers, limit=_PUBLISH_LIMIT)

        opener = partial(open_channel, resources=ChannelResources(publish=publish))
        resources = HandlerResources(
            connection=broker.connection,
            rulebook=rulebook,
            open_channel=opener,
            metrics=metrics,
            preferences=self.preferences,
        )
        self.actions = ActionService(settings, broker.ledger, resources, clock=now)
        self.workers = ChannelWorkers(
            broker=broker,
            open_channel=opener,
            consumer=self.delivery_worker,
            ensure=provisioner.ensure_workers,
            tasks=tasks,
        )
        self.flusher = DigestFlusher(
            broker=broker,
            notifier=self._notifier,
            rulebook=rulebook,
            preferences=self.preferences,
            metrics=metrics,
            clock=now,
        )
        topology = broker.topology
        self.timers = (
            self._timer_consumer(topology.delivery_timer_worker, DelayedForwarder(broker).handle),
            self._timer_consumer(topology.digest_timer_worker, self.flusher.handle),
        )

    def ingester(self, kind: Kind) -> Consumer:
        """Return a consumer that plans the events of one kind."""
        ingester = EventIngester(
            kind=kind,
            planner_created=self.provisioner.planner_created,
            broker=self.broker,
            notifier=self._notifier,
            preferences=self.preferences,
            rulebook=self._rulebook,
            metrics=self._metrics,
            clock=now,
            tolerance=lambda: self._settings().clock_tolerance,
        )
        return self._consumer(
            self.broker.topology.stream(kind),
            self.broker.topology.planner,
            limit=_EVENTS_IN_FLIGHT,
            handle=ingester.handle,
            give_up=ingester.give_up,
        )

    def delivery_worker(self, spec: ChannelSpec, channel: Channel) -> tuple[Consumer, FlowControl]:
        """Return the consumer that sends the deliveries of one channel, and its flow control."""
        limiter = spec.rate and DistributedRateLimiter(
            rate=spec.rate, key=f"rate.{spec.name}", state=self.broker.state, clock=now
        )
        wait_times = self._metrics.rate_limiter_wait
        flow_control = FlowControl(
            name=spec.name,
            rate_limiter=limiter or None,
            observe_wait=wait_times.labels(spec.name).observe if limiter else lambda _: None,
        )
        worker = DeliveryWorker(
            spec=spec,
            channel=channel,
            broker=self.broker,
            flow_control=flow_control,
            notifier=self._notifier,
            metrics=self._metrics,
            clock=now,
        )
        consumer = self._consumer(
            self.broker.topology.delivery_stream,
            self.broker.topology.worker(spec.name),
            limit=spec.concurrency,
            handle=worker.handle,
            on_stop=flow_control.close,
        )
        return consumer, flow_control

    def _timer_consumer(self, durable: str, handle: Handle) -> Consumer:
        return self._consumer(
            self.broker.topology.timer_stream,
            durable,
            limit=_TIMERS_IN_FLIGHT,
            handle=handle,
        )


def action_specs(rulebook: Rulebook, settings: Settings) -> dict[str, ActionSpec]:
    """Return the actions of the policy without those that the settings leave to other programs."""
    if not settings.actions:
        return {}
    return {key: spec for key, spec in rulebook.actions.items() if key not in settings.actions_off}


async def flush_removed_digests(flusher: DigestFlusher, replaced: Rulebook, active: Rulebook) -> None:
    """Send the digests of rules that ``active`` no longer has, then free ``replaced`` in a thread.

    A digest that cannot be sent now is recorded as not sent when it is due.
    """
    try:
        await flusher.flush_removed(replaced, active)
    except _BROKER_ERRORS as error:
        log.warning("digests of removed rules are not sent: %s", str(error) or "no answer")
    # The reload may have tried to free it while it was in use here.
    freed: list[object] = [replaced]
    del replaced
    await run_in_thread(free_gradually, freed)


async def _lag(connection: Connection, name: str, stream: str, durable: str) -> ConsumerLag:
    try:
        info = await connection.js.consumer_info(stream, durable, timeout=_INFO_LIMIT)
    except _NATS_ERRORS as error:
        return ConsumerLag(name=name, error=str(error) or "no answer")
    return ConsumerLag(name=name, pending=info.num_pending or 0, in_flight=info.num_ack_pending or 0)


async def _raise_when_lost(connection: Connection) -> None:
    await connection.lost.wait()
    raise BrokerLost("the connection to NATS is closed")
