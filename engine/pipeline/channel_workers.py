"""The delivery workers of a session, one for each channel, and how they change at a reload.

A stored delivery keeps its content, and is sent over the channel that it was made for, also after the policy
that made it was replaced. A channel that is no longer declared sends its stored deliveries, then ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import nats.errors

from ..broker import Broker, Consumer
from ..channels import Channel
from ..metrics import ChannelState
from ..model.errors import PolicyError
from ..rules.rulebook import ChannelSpec
from .flow_control import FlowControl

log = logging.getLogger(__name__)

_CHECK_INTERVAL = 1.0  # seconds between two checks of the deliveries that a removed channel still has


@dataclass(slots=True, kw_only=True)
class _Worker:
    spec: ChannelSpec
    channel: Channel
    consumer: Consumer
    flow_control: FlowControl
    running: asyncio.Task[None]
    retiring: asyncio.Task[None] | None = None


@dataclass(kw_only=True)
class ChannelWorkers:
    """The delivery workers of all channels of a policy."""

    broker: Broker
    open_channel: Callable[[ChannelSpec], Channel]
    consumer: Callable[[ChannelSpec, Channel], tuple[Consumer, FlowControl]]
    ensure: Callable[[list[str]], Awaitable[None]]  # creates the durable consumers of channels
    tasks: asyncio.TaskGroup
    _workers: dict[str, _Worker] = field(default_factory=dict)
    _ending: dict[asyncio.Task[None], _Worker] = field(default_factory=dict)
    _stopping: bool = False

    async def prepare(self, specs: Mapping[str, ChannelSpec]) -> dict[str, Channel]:
        """Open the channels that are new or changed. Raises PolicyError; then none of them stays open."""
        opened: dict[str, Channel] = {}
        try:
            for name, spec in specs.items():
                known = self._workers.get(name)
                if known is None or known.spec != spec:
                    opened[name] = self.open_channel(spec)
            await self.ensure([name for name in opened if name not in self._workers])
        except (PolicyError, nats.errors.Error, TimeoutError):
            for channel in opened.values():
                await channel.close()
            raise
        return opened

    def commit(self, specs: Mapping[str, ChannelSpec], opened: Mapping[str, Channel]) -> None:
        """Serve exactly ``specs``, with the channels that ``prepare`` opened. Never raises."""
        for name, channel in opened.items():
            if old := self._workers.pop(name, None):
                self._end(old)
            self._workers[name] = self._start(specs[name], channel)
        for name, worker in self._workers.items():
            if name in specs and worker.retiring is not None:
                worker.retiring.cancel()
                worker.retiring = None
            elif name not in specs and worker.retiring is None:
                log.info("channel %s was removed; its stored deliveries are still sent", name)
                worker.retiring = self.tasks.create_task(self._retire(worker), name=f"retire {name}")

    @property
    def names(self) -> tuple[str, ...]:
        """The channels whose deliveries are sent, also those that end."""
        return tuple(sorted(self._workers))

    @property
    def in_flight(self) -> int:
        """Deliveries that are being sent."""
        return sum(worker.consumer.in_flight for worker in self._workers.values())

    def states(self) -> tuple[ChannelState, ...]:
        """Return each channel with its deliveries in flight and the state of its circuit breaker.

        A channel whose settings changed finishes the deliveries of its earlier settings; these count too.
        """
        in_flight = Counter({name: worker.consumer.in_flight for name, worker in self._workers.items()})
        breakers = {name: worker.flow_control.breaker_state for name, worker in self._workers.items()}
        for worker in self._ending.values():
            in_flight[worker.spec.name] += worker.consumer.in_flight
            breakers.setdefault(worker.spec.name, worker.flow_control.breaker_state)
        return tuple(
            ChannelState(channel=name, in_flight=in_flight[name], breaker=breaker)
            for name, breaker in breakers.items()
        )

    async def pulling(self) -> None:
        """Return when every channel pulls deliveries."""
        for worker in list(self._workers.values()):
            await worker.consumer.pulling.wait()

    async def close(self) -> None:
        """Finish the deliveries in flight and close every channel."""
        self._stopping = True
        for worker in self._workers.values():
            self._end(worker)
        self._workers.clear()
        while self._ending:
            await asyncio.wait(list(self._ending))

    def _start(self, spec: ChannelSpec, channel: Channel) -> _Worker:
        consumer, flow_control = self.consumer(spec, channel)
        running = self.tasks.create_task(consumer.run(), name=f"channel {spec.name}")
        return _Worker(
            spec=spec, channel=channel, consumer=consumer, flow_control=flow_control, running=running
        )

    def _end(self, worker: _Worker) -> None:
        if worker.retiring is not None:
            worker.retiring.cancel()

        async def finish() -> None:
            worker.consumer.stop()
            await asyncio.wait((worker.running,))
            await worker.channel.close()

        task = self.tasks.create_task(finish(), name=f"end {worker.spec.name}")
        self._ending[task] = worker
        task.add_done_callback(self._ending.pop)

    async def _retire(self, worker: _Worker) -> None:
        """End a worker whose channel was removed, when it has no stored deliveries."""
        name = worker.spec.name
        while True:
            await asyncio.sleep(_CHECK_INTERVAL)
            try:
                info = await self.broker.connection.js.consumer_info(
                    self.broker.topology.delivery_stream, self.broker.topology.worker(name)
                )
            except (nats.errors.Error, TimeoutError):
                continue
            if self._workers.get(name) is not worker or worker.retiring is not asyncio.current_task():
                return  # it was declared again, and asyncio's wait_for swallowed the cancellation
            if not (info.num_pending or info.num_ack_pending or worker.consumer.in_flight):
                del self._workers[name]
                worker.retiring = None
                self._end(worker)
                return
