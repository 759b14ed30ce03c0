"""A session: everything over one connection, and how it changes at a reload.

Streams, publisher, consumers, channel workers and actions start with the session and end with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import nats.errors

from msc.errors import ConnectError
from msc.options import ConnectOptions

from ..actions import HandlerResources
from ..actions.service import ActionService
from ..broker import (
    AtomicStore,
    Bucket,
    Connection,
    Consumer,
    Handle,
    Provisioner,
    Publisher,
    Topology,
    connect,
)
from ..channels import Channel, ChannelResources, open_channel
from ..history.plan_store import PlanStore
from ..metrics import ChannelState, Metrics
from ..model.errors import BrokerError, BrokerLost, BrokerUnsupported
from ..model.messages import Kind
from ..pipeline.channel_workers import ChannelWorkers
from ..pipeline.claims import AttemptClaims
from ..pipeline.deliver import DeliveryWorker
from ..pipeline.digests import DigestFlusher
from ..pipeline.dispatch import DelayedForwarder
from ..pipeline.flow_control import DistributedRateLimiter, FlowControl
from ..pipeline.ingest import EventIngester
from ..pipeline.operator_notices import OperatorNotifier
from ..preferences.cache import PreferenceCache
from ..preferences.store import PreferenceStore
from ..rules.rulebook import ActionSpec, ChannelSpec, Rulebook
from ..runtime import free_gradually, now, run_in_thread
from ..settings import Settings
from .control import ConsumerLag, Control, ReplicaReply

log = logging.getLogger(__name__)

_EVENTS_IN_FLIGHT = 512  # of one kind in one process
_DUE_IN_FLIGHT = 256  # deliveries that are moved back to their channels at the same time
_PUBLISH_LIMIT = 5.0  # seconds for the broker to take a channel's message

_START_LIMIT = 10.0  # seconds for the broker to say what is not permitted
_INFO_LIMIT = 2.0  # seconds for the broker to say how a consumer stands
_NO_ANSWER = (nats.errors.Error, TimeoutError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One connection, and what is made of it."""

    settings: Settings  # those it was opened with
    live: Callable[[], Settings]  # the present ones, of which some may change
    rulebook: Callable[[], Rulebook]  # the one in force
    metrics: Metrics
    topology: Topology
    connection: Connection
    publisher: Publisher
    ledger: Bucket
    state: AtomicStore
    herald: OperatorNotifier
    preferences: PreferenceCache
    actions: ActionService

    @property
    def provisioner(self) -> Provisioner:
        return Provisioner(self.topology, self.connection)

    def channel_workers(self, tasks: asyncio.TaskGroup) -> ChannelWorkers:
        """The channels, none of them open yet; they run in ``tasks``."""
        return ChannelWorkers(
            connection=self.connection,
            topology=self.topology,
            open_channel=partial(open_channel, resources=_resources(self.connection)),
            consumer=self.delivery_worker,
            ensure=self.provisioner.ensure_workers,
            tasks=tasks,
        )

    def ingester(self, kind: Kind) -> Consumer:
        """Plans the events of one kind."""
        intake = EventIngester(
            kind=kind,
            topology=self.topology,
            connection=self.connection,
            publisher=self.publisher,
            state=self.state,
            records=self._plan_store,
            herald=self.herald,
            preferences=self.preferences,
            rulebook=self.rulebook,
            metrics=self.metrics,
            clock=now,
            tolerance=lambda: self.live().clock_tolerance,
        )
        return Consumer(
            self.connection,
            self.topology.stream(kind),
            self.topology.planner,
            limit=_EVENTS_IN_FLIGHT,
            ack_wait=self.settings.ack_wait,
            handle=intake.handle,
            give_up=intake.give_up,
        )

    def delivery_worker(self, spec: ChannelSpec, channel: Channel) -> tuple[Consumer, FlowControl]:
        """Return the consumer that sends the deliveries of one channel, and its flow control."""
        pace = spec.rate and DistributedRateLimiter(
            rate=spec.rate, key=f"rate.{spec.name}", state=self.state, clock=now
        )
        entrance = FlowControl(
            name=spec.name,
            pace=pace or None,
            observe_wait=self.metrics.rate_limiter_wait.labels(spec.name).observe if pace else lambda _: None,
        )
        deliverer = DeliveryWorker(
            spec=spec,
            channel=channel,
            topology=self.topology,
            connection=self.connection,
            publisher=self.publisher,
            entrance=entrance,
            claims=AttemptClaims(bucket=self.ledger),
            herald=self.herald,
            metrics=self.metrics,
            clock=now,
        )
        consumer = Consumer(
            self.connection,
            self.topology.delivery_stream,
            self.topology.worker(spec.name),
            limit=spec.concurrency,
            ack_wait=self.settings.ack_wait,
            handle=deliverer.handle,
            on_stop=entrance.close,
        )
        return consumer, entrance

    def timer_consumers(self) -> tuple[Consumer, ...]:
        """Bring back the deliveries that waited, and tell the digests whose time has come."""
        handles: dict[str, Handle] = {
            self.topology.delivery_timer_worker: DelayedForwarder(
                topology=self.topology, publisher=self.publisher
            ).handle,
            self.topology.digest_timer_worker: self.digest_flusher.handle,
        }
        return tuple(
            Consumer(
                self.connection,
                self.topology.timer_stream,
                durable,
                limit=_DUE_IN_FLIGHT,
                ack_wait=self.settings.ack_wait,
                handle=handle,
            )
            for durable, handle in handles.items()
        )

    @property
    def digest_flusher(self) -> DigestFlusher:
        """Tells what was gathered."""
        return DigestFlusher(
            topology=self.topology,
            connection=self.connection,
            publisher=self.publisher,
            state=self.state,
            records=self._plan_store,
            herald=self.herald,
            rulebook=self.rulebook,
            preferences=self.preferences,
            metrics=self.metrics,
            clock=now,
        )

    @property
    def _plan_store(self) -> PlanStore:
        return PlanStore(topology=self.topology, connection=self.connection, publisher=self.publisher)


