"""Create the streams, consumers and buckets that are missing, and check those that exist.

MSS does not change a stream that it finds: an operator may have given it more replicas, other limits, or
compression. It checks only the properties that it cannot work without.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import nats.errors
import nats.js.errors
from nats.js import api

from ..model.errors import BrokerUnsupported
from ..model.messages import Kind
from .connection import Connection
from .topology import Topology

log = logging.getLogger(__name__)

_DUPLICATES = 120.0  # seconds within which a stream drops a repeated message id
_CREATING_STORE_FAILED = 10049  # "error creating store": the stream was deleted a moment ago
_OVERLAP = 10065
_EXISTS = 10058  # a stream of that name, with another configuration
_JETSTREAM_OFF = (10039, 10076)  # not enabled for the account; not enabled at all


@dataclass(frozen=True, slots=True)
class Provisioner:
    """Creates and checks the streams, consumers and buckets of a topology."""

    topology: Topology
    connection: Connection
    # When the planner's consumer of each kind was created, microseconds since the epoch. A consumer that has
    # been deleted since may have delivered an older event.
    planner_created: dict[Kind, int] = field(default_factory=dict)

    async def provision(self) -> None:
        """Create everything that is missing. Raises BrokerUnsupported with the reason if that fails."""
        try:
            await self._refuse_captured_actions()
            for config in self._own_streams():
                await self._ensure_stream(config)
            for bucket, limits in self._buckets().items():
                await self._ensure_bucket(bucket, limits)
            for kind in self.topology.kinds:
                await self.ensure_kind(kind)
            await self._ensure_timer_consumers()
            await self.server_started_at()
        except nats.js.errors.APIError as error:
            if error.err_code in _JETSTREAM_OFF:
                raise BrokerUnsupported("JetStream is not enabled on this nats-server or account") from error
            raise BrokerUnsupported(f"JetStream: {error.description} ({error.err_code})") from error
        except (nats.errors.Error, TimeoutError) as error:
            self.connection.require_open()
            self.connection.require_permitted()
            raise BrokerUnsupported(f"JetStream does not answer: {error or 'time-out'}") from error

    async def ensure_kind(self, kind: Kind) -> None:
        """Create the stream of one kind of events and its durable consumer, if they are missing.

        The stream keeps planned events as well: it is the archive.
        """
        name, subjects = self.topology.stream(kind), self.topology.subjects(kind)
        info = await self._ensure_stream(self._config(name, subjects, max_age=self.topology.archive_age))
        if info.config.subjects != subjects:
            raise BrokerUnsupported(
                f"stream {name} listens to {', '.join(info.config.subjects or ())} and not to "
                f"{', '.join(subjects)}: does another MSS share this broker? "
                "Give this one its own stream_prefix"
            )
        consumer = await self._ensure_consumer(name, self.topology.planner)
        self.planner_created[kind] = int(consumer.created.timestamp() * 1e6)

    async def ensure_workers(self, channels: Sequence[str]) -> None:
        """Create the missing durable consumers of ``channels``."""
        stream = self.topology.delivery_stream
        for channel in channels:
            subject = self.topology.delivery_subject("*", channel)
            await self._ensure_consumer(stream, self.topology.worker(channel), filter_subject=subject)

    async def _ensure_timer_consumers(self) -> None:
        for what, durable in (
            ("delivery", self.topology.delivery_timer_worker),
            ("digest", self.topology.digest_timer_worker),
        ):
            # Never the whole stream: a timer would be delivered before its time, and removed by the ack.
            subject = self.topology.due_subject(what, ">")
            await self._ensure_consumer(self.topology.timer_stream, durable, filter_subject=subject)

    async def _ensure_consumer(self, stream: str, durable: str, **more: Any) -> api.ConsumerInfo:
        config = api.ConsumerConfig(
            durable_name=durable,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=self.topology.ack_wait,
            max_ack_pending=20_000,  # over all replicas; each replica limits its own
            max_deliver=-1,  # MSS counts the attempts itself
            **more,
        )
        return await self.connection.js.add_consumer(stream, config)

    async def server_started_at(self) -> float:
        """Return when MSS first saw the running broker, seconds since the epoch.

        The time is that of a message in a memory stream, which is lost at a restart.
        """
        stream, subject = f"{self.topology.streams}_EPOCH", f"{self.topology.namespace}.epoch"
        while True:
            try:
                found = await self.connection.js.get_last_msg(stream, subject)
            except nats.js.errors.NotFoundError:
                await self._record_server_start(stream, subject)
            else:
                return found.time.timestamp() if found.time else math.inf

    async def _record_server_start(self, stream: str, subject: str) -> None:
        memory = api.StreamConfig(
            name=stream,
            subjects=[subject],
            storage=api.StorageType.MEMORY,
            num_replicas=self.topology.replicas,
        )
        first = {"Nats-Expected-Last-Subject-Sequence": "0"}
        with contextlib.suppress(nats.js.errors.APIError):  # another replica was faster
            await self.connection.js.add_stream(memory)
            await self.connection.js.publish(subject, b"", headers=first)

    def _own_streams(self) -> list[api.StreamConfig]:
        def limits(name: str, subject: str, age: float) -> api.StreamConfig:
            return self._config(
                f"{self.topology.streams}_{name}", [f"{self.topology.namespace}.{subject}"], max_age=age
            )

        return [
            self._config(
                self.topology.delivery_stream,
                [f"{self.topology.namespace}.delivery.*.*"],
                retention=api.RetentionPolicy.WORK_QUEUE,
            ),
            self._config(
                self.topology.timer_stream,
                [f"{self.topology.namespace}.timer.>", f"{self.topology.namespace}.due.>"],
                retention=api.RetentionPolicy.WORK_QUEUE,
                allow_msg_schedules=True,
                allow_msg_ttl=True,
            ),
            limits("DEAD", "dead.*.*", self.topology.dead_age),
            limits("HISTORY", "history.*.*", self.topology.history_age),
        ]

    def _buckets(self) -> dict[str, dict[str, Any]]:
        return {
            self.topology.bucket("LEDGER"): {"ttl": self.topology.ledger_age, "history": 1},
            self.topology.bucket("STATE"): {"history": 1},
            self.topology.bucket("PREFERENCES"): {"history": 5},
        }

    def _config(self, name: str, subjects: list[str], **more: Any) -> api.StreamConfig:
        return api.StreamConfig(
            name=name,
            subjects=subjects,
            storage=api.StorageType.FILE,
            num_replicas=self.topology.replicas,
            duplicate_window=_DUPLICATES,
            allow_direct=True,
            **more,
        )

    async def _ensure_stream(self, config: api.StreamConfig) -> api.StreamInfo:
        assert config.name is not None  # noqa: S101 -- nats-py types every field as optional
        try:
            info = await self.connection.js.stream_info(config.name)
        except nats.js.errors.NotFoundError:
            try:
                return await self._create(config)
            except nats.js.errors.APIError as error:
                if error.err_code != _EXISTS:
                    raise
            # Another replica that started at the same time has created it, with its subjects.
            info = await self.connection.js.stream_info(config.name)
        needed = config.retention or api.RetentionPolicy.LIMITS
        if info.config.retention != needed:
            raise BrokerUnsupported(
                f"stream {config.name} has retention {info.config.retention}, MSS needs {needed.value}"
            )
        return info

    async def _create(self, config: api.StreamConfig) -> api.StreamInfo:
        for _ in range(20):
            try:
                return await self.connection.js.add_stream(config)
            except nats.js.errors.APIError as error:
                _refuse_overlap(config, error)
                if error.err_code != _CREATING_STORE_FAILED:
                    raise
                await asyncio.sleep(0.25)
        return await self.connection.js.add_stream(config)

    async def _ensure_bucket(self, bucket: str, limits: dict[str, Any]) -> None:
        try:
            await self.connection.js.key_value(bucket)
        except nats.js.errors.BucketNotFoundError:
            await self.connection.js.create_key_value(
                api.KeyValueConfig(bucket=bucket, replicas=self.topology.replicas, direct=True, **limits)
            )

    async def _refuse_captured_actions(self) -> None:
        """Raise BrokerUnsupported if a stream has the action subjects: it would reply before a handler."""
        action = f"{self.topology.prefix}.action.>"
        try:
            name = await self.connection.js.find_stream_name_by_subject(action)
        except nats.js.errors.NotFoundError:
            return
        raise BrokerUnsupported(
            f"stream {name} captures {action}: its acknowledgement would answer the caller "
            "before any handler. Narrow its subjects"
        )


def _refuse_overlap(config: api.StreamConfig, error: nats.js.errors.APIError) -> None:
    if error.err_code == _OVERLAP:
        raise BrokerUnsupported(
            f"another stream has the subjects of {config.name}: {', '.join(config.subjects or ())}"
        ) from error
