"""One replica: its sessions, one after the other, and the changes while it runs. Entry: `Server`.

Everything that depends on a connection is in a session and ends with it. When the client is closed for
good, which nats-py does on an expired token or a changed password, the server makes a new session.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version

import nats.errors

from ..actions.service import ActionService
from ..metrics import ChannelState, Metrics
from ..model.errors import BrokerError, BrokerUnsupported, innermost
from ..rules.rulebook import Rulebook
from ..runtime import freeze_heap
from ..settings import Settings
from .control import ReloadResult, ReplicaReply, Status, shortened
from .session import Service

log = logging.getLogger(__name__)

_SESSION_WAIT = 2.0  # seconds before a lost session is made anew
_LAG_PERIOD = 5.0  # seconds for which a measured lag is fresh enough for another scrape
_BESIDE_LIMIT = 10.0  # seconds for a session over another connection to begin
_BROKER_TROUBLE = (BrokerError, nats.errors.Error, TimeoutError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunningSession:
    """A session and the task that runs it, which returns what the broker did to it."""

    service: Service
    task: asyncio.Task[Exception | None]


@dataclass(kw_only=True)
class Server:
    """One replica of MSS."""

    settings: Settings
    rulebook: Rulebook
    metrics: Metrics = field(default_factory=Metrics)
    ready: asyncio.Event = field(default_factory=asyncio.Event)  # events are being taken
    commands: dict[str, Callable[[], Awaitable[ReplicaReply]]] = field(
        default_factory=dict
    )  # more to be asked
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    last_reload: ReloadResult | None = None
    source_error: Callable[[], str] = (
        str  # why the policy cannot be looked at where it lies; empty while it can
    )
    _started: float = field(default_factory=time.time)
    _since: float = field(default_factory=time.time)
    _work: _RunningSession | None = None
    _leaving: set[asyncio.Task[Exception | None]] = field(default_factory=set)
    _has_served: bool = False
    _measuring: asyncio.Lock = field(default_factory=asyncio.Lock)
    _measured: float = -math.inf  # when the lag of the consumers was last read, on the monotonic clock

    def __post_init__(self) -> None:
        self.metrics.source_up.set_function(lambda: not self.source_error())
        self.metrics.channels.read = self._channel_states

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set; then finish what is in hand within the grace and return.

        Raises BrokerUnfit when the broker cannot serve MSS at the first start; later that is logged
        and tried again, as a lost connection is.
        """
        self._update_metrics()
        freeze_heap()
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            while not stop.is_set():
                work = self._work = self._work or self._start_session(self.settings)
                serving = asyncio.create_task(self._announce_ready(work), name="ready")
                await asyncio.wait((work.task, stopped), return_when=asyncio.FIRST_COMPLETED)
                serving.cancel()
                if work is self._work and not stop.is_set():  # it ended, and nobody took its place
                    await self._finish(work)
                    await asyncio.wait((stopped,), timeout=_SESSION_WAIT)
            if self._work is not None:
                await self._finish(self._work)
            while self._leaving:
                await asyncio.wait(list(self._leaving))
        finally:
            stopped.cancel()
            if self._work is not None:
                self._work.task.cancel()

    async def apply(self, rulebook: Rulebook, settings: Settings) -> None:
        """Go by ``rulebook`` and ``settings`` from now on; of the settings, by what can change live.

        Another broker or another login is tried beside the present one, which then ends. Raises
        PolicyError or BrokerError, having changed nothing, when something does not open.
        """
        present, before = self.settings, (self.rulebook, self.settings, self._since)

        def take() -> None:
            if rulebook.revision != self.rulebook.revision:
                self._since = time.time()
            self.rulebook, self.settings = rulebook, settings

        def undo() -> None:
            self.rulebook, self.settings, self._since = before

        if (settings.servers, settings.access) == (present.servers, present.access):
            if self._work is None:
                raise BrokerError("there is no session with NATS at this moment")
            await self._work.service.apply(rulebook, settings, take=take, undo=undo)
        else:
            beside = await self._start_second_session(
                replace(present, servers=settings.servers, access=settings.access)
            )
            try:
                await beside.service.apply(rulebook, settings, take=take, undo=undo)
            except BaseException:
                beside.task.cancel()
                await asyncio.wait((beside.task,))
                raise
            old, self._work = self._work, beside
            self.ready.set()
            if old is not None:
                leaving = asyncio.create_task(self._end(old), name="leave")
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)
        self._update_metrics()

    def identity(self) -> ReplicaReply:
        """Who this is, and by what it goes."""
        name = self.settings.replica or f"{socket.gethostname()}/{os.getpid()}"
        return ReplicaReply(id=self.id, name=name, revision=self.rulebook.revision, since=self._since)

    @property
    def actions(self) -> ActionService | None:
        """The actions of the present session."""
        return self._work.service.actions if self._work else None

    async def _status(self) -> ReplicaReply:
        service = self._work.service if self._work else None
        streams, queues = await service.lags() if service else ((), ())
        status = Status(
            version=version("mss-server"),
            started=self._started,
            rules=len(self.rulebook.rules),
            is_serving=self.ready.is_set(),
            kinds=tuple(map(str, service.kinds)) if service else (),
            actions=self.actions.keys if self.actions else (),
            channels=service.channels if service else (),
            in_flight=service.in_flight if service else 0,
            streams=streams,
            queues=queues,
            reload=shortened(self.last_reload),
            source_error=self.source_error(),
        )
        return replace(self.identity(), status=status)

    async def measure_lag(self) -> None:
        """Ask the broker for the lag of each consumer, at most once in ``_LAG_PERIOD``. Never raises.

        A consumer that the broker does not answer for has no sample until it answers again.
        """
        async with self._measuring:
            if time.monotonic() - self._measured < _LAG_PERIOD:
                return
            service = self._work.service if self._work else None
            lags = await service.consumer_lags() if service else {}
            self.metrics.show_lags(
                {names: (lag.pending, lag.in_flight) for names, lag in lags.items() if not lag.error}
            )
            self._measured = time.monotonic()

    def _channel_states(self) -> tuple[ChannelState, ...]:
        return self._work.service.channel_states() if self._work else ()

    def _update_metrics(self) -> None:
        self.metrics.rules.set(len(self.rulebook.rules))
        self.metrics.revision.clear()
        self.metrics.revision.labels(self.rulebook.revision).set(1)

    def _start_session(self, settings: Settings, *, is_patient: bool = True) -> _RunningSession:
        service = Service(
            settings=settings,
            rulebook=lambda: self.rulebook,
            metrics=self.metrics,
            identity=self.identity,
            commands={"status": self._status, **self.commands},
            is_patient=is_patient,
        )
        return _RunningSession(service=service, task=asyncio.create_task(_outcome(service), name="session"))

    async def _announce_ready(self, work: _RunningSession) -> None:
        await work.service.ready.wait()
        self._has_served = True
        self.ready.set()
        log.info(
            "serving %s.* with %d rules, revision %s",
            self.settings.prefix, len(self.rulebook.rules), self.rulebook.revision,
        )  # fmt: skip

    async def _start_second_session(self, settings: Settings) -> _RunningSession:
        """A session with other settings that has begun to serve. Raises BrokerError."""
        work = self._start_session(settings, is_patient=False)
        ready = asyncio.create_task(work.service.ready.wait(), name="beside")
        try:
            await asyncio.wait((ready, work.task), timeout=_BESIDE_LIMIT, return_when=asyncio.FIRST_COMPLETED)
            if work.service.ready.is_set() and not work.task.done():
                return work
        finally:
            ready.cancel()
        if not work.task.done():
            work.task.cancel()
            await asyncio.wait((work.task,))
        error = None if work.task.cancelled() else work.task.result()
        raise BrokerError(f"NATS with the new settings: {error or 'no answer'}")

    async def _finish(self, work: _RunningSession) -> None:
        """End the present session, and say why where it ended by itself."""
        error = await self._end(work)
        self._work = None
        self.ready.clear()
        if isinstance(error, BrokerUnsupported) and not self._has_served:
            raise error
        if error is not None:
            log.error("the session is over: %s", str(error) or type(error).__name__)

    async def _end(self, work: _RunningSession) -> Exception | None:
        """Tell a session to stop, and cancel it when the grace is used up; what the broker did to it."""
        is_serving = work.service.ready.is_set()
        if not work.task.done():
            if is_serving:
                log.info("stopping: finishing %d in hand", work.service.in_flight)
            work.service.stop()
            await asyncio.wait((work.task,), timeout=self.settings.shutdown_grace if is_serving else 0)
        if not work.task.done():
            if is_serving:
                log.warning("the grace is over; what is in hand goes back to the streams")
            work.task.cancel()
            await asyncio.wait((work.task,))
        return None if work.task.cancelled() else work.task.result()


async def _outcome(service: Service) -> Exception | None:
    """Run one session; what the broker did to it is returned, a bug is raised."""
    try:
        await service.run()
    except _BROKER_TROUBLE as error:
        return error
    except BaseExceptionGroup as group:
        trouble, rest = group.split(_BROKER_TROUBLE)
        if rest is not None:
            raise rest from None
        return innermost(trouble) if trouble else None
    return None
