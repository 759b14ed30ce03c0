"""The streams, durables and buckets that MSS lives on: created where missing, checked where there.

Streams that MSS finds are taken as they are: an operator may have given them more replicas, other
limits, compression. Only what MSS cannot do without is checked.
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
from nats.js.kv import KeyValue

from ..errors import BrokerUnfit
from ..model import Kind
from .cells import Cells
from .connection import Connection

log = logging.getLogger(__name__)

_DUPLICATES = 120.0  # seconds within which a stream drops a repeated message id
_CLOSED_FOR_RENOVATION = 10049  # "error creating store": the stream was deleted a moment ago
_OVERLAP = 10065
_EXISTS = 10058  # a stream of that name, with another configuration
_JETSTREAM_OFF = (10039, 10076)  # not enabled for the account; not enabled at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Names of everything on the broker, and how long it is kept."""

    prefix: str = "kiam.console"  # of the applications' subjects
    namespace: str = "mss"  # of our own subjects
    streams: str = "MSS"  # of stream and bucket names
    replicas: int = 1
    kinds: tuple[Kind, ...] = tuple(Kind)  # the services that are switched on
    archive_age: float = 7 * 86400.0  # seconds
    history_age: float = 30 * 86400.0
    dead_age: float = 30 * 86400.0
    ledger_age: float = 86400.0
    ack_wait: float = 10.0  # seconds after which an unacknowledged message comes again

    def subjects(self, kind: Kind) -> list[str]:
        """The applications' subjects of one kind."""
        whole = f"{self.prefix}.{kind}"
        return [whole, f"{whole}.>"] if kind is Kind.LOG else [f"{whole}.>"]

    def key(self, kind: Kind, subject: str) -> str:
        """The key that a subject of ``kind`` carries."""
        return subject.removeprefix(f"{self.prefix}.{kind}").removeprefix(".")

    def stream(self, kind: Kind) -> str:
        return f"{self.streams}_{kind.upper()}"

    @property
    def delivery_stream(self) -> str:
        return f"{self.streams}_DELIVERY"

    @property
    def dead_stream(self) -> str:
        return f"{self.streams}_DEAD"

    @property
    def history_stream(self) -> str:
        return f"{self.streams}_HISTORY"

    @property
    def planner(self) -> str:
        """The durable of every event stream: what is still to be planned."""
        return f"{self.namespace}-planner"

    def worker(self, channel: str) -> str:
        """The durable of one channel on the delivery stream."""
        return f"{self.namespace}-channel-{channel}"

    def delivery_subject(self, kind: Kind | str, channel: str) -> str:
        return f"{self.namespace}.delivery.{kind}.{channel}"

    def history_subject(self, kind: Kind, reqid_token: str) -> str:
        return f"{self.namespace}.history.{kind}.{reqid_token}"

    def archive_stream(self, kind: Kind) -> str:
        return f"{self.streams}_ARCHIVE_{kind.upper()}"

    def archive_subject(self, kind: Kind, key: str) -> str:
        return f"{self.namespace}.archive.{kind}.{key}" if key else f"{self.namespace}.archive.{kind}"

    def dead_subject(self, kind: Kind, reason: str) -> str:
        return f"{self.namespace}.dead.{kind}.{reason}"

    @property
    def timer_stream(self) -> str:
        return f"{self.streams}_TIMER"

    def timer_subject(self, what: str, id_: str) -> str:
        """Where a message waits for its time; there is one for each id."""
        return f"{self.namespace}.timer.{what}.{id_}"

    def due_subject(self, what: str, subject: str) -> str:
        """Where the broker puts it then; ``subject`` is where it goes from there."""
        return f"{self.namespace}.due.{what}.{subject.removeprefix(f'{self.namespace}.')}"

    def delivery_of_due(self, subject: str) -> str:
        """The delivery subject for a message on a due subject."""
        return self.namespace + subject.removeprefix(f"{self.namespace}.due.delivery")

    @property
    def due_worker(self) -> str:
        """The durable of the deliveries that are due."""
        return f"{self.namespace}-due-delivery"

    @property
    def alarm_worker(self) -> str:
        """The durable of the digests that are due."""
        return f"{self.namespace}-due-digest"

    def bucket(self, name: str) -> str:
        return f"{self.streams}_{name}"

    # What follows talks to the broker.

    async def prepare(self, connection: Connection) -> None:
        """Create what is missing. Raises BrokerUnfit with what is in the way."""
        try:
            await self._refuse_captured_actions(connection)
            for config in self._own_streams():
                await self._ensure_stream(connection, config)
            for bucket, limits in self._buckets().items():
                await self._ensure_bucket(connection, bucket, limits)
            for kind in self.kinds:
                await self.ensure_kind(connection, kind)
            await self._ensure_due_workers(connection)
            await self.epoch(connection)
        except nats.js.errors.APIError as error:
            if error.err_code in _JETSTREAM_OFF:
                raise BrokerUnfit("JetStream is not enabled on this nats-server or account") from error
            raise BrokerUnfit(f"JetStream: {error.description} ({error.err_code})") from error
        except (nats.errors.Error, TimeoutError) as error:
            connection.require_open()
            connection.require_permitted()
            raise BrokerUnfit(f"JetStream does not answer: {error or 'time-out'}") from error

    async def ensure_kind(self, connection: Connection, kind: Kind) -> None:
        """Create what the events of one kind need and is missing."""
        archive = [self.archive_subject(kind, ""), self.archive_subject(kind, ">")]
        name = self.archive_stream(kind)
        await self._ensure_stream(connection, self._config(name, archive, max_age=self.archive_age))
        await self._ensure_event_stream(connection, kind)

    async def ensure_workers(self, connection: Connection, channels: Sequence[str]) -> None:
        """Create the durable of each channel that has none."""
        for channel in channels:
            await connection.js.add_consumer(
                self.delivery_stream,
                api.ConsumerConfig(
                    durable_name=self.worker(channel),
                    filter_subject=self.delivery_subject("*", channel),
                    ack_policy=api.AckPolicy.EXPLICIT,
                    ack_wait=self.ack_wait,
                    max_ack_pending=20_000,  # over all replicas; each bounds its own
                    max_deliver=-1,  # attempts are counted by the deliverer
                ),
            )

    async def _ensure_due_workers(self, connection: Connection) -> None:
        for what, durable in (("delivery", self.due_worker), ("digest", self.alarm_worker)):
            await self._ensure_due_worker(connection, what, durable)

    async def _ensure_due_worker(self, connection: Connection, what: str, durable: str) -> None:
        await connection.js.add_consumer(
            self.timer_stream,
            api.ConsumerConfig(
                durable_name=durable,
                # Never all of the stream: what still waits would be handed out, and lost when acknowledged.
                filter_subject=self.due_subject(what, ">"),
                ack_policy=api.AckPolicy.EXPLICIT,
                ack_wait=self.ack_wait,
                max_ack_pending=20_000,
                max_deliver=-1,
            ),
        )

    async def epoch(self, connection: Connection) -> float:
        """Since when the broker has been running, as far as MSS has seen; seconds since the epoch.

        The message that says so lies in its memory, where a restart loses it.
        """
        stream, subject = f"{self.streams}_EPOCH", f"{self.namespace}.epoch"
        while True:
            try:
                found = await connection.js.get_last_msg(stream, subject)
            except nats.js.errors.NotFoundError:
                await self._begin_epoch(connection, stream, subject)
            else:
                return found.time.timestamp() if found.time else math.inf

    async def _begin_epoch(self, connection: Connection, stream: str, subject: str) -> None:
        memory = api.StreamConfig(
            name=stream, subjects=[subject], storage=api.StorageType.MEMORY, num_replicas=self.replicas
        )
        first = {"Nats-Expected-Last-Subject-Sequence": "0"}
        with contextlib.suppress(nats.js.errors.APIError):  # another replica was quicker
            await connection.js.add_stream(memory)
            await connection.js.publish(subject, b"", headers=first)

    async def ledger(self, connection: Connection) -> KeyValue:
        return await connection.js.key_value(self.bucket("LEDGER"))

    async def state(self, connection: Connection) -> Cells:
        return Cells(await connection.js.key_value(self.bucket("STATE")))

    def _own_streams(self) -> list[api.StreamConfig]:
        def limits(name: str, subject: str, age: float) -> api.StreamConfig:
            return self._config(f"{self.streams}_{name}", [f"{self.namespace}.{subject}"], max_age=age)

        return [
            self._config(
                self.delivery_stream,
                [f"{self.namespace}.delivery.*.*"],
                retention=api.RetentionPolicy.WORK_QUEUE,
            ),
            self._config(
                self.timer_stream,
                [f"{self.namespace}.timer.>", f"{self.namespace}.due.>"],
                retention=api.RetentionPolicy.WORK_QUEUE,
                allow_msg_schedules=True,
                allow_msg_ttl=True,
            ),
            limits("DEAD", "dead.*.*", self.dead_age),
            limits("HISTORY", "history.*.*", self.history_age),
        ]

    def _buckets(self) -> dict[str, dict[str, Any]]:
        return {
            self.bucket("LEDGER"): {"ttl": self.ledger_age, "history": 1},
            self.bucket("STATE"): {"history": 1},
            self.bucket("PREFERENCES"): {"history": 5},
        }

    def _config(self, name: str, subjects: list[str], **more: Any) -> api.StreamConfig:
        return api.StreamConfig(
            name=name,
            subjects=subjects,
            storage=api.StorageType.FILE,
            num_replicas=self.replicas,
            duplicate_window=_DUPLICATES,
            allow_direct=True,
            **more,
        )

    async def _ensure_event_stream(self, connection: Connection, kind: Kind) -> None:
        """Make the durable before the stream listens.

        With interest retention the broker drops whatever no consumer has asked for, so a stream
        that listened first would lose what came before its durable.
        """
        name = self.stream(kind)
        before_birth = self._config(
            name, [f"{self.namespace}.unborn.{kind}"], retention=api.RetentionPolicy.INTEREST
        )
        info = await self._ensure_stream(connection, before_birth)
        await connection.js.add_consumer(
            name,
            api.ConsumerConfig(
                durable_name=self.planner,
                ack_policy=api.AckPolicy.EXPLICIT,
                ack_wait=self.ack_wait,
                max_ack_pending=20_000,
                max_deliver=-1,
            ),
        )
        if info.config.subjects == before_birth.subjects:
            info.config.subjects = self.subjects(kind)
            await self._update(connection, info.config)
        elif info.config.subjects != self.subjects(kind):
            raise BrokerUnfit(
                f"stream {name} listens to {', '.join(info.config.subjects or ())} and not to "
                f"{', '.join(self.subjects(kind))}: does another MSS share this broker? "
                "Give this one its own stream_prefix"
            )

    async def _ensure_stream(self, connection: Connection, config: api.StreamConfig) -> api.StreamInfo:
        assert config.name is not None  # noqa: S101 -- nats-py types every field as optional
        try:
            info = await connection.js.stream_info(config.name)
        except nats.js.errors.NotFoundError:
            try:
                return await self._create(connection, config)
            except nats.js.errors.APIError as error:
                if error.err_code != _EXISTS:
                    raise
            # Another replica, which has started with us, has made it, and let it listen already.
            info = await connection.js.stream_info(config.name)
        if info.config.retention != (config.retention or api.RetentionPolicy.LIMITS):
            raise BrokerUnfit(
                f"stream {config.name} has retention {info.config.retention}, MSS needs {config.retention}"
            )
        return info

    async def _create(self, connection: Connection, config: api.StreamConfig) -> api.StreamInfo:
        for _ in range(20):
            try:
                return await connection.js.add_stream(config)
            except nats.js.errors.APIError as error:
                if error.err_code == _OVERLAP:
                    raise _in_the_way(config) from error
                if error.err_code != _CLOSED_FOR_RENOVATION:
                    raise
                await asyncio.sleep(0.25)
        return await connection.js.add_stream(config)

    async def _update(self, connection: Connection, config: api.StreamConfig) -> None:
        try:
            await connection.js.update_stream(config)
        except nats.js.errors.APIError as error:
            if error.err_code != _OVERLAP:
                raise
            raise _in_the_way(config) from error

    async def _ensure_bucket(self, connection: Connection, bucket: str, limits: dict[str, Any]) -> None:
        try:
            await connection.js.key_value(bucket)
        except nats.js.errors.BucketNotFoundError:
            await connection.js.create_key_value(
                api.KeyValueConfig(bucket=bucket, replicas=self.replicas, direct=True, **limits)
            )

    async def _refuse_captured_actions(self, connection: Connection) -> None:
        """A stream over the action subjects would answer callers in the handlers' place."""
        action = f"{self.prefix}.action.>"
        try:
            name = await connection.js.find_stream_name_by_subject(action)
        except nats.js.errors.NotFoundError:
            return
        raise BrokerUnfit(
            f"stream {name} captures {self.prefix}.action.>: its acknowledgement would answer the caller "
            "before any handler. Narrow its subjects"
        )


def _in_the_way(config: api.StreamConfig) -> BrokerUnfit:
    return BrokerUnfit(
        f"another stream has the subjects of {config.name}: {', '.join(config.subjects or ())}"
    )
