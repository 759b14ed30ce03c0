"""The action service: one request in, exactly one reply out. Entry: `ActionService`.

Each subject has one subscription in a queue group, so one replica gets a request, and an action that nobody
serves is answered "no responders" at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import cast

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.kv import KeyValue
from prometheus_client import Counter, Histogram

from msc import wire

from ..broker import Connection
from ..metrics import Metrics
from ..model.errors import BrokerError, PolicyError
from ..rules.rulebook import ActionSpec, ChannelSpec
from ..settings import Settings
from . import (
    HANDLERS,
    ActionHandler,
    ActionRequest,
    ActionResponse,
    HandlerResources,
    Lookup,
    ServiceTerms,
    envelope,
    failed,
    open_handler,
    unusable,
)
from .idempotency import ActionJob, IdempotentHandler
from .ledger import Ledger
from .nats_micro import Endpoint, MicroService

log = logging.getLogger(__name__)

_HEAR_LIMIT = 5.0  # seconds for the broker to hear that we serve an action, or no more
_BUSY = "busy: too many requests in hand"
_BROKEN = "internal error"
_UNAVAILABLE = "not available: the broker does not answer"

QUEUE_GROUP = "mss-actions"


@dataclass(kw_only=True)
class ActionService:
    """Serves the actions of a policy; which ones can change while it runs."""

    terms: ServiceTerms
    connection: Connection
    ledger: Ledger
    resources: HandlerResources
    metrics: Metrics
    clock: Callable[[], int]  # microseconds since the epoch
    micro: MicroService
    started: asyncio.Event = field(default_factory=asyncio.Event)
    _served: dict[str, ActiveAction] = field(default_factory=dict)  # by key
    _listening: dict[str, ActionSubscription] = field(default_factory=dict)  # by subject
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _tasks: asyncio.TaskGroup | None = None
    _inboxes: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        self._inboxes = envelope.inbox_pattern(prefix=self.terms.prefix, namespace=self.terms.namespace)

    async def run(self, specs: Mapping[str, ActionSpec]) -> None:
        """Serve ``specs`` until ``stop``, then finish what is in hand."""
        await self.ledger.open()
        async with asyncio.TaskGroup() as self._tasks:
            beating = self._tasks.create_task(self.ledger.run(), name="ledger")
            await self.apply(specs)
            self.started.set()
            await self._stopping.wait()
            await self.apply({})
            await self.ledger.close()
            beating.cancel()

    def set_terms(self, *, tolerance: float, deadline: float) -> None:
        """Serve the requests that come from now on under other conditions, in seconds."""
        self.terms = replace(self.terms, tolerance=tolerance, deadline=deadline)

    def stop(self) -> None:
        """Take no more requests."""
        self._stopping.set()

    @property
    def in_flight(self) -> int:
        """Requests taken and not yet answered."""
        return sum(len(served.in_flight) for served in self._served.values())

    @property
    def keys(self) -> tuple[str, ...]:
        """The actions that are served at this moment."""
        return tuple(self._served)

    async def apply(
        self,
        specs: Mapping[str, ActionSpec],
        *,
        take: Callable[[], None] = lambda: None,
        undo: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve exactly ``specs`` from now on; ``take`` puts the policy in force that they are of.

        An action that stays loses no request: its subscriptions stay too, and its new handler takes
        over from the old one. One that goes is left only after all that was sent to us is answered.
        Raises PolicyError, having changed nothing, when a handler does not open; ``undo`` is called
        then, before anything else can happen.
        """
        async with self._changing:
            take()
            rulebook = self.resources.rulebook()
            wanted = {
                key: (spec, tuple(rulebook.channels[name] for name in spec.channels))
                for key, spec in specs.items()
            }
            opened = await self._open(wanted, undo)
            # From here on nothing can fail but the connection.
            outdated = [self._served[key] for key in opened if key in self._served]
            self._served.update(opened)
            subjects = self._assign(specs)
            begun = [each for each in subjects if self._listening[each].subscription is None]
            for subject in begun:
                self._listening[subject].subscription = await self._subscribe(subject)
            if begun:
                # Who served them until now may leave as soon as we return: the broker must know us.
                await self.connection.flush(_HEAR_LIMIT)
            left = self._listening.keys() - subjects
            await asyncio.gather(*(self._leave(self._listening[subject]) for subject in left))
            for subject in left:
                del self._listening[subject]
            gone = [self._served.pop(key) for key in self._served.keys() - specs.keys()]
            self.micro.endpoints = [each.endpoint for each in self._listening.values()]
        for served in (*outdated, *gone):
            await served.close()

    def _assign(self, specs: Mapping[str, ActionSpec]) -> list[str]:
        """The subjects of ``specs``, each with what now carries out its requests."""
        subjects = []
        for key, spec in specs.items():
            for endpoint in endpoints(spec, self.terms.prefix):
                fresh = ActionSubscription(served=self._served[key], endpoint=endpoint)
                self._listening.setdefault(endpoint.subject, fresh).served = fresh.served
                subjects.append(endpoint.subject)
        return subjects

    async def _open(
        self, wanted: Mapping[str, tuple[ActionSpec, tuple[ChannelSpec, ...]]], undo: Callable[[], None]
    ) -> dict[str, ActiveAction]:
        """What has to be opened anew for ``wanted``: all or nothing."""
        opened: dict[str, ActiveAction] = {}
        try:
            for key, (spec, channels) in wanted.items():
                known = self._served.get(key)
                if known and (known.spec, known.channels) == (spec, channels):
                    continue
                opened[key] = ActiveAction(
                    spec=spec,
                    channels=channels,
                    handler=self._open_one(spec, channels),
                    latency=self.metrics.action_latency.labels(key),
                )
        except BaseException:
            undo()
            for served in opened.values():
                await served.close()
            raise
        return opened

    def _open_one(self, spec: ActionSpec, channels: tuple[ChannelSpec, ...]) -> Lookup | IdempotentHandler:
        if spec.options.get("subject") == f"{self.terms.prefix}.action.{spec.key}":
            raise PolicyError([unusable(spec, "it would forward to itself")])
        handler = open_handler(spec, self.resources)
        if HANDLERS[spec.handler].reads_only:
            return cast(Lookup, handler)
        # No more at once than can be sent: a lease says that its action may have been carried out.
        limits = (spec.concurrency, max((each.concurrency for each in channels), default=spec.concurrency))
        return IdempotentHandler(
            spec, cast(ActionHandler, handler), self.ledger, self.clock, at_once=min(limits)
        )

    async def _subscribe(self, subject: str) -> Subscription:
        return await self.connection.client.subscribe(
            subject,
            queue=QUEUE_GROUP,
            cb=partial(self._received, subject),
            pending_msgs_limit=-1,  # what is too much is refused, never dropped
            pending_bytes_limit=-1,
        )

    async def _leave(self, listening: ActionSubscription) -> None:
        """Ask for no more requests, and take those that are on their way."""
        subscription = listening.subscription
        if subscription is None:
            return
        if self.connection.client.is_connected:
            await self.connection.drain(subscription, _HEAR_LIMIT)
        else:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _received(self, subject: str, msg: Msg) -> None:
        began = time.perf_counter()
        listening = self._listening.get(subject)
        if listening is None:
            return  # the broker was so slow to let us go that nobody waits for this any more
        served = listening.served
        key = served.spec.key
        if not self._inboxes.fullmatch(msg.reply):
            log.warning("action %s: %r is no reply subject; not carried out", key, msg.reply[:100])
            self.metrics.actions.labels(key, "100").inc()
            return
        call = PendingReply(listening=listening, served=served, reply=msg.reply, began=began)
        request = envelope.read(
            msg.data,
            key=key,
            person=listening.person(msg.subject),
            received=self.clock(),
            tolerance=self.terms.tolerance,
        )
        if not isinstance(request, ActionRequest):
            await self._answer(call, *request)
        elif not isinstance(served.handler, IdempotentHandler):
            await self._run_lookup(call, served.handler, request)
        elif len(served.in_flight) >= served.capacity:
            await self._answer(call, request.reqid, failed(_BUSY))
        elif self._tasks is not None:
            task = self._tasks.create_task(
                self._run_handler(call, served.handler, request), name=f"action {key}"
            )
            served.in_flight.add(task)
            task.add_done_callback(served.in_flight.discard)

    async def _run_lookup(self, call: PendingReply, lookup: Lookup, request: ActionRequest) -> None:
        subscription = call.listening.subscription
        if subscription and subscription.pending_msgs > call.served.capacity:
            answer = failed(_BUSY)
        else:
            try:
                answer = lookup.answer(request)
            except Exception:
                # A bug costs its caller an error, and nobody else anything.
                log.exception("action %s: a bug", request.key)
                answer = failed(_BROKEN)
        await self._answer(call, request.reqid, answer)

    async def _run_handler(self, call: PendingReply, once: IdempotentHandler, request: ActionRequest) -> None:
        answered = False

        async def send(data: bytes) -> None:
            nonlocal answered
            answered = True
            await self._send(call.reply, data)

        write = partial(envelope.write, request.reqid, room=self.connection.client.max_payload)
        # A caller's clock may be ahead of ours; where it is behind, its patience ends sooner.
        until = min(request.sent, request.received) + int(self.terms.deadline * 1e6)
        try:
            run = once.run_unrecorded if HANDLERS[call.served.spec.handler].skips_ledger else once.run
            data = await run(ActionJob(request=request, until=until, write=write, send=send))
        except (BrokerError, nats.errors.Error) as error:
            log.warning("action %s: %s", request.key, error)
            data = write(failed(_UNAVAILABLE), now=self.clock())
        except Exception:
            # Nobody may be left waiting over a bug.
            log.exception("action %s: a bug", request.key)
            data = write(failed(_BROKEN), now=self.clock())
        if not answered:
            await self._send(call.reply, data)
        said = wire.decode_reply(data)
        self._count(call, str(said.code), said.message)

    async def _answer(self, call: PendingReply, reqid: str, answer: ActionResponse) -> None:
        data = envelope.write(reqid, answer, now=self.clock(), room=self.connection.client.max_payload)
        if answer.detail:
            log.warning("action %s: %s (%s)", call.served.spec.key, answer.message, answer.detail)
        await self._send(call.reply, data)
        self._count(call, str(answer.code), answer.message)

    async def _send(self, reply: str, data: bytes) -> None:
        try:
            await self.connection.publish(reply, data)
        except (BrokerError, nats.errors.Error) as error:
            log.warning("a reply could not be sent: %s", error)

    def _count(self, call: PendingReply, code: str, message: str) -> None:
        took = time.perf_counter() - call.began
        served = call.served
        if code not in served.counters:
            served.counters[code] = self.metrics.actions.labels(served.spec.key, code)
        served.counters[code].inc()
        served.latency.observe(took)
        call.listening.endpoint.count(took, "" if code == "0" else f"{code}:{message}")


