"""The action service: one request in, exactly one reply out. Entry: `ActionService`.

Each subject has one subscription in a queue group, so one replica gets a request. If no replica serves an
action, the broker answers "no responders" at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import cast

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from prometheus_client import Counter, Histogram

from msc import wire

from ..broker import OwnBucket
from ..model.errors import BrokerError, PolicyError
from ..planning.requests import ActionRequest, ActionResponse, failed
from ..rules.rulebook import ActionSpec, ChannelSpec, Rulebook
from ..settings import Settings
from . import HANDLERS, ActionHandler, HandlerResources, Lookup, envelope, open_handler, unusable
from .idempotency import ActionJob, IdempotentHandler
from .ledger import Ledger
from .nats_micro import Endpoint, MicroService

log = logging.getLogger(__name__)

_FLUSH_LIMIT = 5.0  # seconds for the broker to process a new or a removed subscription
_BUSY = "busy: too many requests in flight"
_BUG = "internal error"
_UNAVAILABLE = "not available: the broker does not answer"

QUEUE_GROUP = "mss-actions"


class ActionService:
    """The actions of a policy as one replica serves them; a reload changes which ones."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        ledger: OwnBucket,
        resources: HandlerResources,
        *,
        clock: Callable[[], int],
    ) -> None:
        """``settings`` returns the current settings; ``clock`` is in microseconds since the epoch."""
        names, replica = settings(), uuid.uuid4().hex
        self.started = asyncio.Event()
        self.micro = MicroService(
            connection=resources.connection,
            name=names.namespace,
            id=replica,
            version=version("mss-server"),
        )
        self._settings = settings
        self._prefix = f"{names.prefix}.action"
        self._inboxes = envelope.inbox_pattern(prefix=names.prefix, namespace=names.namespace)
        self._resources = resources
        self._connection = resources.connection
        # A new owner for each session: nobody works any more on requests that an earlier session had.
        self._ledger = Ledger(ledger, owner=replica, clock=clock)
        self._clock = clock
        self._active: dict[str, ActiveAction] = {}  # by key
        self._subscriptions: dict[str, ActionSubscription] = {}  # by subject
        self._stopping = asyncio.Event()
        self._changing = asyncio.Lock()
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self, specs: Mapping[str, ActionSpec]) -> None:
        """Serve ``specs`` until ``stop``, then finish the requests in flight."""
        await self._ledger.open()
        async with asyncio.TaskGroup() as self._tasks:
            heartbeat = self._tasks.create_task(self._ledger.run(), name="ledger")
            await self.apply(specs)
            self.started.set()
            await self._stopping.wait()
            await self.apply({})
            await self._ledger.close()
            heartbeat.cancel()

    def stop(self) -> None:
        """Accept no more requests."""
        self._stopping.set()

    @property
    def in_flight(self) -> int:
        """Requests accepted and not yet answered."""
        return sum(len(action.in_flight) for action in self._active.values())

    @property
    def keys(self) -> tuple[str, ...]:
        """The actions that are served now."""
        return tuple(self._active)

    async def apply(self, specs: Mapping[str, ActionSpec]) -> None:
        """Serve exactly ``specs`` from now on. Raises as ``prepare`` does, having changed nothing."""
        await self.commit(await self.prepare(specs, self._resources.rulebook()))

    async def prepare(self, specs: Mapping[str, ActionSpec], rulebook: Rulebook) -> PreparedActions:
        """Open the handlers of ``rulebook`` that are new or changed: all of them or none.

        No other task runs in the meantime unless it fails. Raises PolicyError if a handler cannot be opened.
        """
        opened: dict[str, ActiveAction] = {}
        try:
            for key, spec in specs.items():
                channels = tuple(rulebook.channels[name] for name in spec.channels)
                known = self._active.get(key)
                if known and (known.spec, known.channels) == (spec, channels):
                    continue
                opened[key] = ActiveAction(
                    spec=spec,
                    channels=channels,
                    handler=self._open_one(spec, channels),
                    latency=self._resources.metrics.action_latency.labels(key),
                )
        except BaseException:
            await _close_all(opened.values())
            raise
        return PreparedActions(specs=specs, opened=opened)

    async def commit(self, prepared: PreparedActions) -> None:
        """Serve exactly the actions of ``prepared``, at once; returns when the broker knows their subjects.

        No request is lost. An action that stays keeps its subscriptions, and its new handler replaces the
        old one. The subscriptions of a removed action are drained first, so every request is answered.
        Raises an error of nats-py only if the connection is closed for good.
        """
        opened, specs = prepared.opened, prepared.specs
        replaced = [action for key, action in self._active.items() if key in opened or key not in specs]
        self._active = {key: action for key, action in self._active.items() if key in specs} | opened
        async with self._changing:
            subjects = self._assign(specs)
            added = [each for each in subjects if self._subscriptions[each].subscription is None]
            for subject in added:
                self._subscriptions[subject].subscription = await self._subscribe(subject)
            if added:
                # Another session may unsubscribe as soon as we return: the broker must know ours by then.
                await self._connection.flush(_FLUSH_LIMIT)
            unused = self._subscriptions.keys() - subjects
            await asyncio.gather(*(self._unsubscribe(self._subscriptions[subject]) for subject in unused))
            for subject in unused:
                del self._subscriptions[subject]
            self.micro.endpoints = [each.endpoint for each in self._subscriptions.values()]
        await _close_all(replaced)

    def _assign(self, specs: Mapping[str, ActionSpec]) -> list[str]:
        """Connect the subjects of ``specs`` with the active actions; returns the subjects.

        An action has its key as subject. A personal one has a second, one token deeper, for one user.
        """
        subjects = []
        for key, spec in specs.items():
            action, subject = self._active[key], f"{self._prefix}.{key}"
            names = {subject: key}
            if HANDLERS[spec.handler].personal:
                names[f"{subject}.*"] = f"{key}.person"
            for subject, name in names.items():
                endpoint = Endpoint(name=name, subject=subject, queue_group=QUEUE_GROUP)
                new = ActionSubscription(action=action, endpoint=endpoint)
                self._subscriptions.setdefault(subject, new).action = action
                subjects.append(subject)
        return subjects

    def _open_one(self, spec: ActionSpec, channels: tuple[ChannelSpec, ...]) -> Lookup | IdempotentHandler:
        if spec.options.get("subject") == f"{self._prefix}.{spec.key}":
            raise PolicyError([unusable(spec, "it would forward to itself")])
        handler = open_handler(spec, replace(self._resources, channels=channels))
        if HANDLERS[spec.handler].reads_only:
            return cast(Lookup, handler)
        # Not more at once than can be sent: a lease says that its action may have been carried out.
        limits = (spec.concurrency, max((each.concurrency for each in channels), default=spec.concurrency))
        return IdempotentHandler(
            spec, cast(ActionHandler, handler), self._ledger, self._clock, at_once=min(limits)
        )

    async def _subscribe(self, subject: str) -> Subscription:
        return await self._connection.client.subscribe(
            subject,
            queue=QUEUE_GROUP,
            cb=partial(self._received, subject),
            pending_msgs_limit=-1,  # the service answers "busy"; the client would drop requests
            pending_bytes_limit=-1,
        )

    async def _unsubscribe(self, unused: ActionSubscription) -> None:
        """Ask the broker for no more requests, and accept those that are on their way."""
        subscription = unused.subscription
        if subscription is None:
            return
        if self._connection.client.is_connected:
            await self._connection.drain(subscription, _FLUSH_LIMIT)
        else:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _received(self, subject: str, msg: Msg) -> None:
        began = time.perf_counter()
        subscription = self._subscriptions.get(subject)
        if subscription is None:
            return  # the broker was so slow to unsubscribe us that no caller waits any more
        action = subscription.action
        key = action.spec.key
        if not self._inboxes.fullmatch(msg.reply):
            log.warning("action %s: %r is not a reply subject; not carried out", key, msg.reply[:100])
            self._resources.metrics.actions.labels(key, "100").inc()
            return
        call = PendingReply(subscription=subscription, action=action, subject=msg.reply, began=began)
        request = envelope.read(
            msg.data,
            key=key,
            person=subscription.person(msg.subject),
            received=self._clock(),
            tolerance=self._settings().clock_tolerance,
        )
        if not isinstance(request, ActionRequest):
            await self._respond(call, *request)
        elif not isinstance(action.handler, IdempotentHandler):
            await self._respond(call, request.reqid, self._answer(subscription, action.handler, request))
        elif len(action.in_flight) >= action.capacity:
            await self._respond(call, request.reqid, failed(_BUSY))
        elif self._tasks is not None:
            task = self._tasks.create_task(
                self._run_handler(call, action.handler, request), name=f"action {key}"
            )
            action.in_flight.add(task)
            task.add_done_callback(action.in_flight.discard)

    def _answer(
        self, subscription: ActionSubscription, lookup: Lookup, request: ActionRequest
    ) -> ActionResponse:
        waiting = subscription.subscription
        if waiting and waiting.pending_msgs > subscription.action.capacity:
            return failed(_BUSY)
        try:
            return lookup.answer(request)
        except Exception:
            # A bug fails this request, and no other.
            log.exception("action %s: a bug", request.key)
            return failed(_BUG)

    async def _run_handler(
        self, call: PendingReply, handler: IdempotentHandler, request: ActionRequest
    ) -> None:
        sent = False

        async def send(reply: bytes) -> None:
            nonlocal sent
            sent = True
            await self._send(call, reply)

        write = partial(self._write, request.key, request.reqid)
        # A caller's clock may be ahead of ours. If it is behind, the caller stops waiting sooner.
        until = min(request.sent, request.received) + int(self._settings().action_deadline * 1e6)
        try:
            run = handler.run_unrecorded if HANDLERS[call.action.spec.handler].skips_ledger else handler.run
            reply = await run(ActionJob(request=request, until=until, write=write, send=send))
        except (BrokerError, nats.errors.Error) as error:
            reply = write(failed(_UNAVAILABLE, str(error)))
        except Exception:
            # No caller may have to wait because of a bug.
            log.exception("action %s: a bug", request.key)
            reply = write(failed(_BUG))
        if not sent:
            await self._send(call, reply)
        decoded = wire.decode_reply(reply)
        self._count(call, str(decoded.code), decoded.message)

    async def _respond(self, call: PendingReply, reqid: str, response: ActionResponse) -> None:
        await self._send(call, self._write(call.action.spec.key, reqid, response))
        self._count(call, str(response.code), response.message)

    def _write(self, key: str, reqid: str, response: ActionResponse) -> bytes:
        """Return the reply; its details are for the log alone."""
        if response.detail:
            log.warning("action %s: %s (%s)", key, response.message, response.detail)
        return envelope.write(reqid, response, now=self._clock(), room=self._connection.client.max_payload)

    async def _send(self, call: PendingReply, reply: bytes) -> None:
        try:
            await self._connection.publish(call.subject, reply)
        except (BrokerError, nats.errors.Error) as error:
            log.warning("a reply could not be sent: %s", error)

    def _count(self, call: PendingReply, code: str, message: str) -> None:
        seconds, action = time.perf_counter() - call.began, call.action
        if code not in action.counters:
            action.counters[code] = self._resources.metrics.actions.labels(action.spec.key, code)
        action.counters[code].inc()
        action.latency.observe(seconds)
        call.subscription.endpoint.count(seconds, "" if code == "0" else f"{code}:{message}")


