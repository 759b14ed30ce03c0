"""Execute a request once: the ledger around a handler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..model.errors import BrokerError
from ..planning.requests import NOT_BEGUN, OUTCOME_UNKNOWN, ActionRequest, ActionResponse, failed
from ..rules.rulebook import ActionSpec
from . import ActionHandler
from .ledger import Lease, LeaseHeld, Ledger, RecordedReply, action_key

log = logging.getLogger(__name__)

_SAFETY_MARGIN = 1.0  # seconds before a caller stops waiting within which nothing is started
_STILL_RUNNING = "still being carried out: outcome not known yet"
_NO_LEDGER = "not carried out: the ledger cannot be reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionJob:
    """A request, and the way to its reply."""

    request: ActionRequest
    until: int  # when the caller stops waiting, microseconds since the epoch
    write: Callable[[ActionResponse], bytes]  # encodes the reply
    send: Callable[[bytes], Awaitable[None]]

    @property
    def key(self) -> str:
        key, person = self.request.key, self.request.person
        # A reqid counts per subject: else a user who knows another user's reqid would get that user's reply.
        return action_key(key if person is None else f"{key}.{person}", self.request.reqid)


class IdempotentHandler:
    """The requests for one action in one process, each run once; the ledger covers other processes."""

    def __init__(
        self,
        spec: ActionSpec,
        handler: ActionHandler,
        ledger: Ledger,
        clock: Callable[[], int],
        *,
        at_once: int,
    ) -> None:
        self.close = handler.close
        self._handler = handler
        self._spec = spec
        self._ledger = ledger
        self._clock = clock
        self._slots = asyncio.Semaphore(at_once)
        self._running: dict[str, asyncio.Future[bytes]] = {}

    async def run(self, job: ActionJob) -> bytes:
        """Return the reply, whichever replica carries the request out.

        ``job.send`` may be called with the reply before it is known to be recorded, but never with
        another reply than the one returned. Raises what a bug in the handler raises.
        """
        if running := self._running.get(job.key):
            await asyncio.wait((running,), timeout=max(0.0, self._time_left(job)))
            return running.result() if running.done() else job.write(failed(_STILL_RUNNING))
        running = self._running[job.key] = asyncio.get_running_loop().create_future()
        try:
            reply = await self._settle(job)
            running.set_result(reply)
        except Exception as error:
            running.set_exception(error)
            running.exception()  # else asyncio complains if no other task waits
            raise
        except BaseException:
            running.cancel()
            raise
        finally:
            del self._running[job.key]
        return reply

    async def run_unrecorded(self, job: ActionJob) -> bytes:
        """Return the reply to a request that changes nothing: it runs each time, without the ledger."""
        if not await self._wait_for_slot(job):
            return job.write(failed(NOT_BEGUN))
        try:
            return job.write(await self._handle(job))
        finally:
            self._slots.release()

    async def _settle(self, job: ActionJob) -> bytes:
        """Run the request, or wait for the replica that runs it.

        If that replica died, only an idempotent action is run again.
        """
        over: LeaseHeld | None = None  # the lease of a dead replica, to take over
        while True:
            held = await self._try(job, over)
            if isinstance(held, bytes):
                return held
            found = await self._ledger.outcome(held, limit=self._time_left(job))
            if isinstance(found, RecordedReply):
                return found.reply
            if found is None:
                return job.write(failed(_STILL_RUNNING))
            log.warning("action %s: the replica that had a request is gone", self._spec.key)
            if not self._spec.idempotent:
                lease = Lease(key=job.key, revision=found.revision)
                return await self._ledger.record(lease, job.write(failed(OUTCOME_UNKNOWN)))
            over = found

    async def _try(self, job: ActionJob, over: LeaseHeld | None) -> bytes | LeaseHeld:
        """Return the reply if this replica gets the lease, else the lease that another one has.

        ``over`` is the lease of a dead replica, which this one takes over.
        """
        if not await self._wait_for_slot(job):
            return job.write(failed(NOT_BEGUN))
        try:
            claim = await self._claim(job, over)
            if not isinstance(claim, Lease):
                return claim
            response = await self._handle(job)
        finally:
            self._slots.release()
        reply = job.write(response)
        if not self._ledger.is_surely_alive:
            return await self._ledger.record(claim, reply)
        if await self._ledger.record(claim, reply, lambda: job.send(reply)) != reply:
            log.error("action %s: another replica took this one for dead, and replied", self._spec.key)
        return reply

    async def _wait_for_slot(self, job: ActionJob) -> bool:
        """Acquire a slot; False if none is free while the caller waits."""
        try:
            async with asyncio.timeout(max(0.0, self._time_left(job))):
                return await self._slots.acquire()
        except TimeoutError:
            return False

    async def _claim(self, job: ActionJob, over: LeaseHeld | None) -> Lease | bytes | LeaseHeld:
        left = self._time_left(job)
        if left <= 0:
            return job.write(failed(NOT_BEGUN))
        try:
            claim = await self._ledger.claim(job.key, until=job.until, limit=left, over=over)
        except (BrokerError, TimeoutError) as error:
            return job.write(failed(_NO_LEDGER, str(error) or "the ledger does not answer"))
        return claim.reply if isinstance(claim, RecordedReply) else claim

    async def _handle(self, job: ActionJob) -> ActionResponse:
        left = self._time_left(job)
        if left <= 0:
            return failed(NOT_BEGUN)
        deadline = asyncio.get_running_loop().time() + min(left, self._spec.timeout)
        return await self._handler.handle(job.request, deadline)

    def _time_left(self, job: ActionJob) -> float:
        """Return the seconds in which a reply still reaches the caller."""
        return (job.until - self._clock()) / 1e6 - _SAFETY_MARGIN