@dataclass(slots=True, kw_only=True)
class ActiveAction:
    """An action that is being served."""

    spec: ActionSpec
    channels: tuple[ChannelSpec, ...]  # as the handler was opened with
    handler: Lookup | IdempotentHandler  # at once, or once only
    latency: Histogram
    counters: dict[str, Counter] = field(default_factory=dict)  # by code
    in_flight: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def capacity(self) -> int:
        """Requests that may be in hand."""
        return self.spec.concurrency + self.spec.queue

    async def close(self) -> None:
        while self.in_flight:
            await asyncio.wait(list(self.in_flight))
        await (self.handler.handler if isinstance(self.handler, IdempotentHandler) else self.handler).close()


@dataclass(slots=True, kw_only=True)
class ActionSubscription:
    """One subject on which an action is asked for."""

    served: ActiveAction  # what carries the requests out; a reload puts another in its place
    endpoint: Endpoint
    subscription: Subscription | None = None

    def person(self, subject: str) -> str | None:
        """Whom a request on ``subject`` is about, as far as the subject says it."""
        return subject.rpartition(".")[2] if self.endpoint.subject.endswith(".*") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingReply:
    """A request's way back to its caller, and into the counters."""

    listening: ActionSubscription
    served: ActiveAction
    reply: str  # the subject
    began: float  # seconds, monotonic


