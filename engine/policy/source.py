"""The source of the policy: a local folder, or a bucket on the broker that is watched."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import nats.errors

from msc.options import ConnectOptions

from ..broker import Connection, connect
from ..broker.reader import StreamReader
from ..model.errors import BrokerError, InvalidBucket
from ..runtime import run_in_thread
from ..settings import Settings
from .bucket import PolicyBucket, PushedRevision, Revisions, open_bucket
from .loader import Files, Policy, load_files, load_policy

log = logging.getLogger(__name__)

_POLL = 10.0  # seconds after which the pointer is looked at, whatever the watch says
_AGAIN = 2.0  # seconds before what failed is tried again
_TROUBLE = (BrokerError, nats.errors.Error, TimeoutError, OSError)


class Source(Protocol):
    """Gives the policy: at the start, at each reload, and whenever there is another."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def error(self) -> str:
        """Why the policy cannot be looked at; empty while it can."""
        ...

    async def load_initial(self) -> Policy:
        """The policy to start with. Raises BadBucket, BrokerError."""
        ...

    def load(self, settings: Settings) -> Policy:
        """The policy that is there now; ``settings`` are the present ones. Runs in a thread."""
        ...

    def watched_paths(self, settings: Settings) -> Sequence[Path]:
        """The folder in which a change is to be noticed, if it is one."""
        ...

    def changes(self, present: Callable[[], Settings]) -> AsyncIterator[None]:
        """Yield whenever another policy is there that ``load`` gives; for ever.

        ``present`` are the settings in force, which may name another broker by now.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A folder: the one that was named, or the settings' own."""

    settings: Settings
    folder: Path | None = None

    @property
    def name(self) -> str:
        return str(self.folder or self.settings.rules)

    @property
    def error(self) -> str:
        return ""  # what is wrong with a folder is found at a reload, like what is wrong in it

    async def load_initial(self) -> Policy:
        return load_policy(self.folder or self.settings.rules, warn=False)

    def load(self, settings: Settings) -> Policy:
        return load_policy(self.watched_paths(settings)[0], warn=False)

    def watched_paths(self, settings: Settings) -> Sequence[Path]:
        # Of a bucket that the settings name by now, the next start takes notice.
        return (self.folder or (self.settings if settings.rules_bucket else settings).rules,)

    async def changes(self, present: Callable[[], Settings]) -> AsyncIterator[None]:
        del present
        await asyncio.Event().wait()  # whoever watches files says so
        yield


