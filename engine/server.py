"""The server: one session after the other, how each begins and stops, and what changes while it runs.

All that depends on a connection lives in a session and ends with it. When the client is closed for
good, which nats-py does on an expired token or a changed password, a new session is made.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import nats.errors

from .actions.service import Actions
from .broker import Connection
from .errors import BrokerError, BrokerLost, BrokerUnfit, innermost
from .loader import settle
from .metrics import Metrics
from .rulebook import ActionSpec, Rulebook
from .session import open_session
from .settings import Settings
from .workers import Workers

log = logging.getLogger(__name__)

_START_LIMIT = 10.0  # seconds for the broker to say what is not permitted
_SESSION_WAIT = 2.0  # seconds before a lost session is made anew
_NO_ANSWER = (nats.errors.Error, TimeoutError, OSError)
_BROKER_TROUBLE = (BrokerError, *_NO_ANSWER)


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
        try:
            opened = await workers.prepare(rulebook.channels) if workers else {}
        except _NO_ANSWER as error:
            raise BrokerError(f"NATS: {str(error) or 'no answer'}") from error
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
            session = await open_session(self.settings, lambda: self.rulebook, self.metrics, stack)
            consumers = [
                *(session.intake(kind) for kind in self.settings.kinds),
                session.due(),
            ]
            async with asyncio.TaskGroup() as tasks:
                attending = [
                    tasks.create_task(session.publisher.run(), name="publisher"),
                    tasks.create_task(_watch(session.connection), name="connection"),
                    tasks.create_task(session.connection.keep_since(session.topology.epoch), name="epoch"),
                ]
                consuming = [tasks.create_task(consumer.run(), name="consumer") for consumer in consumers]
                workers = session.workers(tasks)
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

    def _action_specs(self) -> dict[str, ActionSpec]:
        """The policy's actions without those that are left to others."""
        if not self.settings.actions:
            return {}
        off = self.settings.actions_off
        return {key: spec for key, spec in self.rulebook.actions.items() if key not in off}


async def _watch(connection: Connection) -> None:
    await connection.lost.wait()
    raise BrokerLost("the connection to NATS is closed")