async def open_session(
    settings: Settings,
    rulebook: Callable[[], Rulebook],
    metrics: Metrics,
    stack: AsyncExitStack,
    *,
    live: Callable[[], Settings],
    is_patient: bool = True,
) -> Session:
    """Connect and make what is missing on the broker; ``stack`` takes it down again.

    Raises BrokerUnfit, and BrokerError when no broker answers unless it ``is_patient``.
    """
    options = ConnectOptions(
        servers=settings.servers,
        name="mss",
        inbox_prefix=f"_INBOX_{settings.namespace}",
        **settings.access,
    )
    try:
        connection = await connect(options.to_nats(), is_patient=is_patient)
    except ConnectError as error:
        raise BrokerUnsupported(str(error)) from error
    stack.push_async_callback(connection.close)
    topology = Topology.of(settings)
    groundwork = Provisioner(topology, connection)
    await groundwork.provision()
    publisher = Publisher(connection)
    await publisher.start()
    stack.push_async_callback(publisher.close)
    ledger, state = groundwork.ledger, groundwork.state
    store = PreferenceStore(Bucket(connection, topology.bucket("PREFERENCES")))
    preferences = PreferenceCache(store, metrics)
    resources = HandlerResources(
        connection=connection,
        rulebook=rulebook,
        open_channel=partial(open_channel, resources=_resources(connection)),
        metrics=metrics,
        preferences=preferences,
    )
    return Session(
        settings=settings,
        live=live,
        rulebook=rulebook,
        metrics=metrics,
        topology=topology,
        connection=connection,
        publisher=publisher,
        ledger=ledger,
        state=state,
        herald=OperatorNotifier(
            topology=topology,
            publisher=publisher,
            state=state,
            clock=now,
            is_enabled=lambda: Kind.NOTICE in live().kinds,
        ),
        preferences=preferences,
        actions=ActionService(live, ledger, resources, clock=now),
    )


