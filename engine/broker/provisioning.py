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
from dataclasses import dataclass
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
_CLOSED_FOR_RENOVATION = 10049  # "error creating store": the stream was deleted a moment ago
_OVERLAP = 10065
_EXISTS = 10058  # a stream of that name, with another configuration
_JETSTREAM_OFF = (10039, 10076)  # not enabled for the account; not enabled at all


@dataclass(frozen=True, slots=True)
class Provisioner:
    """What a topology names, on the broker that a connection leads to."""

    names: Topology
    connection: Connection

    async def provision(self) -> None:
        """Create what is missing. Raises BrokerUnfit with what is in the way."""
        try:
            await self._refuse_captured_actions()
            for config in self._own_streams():
                await self._ensure_stream(config)
            for bucket, limits in self._buckets().items():
                await self._ensure_bucket(bucket, limits)
            for kind in self.names.kinds:
                await self.ensure_kind(kind)
            await self._ensure_due_workers()
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
        """Create what the events of one kind need and is missing."""
        archive = [self.names.archive_subject(kind, ""), self.names.archive_subject(kind, ">")]
        name = self.names.archive_stream(kind)
        await self._ensure_stream(self._config(name, archive, max_age=self.names.archive_age))
        await self._ensure_event_stream(kind)

    async def ensure_workers(self, channels: Sequence[str]) -> None:
        """Create the durable of each channel that has none."""
        for channel in channels:
            await self.connection.js.add_consumer(
                self.names.delivery_stream,
                api.ConsumerConfig(
                    durable_name=self.names.worker(channel),
                    filter_subject=self.names.delivery_subject("*", channel),
                    ack_policy=api.AckPolicy.EXPLICIT,
                    ack_wait=self.names.ack_wait,
                    max_ack_pending=20_000,  # over all replicas; each bounds its own
                    max_deliver=-1,  # attempts are counted by the deliverer
                ),
            )

    async def _ensure_due_workers(self) -> None:
        for what, durable in (
            ("delivery", self.names.delivery_timer_worker),
            ("digest", self.names.digest_timer_worker),
        ):
            await self._ensure_due_worker(what, durable)

    async def _ensure_due_worker(self, what: str, durable: str) -> None:
        await self.connection.js.add_consumer(
            self.names.timer_stream,
            api.ConsumerConfig(
                durable_name=durable,
                # Never all of the stream: what still waits would be handed out, and lost when acknowledged.
                filter_subject=self.names.due_subject(what, ">"),
                ack_policy=api.AckPolicy.EXPLICIT,
                ack_wait=self.names.ack_wait,
                max_ack_pending=20_000,
                max_deliver=-1,
            ),
        )

    async def server_started_at(self) -> float:
        """Since when the broker has been running, as far as MSS has seen; seconds since the epoch.

        The message that says so lies in its memory, where a restart loses it.
        """
        stream, subject = f"{self.names.streams}_EPOCH", f"{self.names.namespace}.epoch"
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
            num_replicas=self.names.replicas,
        )
        first = {"Nats-Expected-Last-Subject-Sequence": "0"}
        with contextlib.suppress(nats.js.errors.APIError):  # another replica was quicker
            await self.connection.js.add_stream(memory)
            await self.connection.js.publish(subject, b"", headers=first)

    def _own_streams(self) -> list[api.StreamConfig]:
        def limits(name: str, subject: str, age: float) -> api.StreamConfig:
            return self._config(
                f"{self.names.streams}_{name}", [f"{self.names.namespace}.{subject}"], max_age=age
            )

        return [
            self._config(
                self.names.delivery_stream,
                [f"{self.names.namespace}.delivery.*.*"],
                retention=api.RetentionPolicy.WORK_QUEUE,
            ),
            self._config(
                self.names.timer_stream,
                [f"{self.names.namespace}.timer.>", f"{self.names.namespace}.due.>"],
                retention=api.RetentionPolicy.WORK_QUEUE,
                allow_msg_schedules=True,
                allow_msg_ttl=True,
            ),
            limits("DEAD", "dead.*.*", self.names.dead_age),
            limits("HISTORY", "history.*.*", self.names.history_age),
        ]

    def _buckets(self) -> dict[str, dict[str, Any]]:
        return {
            self.names.bucket("LEDGER"): {"ttl": self.names.ledger_age, "history": 1},
            self.names.bucket("STATE"): {"history": 1},
            self.names.bucket("PREFERENCES"): {"history": 5},
        }

    def _config(self, name: str, subjects: list[str], **more: Any) -> api.StreamConfig:
        return api.StreamConfig(
            name=name,
            subjects=subjects,
            storage=api.StorageType.FILE,
            num_replicas=self.names.replicas,
            duplicate_window=_DUPLICATES,
            allow_direct=True,
            **more,
        )

    async def _ensure_event_stream(self, kind: Kind) -> None:
        """Make the durable before the stream listens.

        With interest retention the broker drops whatever no consumer has asked for, so a stream
        that listened first would lose what came before its durable.
        """
        name = self.names.stream(kind)
        before_birth = self._config(
            name, [f"{self.names.namespace}.unborn.{kind}"], retention=api.RetentionPolicy.INTEREST
        )
        info = await self._ensure_stream(before_birth)
        await self.connection.js.add_consumer(
            name,
            api.ConsumerConfig(
                durable_name=self.names.planner,
                ack_policy=api.AckPolicy.EXPLICIT,
                ack_wait=self.names.ack_wait,
                max_ack_pending=20_000,
                max_deliver=-1,
            ),
        )
        if info.config.subjects == before_birth.subjects:
            info.config.subjects = self.names.subjects(kind)
            await self._update(info.config)
        elif info.config.subjects != self.names.subjects(kind):
            raise BrokerUnsupported(
                f"stream {name} listens to {', '.join(info.config.subjects or ())} and not to "
                f"{', '.join(self.names.subjects(kind))}: does another MSS share this broker? "
                "Give this one its own stream_prefix"
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
            # Another replica, which has started with us, has made it, and let it listen already.
            info = await self.connection.js.stream_info(config.name)
        if info.config.retention != (config.retention or api.RetentionPolicy.LIMITS):
            raise BrokerUnsupported(
                f"stream {config.name} has retention {info.config.retention}, MSS needs {config.retention}"
            )
        return info

    async def _create(self, config: api.StreamConfig) -> api.StreamInfo:
        for _ in range(20):
            try:
                return await self.connection.js.add_stream(config)
            except nats.js.errors.APIError as error:
                if error.err_code == _OVERLAP:
                    raise _in_the_way(config) from error
                if error.err_code != _CLOSED_FOR_RENOVATION:
                    raise
                await asyncio.sleep(0.25)
        return await self.connection.js.add_stream(config)

    async def _update(self, config: api.StreamConfig) -> None:
        try:
            await self.connection.js.update_stream(config)
        except nats.js.errors.APIError as error:
            if error.err_code != _OVERLAP:
                raise
            raise _in_the_way(config) from error

    async def _ensure_bucket(self, bucket: str, limits: dict[str, Any]) -> None:
        try:
            await self.connection.js.key_value(bucket)
        except nats.js.errors.BucketNotFoundError:
            await self.connection.js.create_key_value(
                api.KeyValueConfig(bucket=bucket, replicas=self.names.replicas, direct=True, **limits)
            )

    async def _refuse_captured_actions(self) -> None:
        """A stream over the action subjects would answer callers in the handlers' place."""
        action = f"{self.names.prefix}.action.>"
        try:
            name = await self.connection.js.find_stream_name_by_subject(action)
        except nats.js.errors.NotFoundError:
            return
        raise BrokerUnsupported(
            f"stream {name} captures {action}: its acknowledgement would answer the caller "
            "before any handler. Narrow its subjects"
        )


def _in_the_way(config: api.StreamConfig) -> BrokerUnsupported:
    return BrokerUnsupported(
        f"another stream has the subjects of {config.name}: {', '.join(config.subjects or ())}"
    )
