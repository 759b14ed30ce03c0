"""Execute a request once: the ledger around a handler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from ..model.errors import BrokerError
from ..rules.rulebook import ActionSpec
from . import NOT_BEGUN, OUTCOME_UNKNOWN, ActionHandler, ActionRequest, ActionResponse, failed
from .ledger import Lease, LeaseHeld, Ledger, RecordedReply, action_key

log = logging.getLogger(__name__)

_LAST_MOMENT = 1.0  # seconds before a caller gives up within which nothing is begun
_STILL_RUNNING = "still being carried out: outcome not known yet"
_NO_LEDGER = "not carried out: the ledger cannot be reached"


class WriteReply(Protocol):
    """The reply's bytes; ``now`` in microseconds since the epoch."""

    def __call__(self, answer: ActionResponse, *, now: int) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionJob:
    """A request, and how it is replied to."""

    request: ActionRequest
    until: int  # when the caller gives up, microseconds since the epoch
    write: WriteReply
    send: Callable[[bytes], Awaitable[None]]

    @property
    def key(self) -> str:
        key, person = self.request.key, self.request.person
        # A reqid counts on its own subject: else who knows another's would be told their reply.
        return action_key(key if person is None else f"{key}.{person}", self.request.reqid)


class IdempotentHandler:
    """Runs the requests for one action in one process; the ledger keeps processes apart."""

    def __init__(
        self,
        spec: ActionSpec,
        handler: ActionHandler,
        ledger: Ledger,
        clock: Callable[[], int],
        *,
        at_once: int,
    ) -> None:
        self.handler = handler
        self._spec = spec
        self._ledger = ledger
        self._clock = clock
        self._slots = asyncio.Semaphore(at_once)
        self._running: dict[str, asyncio.Future[bytes]] = {}

    async def run(self, job: ActionJob) -> bytes:
        """The reply, whoever carries it out.

        ``job.send`` may be called with it before it is known to be written down, never with another
        than is returned.
        """
        if running := self._running.get(job.key):
            await asyncio.wait((running,), timeout=max(0.0, self._time_left(job)))
            return running.result() if running.done() else self._write(job, _STILL_RUNNING)
        running = self._running[job.key] = asyncio.get_running_loop().create_future()
        try:
            reply = await self._settle(job)
            running.set_result(reply)
        except Exception as error:
            running.set_exception(error)
            running.exception()  # else asyncio complains where nobody else waits
            raise
        except BaseException:
            running.cancel()
            raise
        finally:
            del self._running[job.key]
        return reply

    async def run_unrecorded(self, job: ActionJob) -> bytes:
        """The reply to what changes nothing: it is carried out each time, and the ledger not asked."""
        try:
            async with asyncio.timeout(max(0.0, self._time_left(job))):
                await self._slots.acquire()
        except TimeoutError:
            return self._write(job, NOT_BEGUN)
        try:
            answer = await self._handle(job.request, self._time_left(job))
        finally:
            self._slots.release()
        return job.write(answer, now=self._clock())

    async def _settle(self, job: ActionJob) -> bytes:
        """Carry it out, or wait for whoever does; over a dead replica's lease only what may be repeated."""
        over: LeaseHeld | None = None
        while True:
            taken = await self._try(job, over)
            if isinstance(taken, bytes):
                return taken
            found = await self._ledger.outcome(taken, limit=self._time_left(job))
            if isinstance(found, RecordedReply):
                return found.reply
            if found is None:
                return self._write(job, _STILL_RUNNING)
            log.warning("action %s: the replica that had a request is gone", self._spec.key)
            if not self._spec.idempotent:
                lease = Lease(key=job.key, revision=found.revision)
                return await self._ledger.record(lease, self._write(job, OUTCOME_UNKNOWN))
            over = found

    async def _try(self, job: ActionJob, over: LeaseHeld | None) -> bytes | LeaseHeld:
        """The reply, if we are the ones to carry it out; else who is."""
        try:
            async with asyncio.timeout(max(0.0, self._time_left(job))):
                await self._slots.acquire()
        except TimeoutError:
            return self._write(job, NOT_BEGUN)
        try:
            claim = await self._claim(job, over)
            if not isinstance(claim, Lease):
                return claim
            answer = await self._handle(job.request, self._time_left(job))
        finally:
            self._slots.release()
        reply = job.write(answer, now=self._clock())
        if not self._ledger.is_surely_alive:
            return await self._ledger.record(claim, reply)
        standing = await self._ledger.record(claim, reply, lambda: job.send(reply))
        if standing != reply:
            log.error("action %s: another replica took this one for dead, and replied", self._spec.key)
        return reply

    async def _claim(self, job: ActionJob, over: LeaseHeld | None) -> Lease | bytes | LeaseHeld:
        left = self._time_left(job)
        if left <= 0:
            return self._write(job, NOT_BEGUN)
        try:
            claim = await self._ledger.claim(job.key, until=job.until, limit=left, over=over)
        except (BrokerError, TimeoutError) as error:
            log.warning("action %s: %s", self._spec.key, str(error) or "the ledger does not answer")
            return self._write(job, _NO_LEDGER)
        return claim.reply if isinstance(claim, RecordedReply) else claim

    async def _handle(self, request: ActionRequest, left: float) -> ActionResponse:
        if left <= 0:
            return failed(NOT_BEGUN)
        deadline = asyncio.get_running_loop().time() + min(left, self._spec.timeout)
        answer = await self.handler.handle(request, deadline)
        if answer.detail:
            log.warning("action %s: %s (%s)", self._spec.key, answer.message, answer.detail)
        return answer

    def _write(self, job: ActionJob, message: str) -> bytes:
        return job.write(failed(message), now=self._clock())

    def _time_left(self, job: ActionJob) -> float:
        """Seconds in which an answer still reaches the caller."""
        return (job.until - self._clock()) / 1e6 - _LAST_MOMENT