def _resources(connection: Connection) -> ChannelResources:
    """What channels may use of this process."""

    async def publish(subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        await connection.publish_confirmed(subject, payload, headers, limit=_PUBLISH_LIMIT)

    return ChannelResources(publish=publish)


@dataclass(slots=True, kw_only=True)
class _ServingState:
    """What is there once a session has begun to serve."""

    session: Session
    workers: ChannelWorkers
    due: tuple[Consumer, ...]
    tasks: asyncio.TaskGroup


@dataclass(kw_only=True)
class Service:
    """One session at work."""

    settings: Settings
    rulebook: Callable[[], Rulebook]  # the one in force
    metrics: Metrics
    identity: Callable[[], ReplicaReply]  # who this replica is
    commands: Mapping[str, Callable[[], Awaitable[ReplicaReply]]]  # what it can be asked
    is_patient: bool = True  # waits for a broker that is away
    ready: asyncio.Event = field(default_factory=asyncio.Event)  # events are being taken
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _up: _ServingState | None = None
    _ingesters: dict[Kind, Consumer] = field(default_factory=dict)
    _consuming: set[asyncio.Task[None]] = field(default_factory=set)

    def stop(self) -> None:
        """Take no more; ``run`` returns once what is in hand is done with."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until ``stop``. Raises BrokerUnfit, BrokerLost, or a group with one of them."""
        async with AsyncExitStack() as stack:
            session = await open_session(
                self.settings,
                self.rulebook,
                self.metrics,
                stack,
                live=lambda: self.settings,
                is_patient=self.is_patient,
            )
            async with asyncio.TaskGroup() as tasks:
                attending = [
                    tasks.create_task(session.publisher.run(), name="publisher"),
                    tasks.create_task(_watch(session.connection), name="connection"),
                    tasks.create_task(
                        session.connection.track_server_start(session.provisioner.server_started_at),
                        name="epoch",
                    ),
                    tasks.create_task(session.preferences.run(), name="preferences"),
                ]
                up = _ServingState(
                    session=session,
                    workers=session.channel_workers(tasks),
                    due=session.timer_consumers(),
                    tasks=tasks,
                )
                acting = await self._start(up)
                control = Control(
                    connection=session.connection,
                    namespace=self.settings.namespace,
                    identity=self.identity,
                    commands=self.commands,
                    tasks=tasks,
                )
                await control.start()
                self._up = up
                self.ready.set()
                await self._stopping.wait()
                self._up = None
                session.actions.stop()
                for consumer in (*self._ingesters.values(), *up.due):
                    consumer.stop()
                await up.workers.close()
                await asyncio.wait((*self._consuming, acting))
                await control.close()
                for task in attending:
                    task.cancel()

    async def apply(
        self, rulebook: Rulebook, settings: Settings, *, take: Callable[[], None], undo: Callable[[], None]
    ) -> None:
        """Serve by ``rulebook`` and ``settings``; ``take`` is called to put them in force.

        Raises PolicyError or BrokerError, having changed nothing, when something does not open.
        """
        up = self._up
        if up is None:
            raise BrokerError("there is no connection to NATS at this moment")
        try:
            for kind in settings.kinds:
                if kind not in self._ingesters:
                    await up.session.provisioner.ensure_kind(kind)
            opened = await up.workers.prepare(rulebook.channels)
        except _NO_ANSWER as error:
            raise BrokerError(f"NATS: {str(error) or 'no answer'}") from error
        before = self.rulebook()
        try:
            await up.session.actions.apply(action_specs(rulebook, settings), take=take, undo=undo)
        except BaseException:
            undo()
            for channel in opened.values():
                await channel.close()
            raise
        # From here on nothing can fail.
        self.settings = replace(settings, servers=self.settings.servers, access=self.settings.access)
        if up is self._up:
            up.workers.commit(rulebook.channels, opened)
            self._consume_kinds(up)
            up.tasks.create_task(self._flush(up.session, before, rulebook), name="flush")

    @property
    def actions(self) -> ActionService | None:
        """The actions, while they are served."""
        return self._up.session.actions if self._up else None

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels whose deliveries are sent."""
        return self._up.workers.names if self._up else ()

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of events that are taken."""
        return tuple(self._ingesters) if self._up else ()

    @property
    def in_flight(self) -> int:
        """Messages and requests that are not yet done with."""
        if self._up is None:
            return 0
        taken = sum(consumer.in_flight for consumer in (*self._ingesters.values(), *self._up.due))
        return taken + self._up.workers.in_flight + self._up.session.actions.in_flight

    def channel_states(self) -> tuple[ChannelState, ...]:
        """Return the state of each channel whose deliveries are sent."""
        return self._up.workers.states() if self._up else ()

    async def consumer_lags(self) -> dict[tuple[str, str], ConsumerLag]:
        """Return what the broker reports of each durable consumer, by (stream, consumer)."""
        if self._up is None:
            return {}
        session = self._up.session
        asked = (*self._streams(session.topology), *self._queues(session.topology))
        named = [(stream, durable) for _, stream, durable in asked]
        lags = await asyncio.gather(
            *(self._lag(session.connection, durable, stream, durable) for stream, durable in named)
        )
        return dict(zip(named, lags, strict=True))

    async def lags(self) -> tuple[tuple[ConsumerLag, ...], tuple[ConsumerLag, ...]]:
        """What is to be done of each stream and for each channel, as far as the broker says."""
        if self._up is None:
            return (), ()
        session = self._up.session
        streams, queues = self._streams(session.topology), self._queues(session.topology)
        asked = [self._lag(session.connection, *each) for each in (*streams, *queues)]
        found = await asyncio.gather(*asked)
        return tuple(found[: len(streams)]), tuple(found[len(streams) :])

    def _streams(self, topology: Topology) -> list[tuple[str, str, str]]:
        """The consumers of events and timers: name, stream, durable."""
        return [
            *((str(kind), topology.stream(kind), topology.planner) for kind in self._ingesters),
            ("due", topology.timer_stream, topology.delivery_timer_worker),
            ("digest", topology.timer_stream, topology.digest_timer_worker),
        ]

    def _queues(self, topology: Topology) -> list[tuple[str, str, str]]:
        """The consumers of the channels: channel, stream, durable."""
        return [(name, topology.delivery_stream, topology.worker(name)) for name in self.channels]

    async def _lag(self, connection: Connection, name: str, stream: str, durable: str) -> ConsumerLag:
        try:
            info = await connection.js.consumer_info(stream, durable, timeout=_INFO_LIMIT)
        except _NO_ANSWER as error:
            return ConsumerLag(name=name, error=str(error) or "no answer")
        return ConsumerLag(name=name, pending=info.num_pending or 0, in_flight=info.num_ack_pending or 0)

    async def _start(self, up: _ServingState) -> asyncio.Task[None]:
        """Begin with everything, and return once all of it runs, with the task of the actions."""
        session, rulebook = up.session, self.rulebook()
        self._consume_kinds(up)
        for consumer in up.due:
            self._consume(up, consumer)
        up.workers.commit(rulebook.channels, await up.workers.prepare(rulebook.channels))
        specs = action_specs(rulebook, self.settings)
        acting = up.tasks.create_task(session.actions.run(specs), name="actions")
        await session.actions.started.wait()
        for consumer in (*self._ingesters.values(), *up.due):
            await consumer.pulling.wait()
        await up.workers.pulling()
        await session.connection.flush(_START_LIMIT)
        session.connection.require_permitted()
        await session.actions.micro.start()
        return acting

    def _consume_kinds(self, up: _ServingState) -> None:
        """Take events of exactly the kinds that the settings want."""
        for kind in self.settings.kinds:
            if kind not in self._ingesters:
                self._ingesters[kind] = up.session.ingester(kind)
                self._consume(up, self._ingesters[kind])
        for kind in [kind for kind in self._ingesters if kind not in self.settings.kinds]:
            self._ingesters.pop(kind).stop()

    @staticmethod
    async def _flush(session: Session, before: Rulebook, after: Rulebook) -> None:
        """What fails here is found when its time comes: then it is recorded as not sent."""
        try:
            await session.digest_flusher.flush_removed(before, after)
        except (BrokerError, *_NO_ANSWER) as error:
            log.warning("what was gathered for removed rules is not told: %s", str(error) or "no answer")
        # Whoever replaced it may have wanted to let go of it while it was in use here.
        done_with: list[object] = [before]
        del before
        await run_in_thread(free_gradually, done_with)

    def _consume(self, up: _ServingState, consumer: Consumer) -> None:
        task = up.tasks.create_task(consumer.run(), name="consumer")
        self._consuming.add(task)
        task.add_done_callback(self._consuming.discard)


def action_specs(rulebook: Rulebook, settings: Settings) -> dict[str, ActionSpec]:
    """The policy's actions without those that are left to others."""
    if not settings.actions:
        return {}
    return {key: spec for key, spec in rulebook.actions.items() if key not in settings.actions_off}


async def _watch(connection: Connection) -> None:
    await connection.lost.wait()
    raise BrokerLost("the connection to NATS is closed")
