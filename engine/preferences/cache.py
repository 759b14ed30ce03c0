"""Preferences cached while events are planned, and invalidated by the bucket.

A preference that changes in the bucket is dropped here, and read again when it is needed. While the bucket
cannot be followed, nothing is cached.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import nats.errors

from ..broker.reader import StreamReader
from ..metrics import Metrics
from ..model.errors import BrokerError, BrokerLost, CacheMiss, InvalidPreferences
from ..planning.recipients import Choices, ChoicesOf
from .document import parse
from .store import PreferenceStore, Record, token_of

log = logging.getLogger(__name__)

MAX_CACHED = 50_000  # people, those without preferences among them
_MAX_RECENT_REVISIONS = 10_000  # revisions that the bucket told of lately
_AGAIN = 2.0  # seconds before following is tried again
_OLD_ANSWERS = 20  # in a row, after which one is taken and not kept
_TROUBLE = (BrokerError, nats.errors.Error, TimeoutError)

T = TypeVar("T")


class PreferenceCache:
    """The choices of the people that were asked for last."""

    def __init__(self, store: PreferenceStore, metrics: Metrics, *, most: int = MAX_CACHED) -> None:
        self.following = asyncio.Event()  # what is changed from now on is noticed
        self._store = store
        self._connection = store.bucket.connection
        self._metrics = metrics
        self._max_size = most
        self._known: OrderedDict[str, Choices | None] = OrderedDict()  # by token, the latest last
        self._news: OrderedDict[str, int] = OrderedDict()  # token -> the revision that was told of
        self._connected = -1  # the connection, by number, over which the bucket is followed
        self._is_empty = False  # nobody has any
        self._is_complained = False  # that they cannot be read is in the log

    def __len__(self) -> int:
        return len(self._known)

    def choices_of(self, user: str) -> Choices | None:
        """What ``user`` has chosen, None where nothing. Raises NotLookedUp where it is not at hand."""
        if not self._is_current:
            raise CacheMiss(user)
        if self._is_empty:
            return None
        token = token_of(user)
        try:
            choices = self._known[token]
        except KeyError:
            raise CacheMiss(user) from None
        self._known.move_to_end(token)
        self._metrics.count(self._metrics.preferences, "hit")
        return choices

    async def look_up(self, user: str) -> Choices | None:
        """What ``user`` has chosen, by the broker. Raises BrokerError."""
        token = token_of(user)
        for _ in range(_OLD_ANSWERS):
            connected = self._connected
            record = await self._store.get(user)
            # The answer may have been on its way while the bucket told of something newer.
            if record.revision >= self._news.get(token, 0):
                break
        self._metrics.count(self._metrics.preferences, "miss")
        choices = self._read(user, record)
        if self._is_current and connected == self._connected and record.revision >= self._news.get(token, 0):
            self._known[token] = choices
            self._known.move_to_end(token)
            if len(self._known) > self._max_size:
                self._known.popitem(last=False)
        return choices

    async def with_choices(self, work: Callable[[ChoicesOf], T]) -> T:
        """What ``work`` makes with the choices that it asks for; it may be called several times.

        While the broker cannot say them it waits: nobody is told in a way that they have switched off.
        Raises BrokerLost.
        """
        found: dict[str, Choices | None] = {}

        def choices_of(user: str) -> Choices | None:
            return found[user] if user in found else self.choices_of(user)

        while True:
            try:
                return work(choices_of)
            except CacheMiss as missing:
                user = missing.user
            try:
                found[user] = await self.look_up(user)
            except BrokerLost:
                raise
            except BrokerError as error:
                if not self._is_complained:
                    log.warning("preferences: events wait until they can be read: %s", error)
                self._is_complained = True
                await asyncio.sleep(_AGAIN)
            else:
                self._is_complained = False

    async def change(
        self, user: str, step: Callable[[dict[str, Any]], tuple[Mapping[str, Any] | None, T]]
    ) -> T:
        """Change what ``user`` has chosen, as the store does it; the next look is at the new one."""
        result, revision = await self._store.change(user, step)
        token = token_of(user)
        if revision > self._news.get(token, 0):
            self._on_change(token, revision)
        return result

    async def document_of(self, user: str) -> dict[str, Any]:
        """What ``user`` has chosen, as written; {} where nothing. Raises BrokerError, BadPreferences."""
        return (await self._store.get(user)).document_of(user) or {}

    async def run(self) -> None:
        """Follow the bucket for ever, until cancelled."""
        moved = asyncio.Event()
        self._connection.on_reconnect(moved.set)
        while True:
            moved.clear()
            follow = asyncio.create_task(self._follow(), name="preferences follow")
            wait = asyncio.create_task(moved.wait(), name="preferences reconnect")
            try:
                await asyncio.wait((follow, wait), return_when=asyncio.FIRST_COMPLETED)
                self._forget()
                if follow.done():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(moved.wait(), _AGAIN)
            finally:
                for task in (follow, wait):
                    task.cancel()
                await asyncio.wait((follow, wait))

    @property
    def _is_current(self) -> bool:
        """Whether nothing can have been changed without our knowing."""
        return self._connected == self._connection.reconnections

    async def _follow(self) -> None:
        bucket, connection = self._store.bucket, self._connection
        connected = connection.reconnections
        try:
            info = await connection.js.stream_info(bucket.stream)
            start = info.state.last_seq + 1
            async with StreamReader(
                connection, bucket.stream, self._store.subjects, start=start, headers_only=True
            ) as news:
                self._forget()
                self._is_empty = not info.state.messages
                self._connected = connected
                self.following.set()
                while True:
                    stored = await news.next_message()
                    self._on_change(stored.subject.rpartition(".")[2], stored.sequence)
        except _TROUBLE as error:
            reason = str(error) or "no answer"
            log.warning("preferences: not followed, so the broker is asked each time: %s", reason)

    def _on_change(self, token: str, revision: int) -> None:
        self._is_empty = False
        self._known.pop(token, None)
        self._news[token] = revision
        self._news.move_to_end(token)
        if len(self._news) > _MAX_RECENT_REVISIONS:
            self._news.popitem(last=False)

    def _forget(self) -> None:
        self._connected, self._is_empty = -1, False
        self.following.clear()
        self._known.clear()
        self._news.clear()

    def _read(self, user: str, record: Record) -> Choices | None:
        try:
            document = record.document_of(user)
            return None if document is None else parse(document)
        except InvalidPreferences as error:
            log.warning("preferences: a record that cannot be read counts as none: %s", error)
            self._metrics.count(self._metrics.preferences, "unreadable")
            return None