@dataclass(kw_only=True)
class BucketSource:
    """The policy that a bucket's pointer names."""

    settings: Settings
    last_good: bool = False  # whether to start with an older one where the one in force cannot be served
    poll: float = _POLL  # seconds
    _files: Files = field(default_factory=lambda: Files(contents={}))
    _loaded_number: int = 0  # number of the revision that was fetched last
    error: str = field(default="", init=False)

    @property
    def name(self) -> str:
        return f"nats://{self.settings.rules_bucket}"

    async def load_initial(self) -> Policy:
        async with _connected(self.settings) as connection:
            try:
                bucket = await open_bucket(connection, self.settings.rules_bucket)
                return await self._load_initial(bucket)
            except InvalidBucket as error:
                raise InvalidBucket(f"{self.name}: {error}") from error

    def load(self, settings: Settings) -> Policy:
        del settings
        return load_files(self._files, warn=False)

    def watched_paths(self, settings: Settings) -> Sequence[Path]:
        del settings
        return ()

    async def changes(self, present: Callable[[], Settings]) -> AsyncIterator[None]:
        while True:
            settings = present()
            try:
                async with (
                    _connected(settings) as connection,
                    aclosing(self._changes(connection, settings, present)) as changes,
                ):
                    async for _ in changes:
                        yield
            except _TROUBLE as error:
                self._report_error(f"cannot be followed: {str(error) or 'no answer'}")
            await asyncio.sleep(_AGAIN)

    async def _load_initial(self, bucket: PolicyBucket) -> Policy:
        if not self.last_good:
            return await self._fetch(bucket, (await bucket.revisions()).require())
        revisions, problem = await _readable(bucket)
        in_force = (revisions.active,) if revisions.active else ()
        for pushed in (*in_force, *revisions.candidates()):
            try:
                policy = await self._fetch(bucket, pushed)
            except InvalidBucket as error:
                problem = problem or str(error)
                continue
            if policy.ok:
                if problem:
                    log.error("policy: %s", problem)
                    log.error("policy: %s is served, the last one that can be", pushed)
                return policy
            for each in policy.problems:
                if each.severity == "error" and not problem:
                    log.error("policy: %s", each)
            problem = problem or f"{pushed} cannot be served"
        raise InvalidBucket(
            f"{problem or 'nothing was pushed: mss push DIR'}, and there is no other that can be"
        )

    async def _fetch(self, bucket: PolicyBucket, pushed: PushedRevision) -> Policy:
        self._files, self._loaded_number = await bucket.files(pushed), pushed.number
        return await run_in_thread(load_files, self._files, warn=False)

    async def _changes(
        self, connection: Connection, settings: Settings, present: Callable[[], Settings]
    ) -> AsyncGenerator[None, None]:
        """As long as the connection by ``settings`` lasts and is the right one."""
        moved = asyncio.Event()
        connection.on_reconnect(moved.set)
        watching = asyncio.create_task(self._watch(connection, moved), name="policy watch")
        try:
            while _same_broker(settings, present()) and not connection.lost.is_set():
                if await self._check_pointer(connection):
                    yield
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(_AGAIN, self.poll) if self.error else self.poll):
                        await moved.wait()
                moved.clear()
        finally:
            watching.cancel()
            await asyncio.wait((watching,))

    async def _watch(self, connection: Connection, moved: asyncio.Event) -> None:
        """Say so whenever something is written to the pointer; for ever."""
        bucket = self.settings.rules_bucket
        while True:
            try:
                async with StreamReader(connection, f"KV_{bucket}", f"$KV.{bucket}.current") as reading:
                    while True:
                        await reading.next_message()
                        moved.set()
            except _TROUBLE:
                await asyncio.sleep(_AGAIN)  # meanwhile the pointer is looked at now and then

    async def _check_pointer(self, connection: Connection) -> bool:
        """Take what the pointer names; whether that is another one than was taken last."""
        try:
            bucket = await open_bucket(connection, self.settings.rules_bucket)
            pushed = (await bucket.revisions()).require()
            if pushed.number == self._loaded_number:
                self._clear_error()
                return False
            files = await bucket.files(pushed)
        except (InvalidBucket, BrokerError) as error:
            self._report_error(str(error))
            return False
        self._clear_error()
        by = f"{pushed.who}: {pushed.message}" if pushed.message else pushed.who
        log.info("policy: %s of %s is in force, pushed by %s", pushed, self.name, by)
        self._files, self._loaded_number = files, pushed.number
        return True

    def _report_error(self, words: str) -> None:
        """Once, and not at each look."""
        if words != self.error:
            log.error("policy: %s: %s; the policy in force stays", self.name, words)
        self.error = words

    def _clear_error(self) -> None:
        if self.error:
            log.info("policy: %s can be read again", self.name)
        self.error = ""


async def _readable(bucket: PolicyBucket) -> tuple[Revisions, str]:
    """The newest value of the pointer that can be read, and what is wrong with the one that is there."""
    try:
        return await bucket.revisions(), ""
    except InvalidBucket as error:
        return next(iter(await bucket.previous_pointers()), Revisions()), str(error)


def _same_broker(one: Settings, other: Settings) -> bool:
    return (one.servers, one.access) == (other.servers, other.access)


def source_of(settings: Settings, folder: Path | None, *, last_good: bool = False) -> Source:
    """The folder that was named, else what the settings say."""
    if folder is None and settings.rules_bucket:
        return BucketSource(settings=settings, last_good=last_good)
    return FolderSource(settings=settings, folder=folder)


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[Connection]:
    """A connection of its own: the policy comes before there is a session, and outlives it."""
    options = ConnectOptions(
        servers=settings.servers,
        name="mss policy",
        inbox_prefix=f"_INBOX_{settings.namespace}",
        **settings.access,
    )
    connection = await connect(options.to_nats())
    try:
        yield connection
    finally:
        await connection.close()
