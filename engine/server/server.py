"""One replica: its sessions, one after the other, and the changes while it runs. Entry: `Server`.

Everything that depends on a connection is in a session and ends with it. If the client is closed for good
(nats-py does that on an expired token or a changed password), the server starts a new session.
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

from ..actions.service import ActionService
from ..metrics import ChannelState, Metrics
from ..model.errors import BrokerError, BrokerUnsupported
from ..rules.rulebook import Rulebook
from ..runtime import freeze_heap
from ..settings import Settings
from .control import ReloadResult, ReplicaReply, Status, shortened
from .session import Session

log = logging.getLogger(__name__)

_SESSION_WAIT = 2.0  # seconds between the end of a lost session and the next one
_SECOND_SESSION_LIMIT = 10.0  # seconds for a session over another connection to start
_LAG_PERIOD = 5.0  # seconds for which a measured lag is fresh enough for another scrape


@dataclass(kw_only=True)
class Server:
    """One replica of MSS."""

    settings: Settings
    rulebook: Rulebook
    metrics: Metrics = field(default_factory=Metrics)
    ready: asyncio.Event = field(default_factory=asyncio.Event)  # events are consumed
    commands: dict[str, Callable[[], Awaitable[ReplicaReply]]] = field(default_factory=dict)  # besides status
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    last_reload: ReloadResult | None = None
    source_error: Callable[[], str] = str  # why the source of the policy cannot be read; empty if it can
    _started: float = field(default_factory=time.time)
    _since: float = field(default_factory=time.time)
    _session: Session | None = None
    _ending: set[asyncio.Task[Exception | None]] = field(default_factory=set)  # replaced sessions
    _has_served: bool = False
    _measuring: asyncio.Lock = field(default_factory=asyncio.Lock)
    _measured: float = -math.inf  # when the lag of the consumers was last read, on the monotonic clock

    def __post_init__(self) -> None:
        self.metrics.source_up.set_function(lambda: not self.source_error())
        self.metrics.channels.read = self._channel_states

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set; then finish the messages in flight within the grace and return.

        Raises BrokerUnsupported if the broker cannot serve MSS at the first start. Later this is logged
        and retried, as a lost connection is.
        """
        self._update_metrics()
        freeze_heap()
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            while not stop.is_set():
                session = self._session = self._session or self._start_session(self.settings)
                ready = asyncio.create_task(self._announce_ready(session), name="ready")
                await asyncio.wait((session.task, stopped), return_when=asyncio.FIRST_COMPLETED)
                ready.cancel()
                if session is self._session and not stop.is_set():  # it ended, and no reload replaced it
                    await self._finish(session)
                    await asyncio.wait((stopped,), timeout=_SESSION_WAIT)
            while self._session is not None:  # a reload may replace it until it has ended
                await self._finish(self._session)
            while self._ending:
                await asyncio.wait(list(self._ending))
        finally:
            stopped.cancel()
            if self._session is not None:
                self._session.task.cancel()

    async def apply(self, rulebook: Rulebook, settings: Settings) -> None:
        """Activate ``rulebook`` and ``settings``; of the settings, those that can change without a restart.

        For another broker or another login, a second session starts, and then the present one ends. Raises
        PolicyError or BrokerError, having changed nothing, if something cannot be opened.
        """
        session, present = self._session, self.settings
        is_second = (settings.servers, settings.access) != (present.servers, present.access)
        if is_second:
            session = await self._start_second_session(
                replace(present, servers=settings.servers, access=settings.access)
            )
        elif session is None:
            raise BrokerError("there is no session with NATS at this moment")
        try:
            prepared = await session.prepare(rulebook, settings)
        except BaseException:
            if is_second:
                await session.cancel()
            raise
        # From here on the reload cannot fail. The old session may be another one than at the start.
        replaced, old = self.rulebook, self._session
        if rulebook.revision != replaced.revision:
            self._since = time.time()
        self.rulebook, self.settings, self._session = rulebook, settings, session
        self._update_metrics()
        if is_second:
            self.ready.set()
            if old is not None:
                ending = asyncio.create_task(old.end(settings.shutdown_grace), name="end")
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)
        await session.commit(prepared, replaced)

    def identity(self) -> ReplicaReply:
        """Return who this replica is, and its active revision."""
        name = self.settings.replica or f"{socket.gethostname()}/{os.getpid()}"
        return ReplicaReply(id=self.id, name=name, revision=self.rulebook.revision, since=self._since)

    @property
    def actions(self) -> ActionService | None:
        """The actions of the present session."""
        return self._session.actions if self._session else None

    async def measure_lag(self) -> None:
        """Ask the broker for the lag of each consumer, at most once in ``_LAG_PERIOD``. Never raises.

        A consumer that the broker does not answer for has no sample until it answers again.
        """
        async with self._measuring:
            if time.monotonic() - self._measured < _LAG_PERIOD:
                return
            streams, queues = await self._session.lags() if self._session else ({}, {})
            self.metrics.show_lags(
                {
                    key: (lag.pending, lag.in_flight)
                    for key, lag in (streams | queues).items()
                    if not lag.error
                }
            )
            self._measured = time.monotonic()

    async def _status(self) -> ReplicaReply:
        status = Status(
            version=version("mss-server"),
            started=self._started,
            rules=len(self.rulebook.rules),
            is_serving=self.ready.is_set(),
            reload=shortened(self.last_reload),
            source_error=self.source_error(),
        )
        if self._session is not None:
            status = await self._session.complete(status)
        return replace(self.identity(), status=status)

    def _channel_states(self) -> tuple[ChannelState, ...]:
        return self._session.channel_states() if self._session else ()

    def _update_metrics(self) -> None:
        self.metrics.rules.set(len(self.rulebook.rules))
        self.metrics.revision.clear()
        self.metrics.revision.labels(self.rulebook.revision).set(1)

    def _start_session(self, settings: Settings, *, is_patient: bool = True) -> Session:
        session = Session(
            settings=settings,
            rulebook=lambda: self.rulebook,
            metrics=self.metrics,
            identity=self.identity,
            commands={"status": self._status, **self.commands},
            is_patient=is_patient,
        )
        session.start()
        return session

    async def _announce_ready(self, session: Session) -> None:
        await session.ready.wait()
        self._has_served = True
        self.ready.set()
        prefix, revision, rules = self.settings.prefix, self.rulebook.revision, len(self.rulebook.rules)
        log.info("serving %s.*: revision %s, rules: %d", prefix, revision, rules)

    async def _start_second_session(self, settings: Settings) -> Session:
        """Return a session with other settings that serves. Raises BrokerError if it cannot be opened."""
        session = self._start_session(settings, is_patient=False)
        ready = asyncio.create_task(session.ready.wait(), name="second session")
        try:
            await asyncio.wait(
                (ready, session.task), timeout=_SECOND_SESSION_LIMIT, return_when=asyncio.FIRST_COMPLETED
            )
            if session.ready.is_set() and not session.task.done():
                return session
        except BaseException:  # the session over which the reload was requested may end, and cancels it
            await session.cancel()
            raise
        finally:
            ready.cancel()
        error = await session.end(0)
        raise BrokerError(f"NATS with the new settings: {error or 'no answer'}")

    async def _finish(self, session: Session) -> None:
        """End the present session, and log the error if it ended by itself."""
        error = await session.end(self.settings.shutdown_grace)
        if session is self._session:
            self._session = None
            self.ready.clear()
        if isinstance(error, BrokerUnsupported) and not self._has_served:
            raise error
        if error is not None:
            log.error("the session is over: %s", str(error) or type(error).__name__)
