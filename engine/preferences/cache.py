"""Preferences cached for the planning of events, and invalidated by the bucket.

If a user's preferences change in the bucket, they are removed here, and read again when they are needed.
While the bucket cannot be watched, nothing is cached.
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
from ..runtime import is_cancelled
from .document import parse
from .store import PreferenceStore, Record, token_of

log = logging.getLogger(__name__)

MAX_CACHED = 50_000  # users, with or without preferences
_MAX_RECENT_REVISIONS = 10_000  # revisions that the bucket reported last
_MAX_STALE_READS = 20  # in a row, after which one is used and not cached

T = TypeVar("T")


class PreferenceCache:
    """The preferences of the users that were looked up last."""

    def __init__(
        self,
        store: PreferenceStore,
        metrics: Metrics,
        *,
        most: int = MAX_CACHED,
        retry_after: float = 2.0,  # seconds until the bucket is watched or read again
    ) -> None:
        self.following = asyncio.Event()  # set while the bucket reports changes
        self._store = store
        self._connection = store.bucket.connection
        self._metrics = metrics
        self._max_size = most
        self._retry_after = retry_after
        self._known: OrderedDict[str, Choices | None] = OrderedDict()  # by token, the latest last
        self._reported: OrderedDict[str, int] = OrderedDict()  # token -> the last reported revision
        self._connected = -1  # the number of the connection over which the bucket is watched
        self._is_empty = False  # no user has preferences
        self._is_waiting = False  # a look-up failed, and the log says so

    def __len__(self) -> int:
        return len(self._known)

    def choices_of(self, user: str) -> Choices | None:
        """Return the preferences of ``user``; None if there are none. Raises CacheMiss."""
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
        """Return the preferences of ``user`` from the broker, and cache them. Raises BrokerError."""
        token = token_of(user)
        for _ in range(_MAX_STALE_READS):
            connected = self._connected
            record = await self._store.get(user)
            # The bucket may have reported a newer revision while this one was read.
            if is_latest := record.revision >= self._reported.get(token, 0):
                break
        self._metrics.count(self._metrics.preferences, "miss")
        choices = self._read(user, record)
        if self._is_current and connected == self._connected and is_latest:
            self._known[token] = choices
            self._known.move_to_end(token)
            if len(self._known) > self._max_size:
                self._known.popitem(last=False)
        return choices

    async def with_choices(self, work: Callable[[ChoicesOf], T]) -> T:
        """Return the result of ``work``, called with a function that returns a user's preferences.

        ``work`` may be called several times. While the preferences cannot be read this waits: nobody may be
        notified over a channel that they have switched off. Raises BrokerLost.
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
                if not self._is_waiting:
                    log.warning("preferences cannot be read, so events wait: %s", error)
                self._is_waiting = True
                await asyncio.sleep(self._retry_after)
            else:
                self._is_waiting = False

    async def change(
        self, user: str, step: Callable[[dict[str, Any]], tuple[Mapping[str, Any] | None, T]]
    ) -> T:
        """Change the document of ``user`` as the store does. The next look-up returns the new one."""
        result, revision = await self._store.change(user, step)
        token = token_of(user)
        if revision > self._reported.get(token, 0):
            self._on_change(token, revision)
        return result

    async def document_of(self, user: str) -> dict[str, Any]:
        """Return the document of ``user``; {} without one. Raises BrokerError or InvalidPreferences."""
        return (await self._store.get(user)).document_of(user) or {}

    async def run(self) -> None:
        """Watch the bucket until cancelled."""
        reconnected = asyncio.Event()
        self._connection.on_reconnect(reconnected.set)
        while not is_cancelled():
            reconnected.clear()
            follow = asyncio.create_task(self._follow(), name="preferences follow")
            wait = asyncio.create_task(reconnected.wait(), name="preferences reconnect")
            try:
                await asyncio.wait((follow, wait), return_when=asyncio.FIRST_COMPLETED)
                self._forget()
                if follow.done():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(reconnected.wait(), self._retry_after)
            finally:
                while not (follow.done() and wait.done()):  # a request may swallow a cancellation
                    follow.cancel()
                    wait.cancel()
                    await asyncio.wait((follow, wait), timeout=1.0)

    @property
    def _is_current(self) -> bool:
        """True if the bucket has reported every change."""
        return self._connected == self._connection.reconnections

    async def _follow(self) -> None:
        bucket, connection = self._store.bucket, self._connection
        connected = connection.reconnections
        try:
            info = await connection.js.stream_info(bucket.stream)
            start = info.state.last_seq + 1
            async with StreamReader(
                connection, bucket.stream, self._store.subjects, start=start, headers_only=True
            ) as reader:
                self._forget()
                self._is_empty = not info.state.messages
                self._connected = connected
                self.following.set()
                while True:
                    stored = await reader.next_message()
                    self._on_change(stored.subject.rpartition(".")[2], stored.sequence)
        except (BrokerError, nats.errors.Error, TimeoutError) as error:
            reason = str(error) or "no answer"
            log.warning("preferences cannot be watched, so the cache is off: %s", reason)

    def _on_change(self, token: str, revision: int) -> None:
        self._is_empty = False
        self._known.pop(token, None)
        self._reported[token] = revision
        self._reported.move_to_end(token)
        if len(self._reported) > _MAX_RECENT_REVISIONS:
            self._reported.popitem(last=False)

    def _forget(self) -> None:
        self._connected, self._is_empty = -1, False
        self.following.clear()
        self._known.clear()
        self._reported.clear()

    def _read(self, user: str, record: Record) -> Choices | None:
        try:
            document = record.document_of(user)
            return None if document is None else parse(document)
        except InvalidPreferences as error:
            log.warning("invalid preferences ignored: %s", error)
            self._metrics.count(self._metrics.preferences, "unreadable")
            return None