@dataclass(slots=True, kw_only=True)
class ActiveAction:
    """An action that is being served."""

    spec: ActionSpec
    channels: tuple[ChannelSpec, ...]  # the handler was opened with these
    handler: Lookup | IdempotentHandler
    latency: Histogram
    counters: dict[str, Counter] = field(default_factory=dict)  # by code
    in_flight: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def capacity(self) -> int:
        """Requests that may be in flight or wait."""
        return self.spec.concurrency + self.spec.queue

    async def close(self) -> None:
        while self.in_flight:
            await asyncio.wait(list(self.in_flight))
        await self.handler.close()


async def _close_all(actions: Iterable[ActiveAction]) -> None:
    for action in actions:
        await action.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedActions:
    """The actions that a service will serve, and the new handlers among them, already open."""

    specs: Mapping[str, ActionSpec]  # all of them
    opened: dict[str, ActiveAction]  # those that are new or changed


@dataclass(slots=True, kw_only=True)
class ActionSubscription:
    """One subject on which an action is requested."""

    action: ActiveAction  # a reload replaces it
    endpoint: Endpoint
    subscription: Subscription | None = None

    def person(self, subject: str) -> str | None:
        """Return the user that ``subject`` names, if it has a token for one."""
        return subject.rpartition(".")[2] if self.endpoint.subject.endswith(".*") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingReply:
    """A request's way back to its caller, and to the counters."""

    subscription: ActionSubscription
    action: ActiveAction
    subject: str  # of the reply
    began: float  # seconds, monotonic