def endpoints(spec: ActionSpec, prefix: str) -> Iterator[Endpoint]:
    """Where ``spec`` is asked for: on its key, and where it may be about one person, one token deeper."""
    subject = f"{prefix}.action.{spec.key}"
    yield Endpoint(name=spec.key, subject=subject, queue_group=QUEUE_GROUP)
    if HANDLERS[spec.handler].personal:
        yield Endpoint(name=f"{spec.key}.person", subject=f"{subject}.*", queue_group=QUEUE_GROUP)


def make_actions(
    settings: Settings,
    connection: Connection,
    bucket: KeyValue,
    resources: HandlerResources,
    *,
    clock: Callable[[], int],
) -> ActionService:
    """``bucket`` is the ledger's; ``clock`` tells microseconds since the epoch."""
    # Anew with each session: what an earlier one had in hand, nobody works on any more.
    replica = uuid.uuid4().hex
    return ActionService(
        terms=ServiceTerms(
            prefix=settings.prefix,
            namespace=settings.namespace,
            tolerance=settings.clock_tolerance,
            deadline=settings.action_deadline,
        ),
        connection=connection,
        ledger=Ledger(
            connection, bucket, name=f"{settings.stream_prefix}_LEDGER", owner=replica, clock=clock
        ),
        resources=resources,
        metrics=resources.metrics,
        clock=clock,
        micro=MicroService(
            connection=connection, name=settings.namespace, id=replica, version=version("mss-server")
        ),
    )
