"""What lives and dies with one connection: streams, publisher, actions, and the consumers over them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from nats.js.kv import KeyValue

from msc.errors import ConnectError
from msc.options import ConnectOptions

from .actions import HandlerResources as ActionResources
from .actions.assembly import make_actions
from .actions.service import Actions
from .broker import AtomicStore, Connection, Consumer, Handle, Provisioner, Publisher, Topology, connect
from .channels import Channel, ChannelResources, open_channel
from .claims import AttemptClaims
from .deliver import DeliveryWorker
from .digests import DigestFlusher
from .due import DelayedForwarder
from .entrance import FlowControl
from .errors import BrokerUnsupported
from .intake import EventIngester
from .memory import StateStore
from .metrics import Metrics
from .model import Kind
from .notices import OperatorNotifier
from .pace import DistributedRateLimiter
from .preference_cache import PreferenceCache
from .preference_store import PreferenceStore
from .records import PlanStore
from .rulebook import ChannelSpec, Rulebook
from .settings import Settings
from .workers import ChannelWorkers

_EVENTS_IN_FLIGHT = 512  # of one kind in one process
_DUE_IN_FLIGHT = 256  # deliveries that are moved back to their channels at the same time
_PUBLISH_LIMIT = 5.0  # seconds for the broker to take a channel's message


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
class Session:
    """One connection, and what is made of it."""

    settings: Settings  # those it was opened with
    live: Callable[[], Settings]  # the present ones, of which some may change
    rulebook: Callable[[], Rulebook]  # the one in force
    metrics: Metrics
    topology: Topology
    connection: Connection
    publisher: Publisher
    ledger: KeyValue
    state: AtomicStore
    herald: OperatorNotifier
    preferences: PreferenceCache
    actions: Actions

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
            memory=StateStore(self.state),
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
            memory=StateStore(self.state),
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
    topology = topology_of(settings)
    groundwork = Provisioner(topology, connection)
    await groundwork.provision()
    publisher = Publisher(connection)
    await publisher.start()
    stack.push_async_callback(publisher.close)
    ledger, state = await groundwork.ledger(), await groundwork.state()
    store = PreferenceStore(connection=connection, name=topology.bucket("PREFERENCES"))
    preferences = PreferenceCache(store, metrics)
    resources = ActionResources(
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
        actions=make_actions(settings, connection, ledger, resources, clock=now),
    )


def _resources(connection: Connection) -> ChannelResources:
    """What channels may use of this process."""

    async def publish(subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        await connection.publish_confirmed(subject, payload, headers, limit=_PUBLISH_LIMIT)

    return ChannelResources(publish=publish, write=print_block)
