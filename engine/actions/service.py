"""The actions as a service: requests in, exactly one reply to each.

One subscription for each action that is served, in a queue group, so that one replica gets a request,
and an action that nobody serves answers "no responders" at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from msc import wire

from ..broker import Connection
from ..errors import BrokerError, PolicyError
from ..ledger import Ledger
from ..metrics import Metrics
from ..rulebook import ActionSpec, ChannelSpec
from . import (
    HANDLERS,
    Answer,
    Handler,
    Lookup,
    Request,
    Resources,
    Terms,
    envelope,
    failed,
    open_handler,
    unusable,
)
from .once import Job, Once
from .served import Served
from .visibility import Endpoint, Visibility

log = logging.getLogger(__name__)

QUEUE_GROUP = "mss-actions"
_HEAR_LIMIT = 5.0  # seconds for the broker to hear that we serve an action, or no more
_BUSY = "busy: too many requests in hand"
_BROKEN = "internal error"
_UNAVAILABLE = "not available: the broker does not answer"


@dataclass(kw_only=True)
class Actions:
    """Serves the actions of a policy; which ones can change while it runs."""

    terms: Terms
    connection: Connection
    ledger: Ledger
    resources: Resources
    metrics: Metrics
    clock: Callable[[], int]  # microseconds since the epoch
    visibility: Visibility
    started: asyncio.Event = field(default_factory=asyncio.Event)
    _served: dict[str, Served] = field(default_factory=dict)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _tasks: asyncio.TaskGroup | None = None
    _inboxes: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        self._inboxes = envelope.inboxes(prefix=self.terms.prefix, namespace=self.terms.namespace)

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
    def in_hand(self) -> int:
        """Requests taken and not yet answered."""
        return sum(len(served.in_hand) for served in self._served.values())

    @property
    def keys(self) -> tuple[str, ...]:
        """The actions that are served at this moment."""
        return tuple(self._served)

    async def apply(
        self, specs: Mapping[str, ActionSpec], *, undo: Callable[[], None] = lambda: None
    ) -> None:
        """Serve exactly ``specs`` from now on.

        An action that stays loses no request: its subscription stays too, and its new handler takes
        over from the old one. One that goes is left only after all that was sent to us is answered.
        Raises PolicyError, having changed nothing, when a handler does not open; ``undo`` is called
        then, before anything else can happen.
        """
        async with self._changing:
            rulebook = self.resources.rulebook()
            wanted = {
                key: (spec, tuple(rulebook.channels[name] for name in spec.channels))
                for key, spec in specs.items()
            }
            opened = await self._open(wanted, undo)
            # From here on nothing can fail but the connection.
            outdated = [self._served[key] for key in opened if key in self._served]
            for key, served in opened.items():
                if old := self._served.get(key):
                    served.subscription, served.endpoint = old.subscription, old.endpoint
                self._served[key] = served
            begun = [(key, served) for key, served in opened.items() if served.subscription is None]
            for key, served in begun:
                served.subscription = await self._subscribe(key)
            if begun:
                # Who served them until now may leave as soon as we return: the broker must know us.
                await self.connection.round_trip(_HEAR_LIMIT)
            gone = [served for key, served in self._served.items() if key not in specs]
            await asyncio.gather(*(self._leave(served) for served in gone))
            for served in gone:
                del self._served[served.spec.key]
            self.visibility.endpoints = [served.endpoint for served in self._served.values()]
        for served in (*outdated, *gone):
            await served.close()

    async def _open(
        self, wanted: Mapping[str, tuple[ActionSpec, tuple[ChannelSpec, ...]]], undo: Callable[[], None]
    ) -> dict[str, Served]:
        """What has to be opened anew for ``wanted``: all or nothing."""
        opened: dict[str, Served] = {}
        try:
            for key, (spec, channels) in wanted.items():
                known = self._served.get(key)
                if known and (known.spec, known.channels) == (spec, channels):
                    continue
                opened[key] = Served(
                    spec=spec,
                    channels=channels,
                    handler=self._open_one(spec, channels),
                    latency=self.metrics.action_latency.labels(key),
                    endpoint=Endpoint(
                        name=key, subject=f"{self.terms.prefix}.action.{key}", queue_group=QUEUE_GROUP
                    ),
                )
        except BaseException:
            undo()
            for served in opened.values():
                await served.close()
            raise
        return opened

    def _open_one(self, spec: ActionSpec, channels: tuple[ChannelSpec, ...]) -> Lookup | Once:
        if spec.options.get("subject") == f"{self.terms.prefix}.action.{spec.key}":
            raise PolicyError([unusable(spec, "it would forward to itself")])
        handler = open_handler(spec, self.resources)
        if HANDLERS[spec.handler].reads_only:
            return cast(Lookup, handler)
        # No more at once than can be sent: a lease says that its action may have been carried out.
        limits = (spec.concurrency, max((each.concurrency for each in channels), default=spec.concurrency))
        return Once(spec, cast(Handler, handler), self.ledger, self.clock, at_once=min(limits))

    async def _subscribe(self, key: str) -> Subscription:
        return await self.connection.client.subscribe(
            f"{self.terms.prefix}.action.{key}",
            queue=QUEUE_GROUP,
            cb=partial(self._received, key),
            pending_msgs_limit=-1,  # what is too much is refused, never dropped
            pending_bytes_limit=-1,
        )

    async def _leave(self, served: Served) -> None:
        """Ask for no more requests, and take those that are on their way."""
        subscription = served.subscription
        if subscription is None:
            return
        if self.connection.client.is_connected:
            await self.connection.leave(subscription, _HEAR_LIMIT)
        else:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _received(self, key: str, msg: Msg) -> None:
        began = time.perf_counter()
        served = self._served.get(key)
        if served is None:
            return  # the broker was so slow to let us go that nobody waits for this any more
        if not self._inboxes.fullmatch(msg.reply):
            log.warning("action %s: %r is no reply subject; not carried out", key, msg.reply[:100])
            self.metrics.actions.labels(key, "100").inc()
            return
        request = envelope.read(msg.data, key=key, received=self.clock(), tolerance=self.terms.tolerance)
        if not isinstance(request, Request):
            await self._answer(served, msg.reply, *request, began)
        elif not isinstance(served.handler, Once):
            await self._look_up(served, served.handler, msg.reply, request, began)
        elif len(served.in_hand) >= served.room:
            await self._answer(served, msg.reply, request.reqid, failed(_BUSY), began)
        elif self._tasks is not None:
            task = self._tasks.create_task(
                self._carry_out(served, served.handler, msg.reply, request, began), name=f"action {key}"
            )
            served.in_hand.add(task)
            task.add_done_callback(served.in_hand.discard)

    async def _look_up(
        self, served: Served, lookup: Lookup, reply: str, request: Request, began: float
    ) -> None:
        behind = served.subscription.pending_msgs if served.subscription else 0
        if behind > served.room:
            answer = failed(_BUSY)
        else:
            try:
                answer = lookup.answer(request)
            except Exception:
                # A bug costs its caller an error, and nobody else anything.
                log.exception("action %s: a bug", served.spec.key)
                answer = failed(_BROKEN)
        await self._answer(served, reply, request.reqid, answer, began)

    async def _carry_out(
        self, served: Served, once: Once, reply: str, request: Request, began: float
    ) -> None:
        answered = False

        async def send(data: bytes) -> None:
            nonlocal answered
            answered = True
            await self._send(reply, data)

        write = partial(envelope.write, request.reqid, room=self.connection.client.max_payload)
        # A caller's clock may be ahead of ours; where it is behind, its patience ends sooner.
        until = min(request.sent, request.received) + int(self.terms.deadline * 1e6)
        try:
            run = once.run_anew if HANDLERS[served.spec.handler].looks else once.run
            data = await run(Job(request=request, until=until, write=write, send=send))
        except (BrokerError, nats.errors.Error) as error:
            log.warning("action %s: %s", served.spec.key, error)
            data = write(failed(_UNAVAILABLE), now=self.clock())
        except Exception:
            # Nobody may be left waiting over a bug.
            log.exception("action %s: a bug", served.spec.key)
            data = write(failed(_BROKEN), now=self.clock())
        if not answered:
            await self._send(reply, data)
        said = wire.decode_reply(data)
        self._count(served, str(said.code), began, said.message)

    async def _answer(self, served: Served, reply: str, reqid: str, answer: Answer, began: float) -> None:
        data = envelope.write(reqid, answer, now=self.clock(), room=self.connection.client.max_payload)
        if answer.detail:
            log.warning("action %s: %s (%s)", served.spec.key, answer.message, answer.detail)
        await self._send(reply, data)
        self._count(served, str(answer.code), began, answer.message)

    async def _send(self, reply: str, data: bytes) -> None:
        try:
            await self.connection.publish(reply, data)
        except (BrokerError, nats.errors.Error) as error:
            log.warning("a reply could not be sent: %s", error)

    def _count(self, served: Served, code: str, began: float, message: str) -> None:
        took = time.perf_counter() - began
        if code not in served.counters:
            served.counters[code] = self.metrics.actions.labels(served.spec.key, code)
        served.counters[code].inc()
        served.latency.observe(took)
        served.endpoint.count(took, "" if code == "0" else f"{code}:{message}")
