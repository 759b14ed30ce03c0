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

from ..broker import Connection, connect, connect_options
from ..broker.reader import StreamReader
from ..model.errors import BrokerError, InvalidBucket
from ..runtime import run_in_thread
from ..settings import Settings
from .bucket import PolicyBucket, PushedRevision, Revisions, open_bucket
from .loader import Files, Policy, load_files, load_policy

log = logging.getLogger(__name__)

_POLL = 10.0  # seconds after which the pointer is read, even if the watch reports nothing
_RETRY_WAIT = 2.0  # seconds
_BROKER_ERRORS = (BrokerError, nats.errors.Error, TimeoutError, OSError)


class Source(Protocol):
    """A place from which a server reads its policy, at the start and at each reload."""

    @property
    def name(self) -> str:
        """The name for logs and messages."""
        ...

    @property
    def error(self) -> str:
        """Why the source cannot be read; empty if it can."""
        ...

    async def load_initial(self) -> Policy:
        """Return the policy to start with. Raises InvalidBucket, BrokerError."""
        ...

    def load(self, settings: Settings) -> Policy:
        """Return the present policy; ``settings`` are the new ones. Runs in a thread."""
        ...

    def watched_paths(self, settings: Settings) -> Sequence[Path]:
        """Return the folders to watch for changes."""
        ...

    def changes(self, present: Callable[[], Settings]) -> AsyncIterator[None]:
        """Yield each time that ``load`` would return another policy, until cancelled.

        ``present`` returns the current settings: after a reload, they may name another broker.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A folder: ``folder``, or else the one of the settings."""

    settings: Settings
    folder: Path | None = None

    @property
    def name(self) -> str:
        return str(self.folder or self.settings.rules)

    @property
    def error(self) -> str:
        return ""  # a reload reports the problems of a folder

    async def load_initial(self) -> Policy:
        return load_policy(self.folder or self.settings.rules, warn=False)

    def load(self, settings: Settings) -> Policy:
        return load_policy(self.watched_paths(settings)[0], warn=False)

    def watched_paths(self, settings: Settings) -> Sequence[Path]:
        # If the new settings name a bucket, it is used after a restart.
        return (self.folder or (self.settings if settings.rules_bucket else settings).rules,)

    async def changes(self, present: Callable[[], Settings]) -> AsyncIterator[None]:
        del present
        await asyncio.Event().wait()  # the file watcher reports changes
        yield


@dataclass(kw_only=True)
class BucketSource:
    """The active revision in a bucket."""

    settings: Settings
    last_good: bool = False  # start with an older revision if the active one cannot be served
    poll: float = _POLL  # seconds
    _files: Files = field(default_factory=lambda: Files(contents={}))
    _loaded_number: int = 0  # of the revision that was fetched last
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
            except _BROKER_ERRORS as error:
                self._report_error(f"cannot be followed: {str(error) or 'no answer'}")
            await asyncio.sleep(_RETRY_WAIT)

    async def _load_initial(self, bucket: PolicyBucket) -> Policy:
        if not self.last_good:
            return await self._fetch(bucket, (await bucket.revisions()).require())
        revisions, problem = await _readable(bucket)
        active = (revisions.active,) if revisions.active else ()
        for pushed in (*active, *revisions.candidates()):
            try:
                policy = await self._fetch(bucket, pushed)
            except InvalidBucket as error:
                problem = problem or str(error)
                continue
            if policy.ok:
                if problem:
                    log.error("policy: %s", problem)
                    log.error("policy: serving %s, the newest one that can be served", pushed)
                return policy
            for each in policy.problems:
                if each.severity == "error" and not problem:
                    log.error("policy: %s", each)
            problem = problem or f"{pushed} cannot be served"
        raise InvalidBucket(
            f"{problem or 'nothing was pushed: mss push DIR'}, and no other revision can be served"
        )

    async def _fetch(self, bucket: PolicyBucket, pushed: PushedRevision) -> Policy:
        self._files, self._loaded_number = await bucket.files(pushed), pushed.number
        return await run_in_thread(load_files, self._files, warn=False)

    async def _changes(
        self, connection: Connection, settings: Settings, present: Callable[[], Settings]
    ) -> AsyncGenerator[None, None]:
        """Yield each time that the active revision changes, while the connection can be used."""
        moved = asyncio.Event()
        connection.on_reconnect(moved.set)
        watching = asyncio.create_task(self._watch(connection, moved), name="policy watch")
        try:
            login = (settings.servers, settings.access)
            while login == (present().servers, present().access) and not connection.lost.is_set():
                if await self._check_pointer(connection):
                    yield
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(_RETRY_WAIT, self.poll) if self.error else self.poll):
                        await moved.wait()
                moved.clear()
        finally:
            watching.cancel()
            await asyncio.wait((watching,))

    async def _watch(self, connection: Connection, moved: asyncio.Event) -> None:
        """Set ``moved`` at each write of the pointer, until cancelled."""
        bucket = self.settings.rules_bucket
        while True:
            try:
                async with StreamReader(connection, f"KV_{bucket}", f"$KV.{bucket}.current") as reading:
                    while True:
                        await reading.next_message()
                        moved.set()
            except _BROKER_ERRORS:
                await asyncio.sleep(_RETRY_WAIT)  # meanwhile the pointer is polled

    async def _check_pointer(self, connection: Connection) -> bool:
        """Fetch the active revision if it is new. Returns whether it is."""
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
        log.info("policy: %s of %s is active, pushed by %s", pushed, self.name, by)
        self._files, self._loaded_number = files, pushed.number
        return True

    def _report_error(self, message: str) -> None:
        """Log an error once, and not each time."""
        if message != self.error:
            log.error("policy: %s: %s; the active policy stays", self.name, message)
        self.error = message

    def _clear_error(self) -> None:
        if self.error:
            log.info("policy: %s can be read again", self.name)
        self.error = ""


async def _readable(bucket: PolicyBucket) -> tuple[Revisions, str]:
    """Return the newest readable value of the pointer, and the error of the present one."""
    try:
        return await bucket.revisions(), ""
    except InvalidBucket as error:
        return next(iter(await bucket.previous_pointers()), Revisions()), str(error)


def source_of(settings: Settings, folder: Path | None, *, last_good: bool = False) -> Source:
    """Return ``folder`` as the source, or else the one in the settings."""
    if folder is None and settings.rules_bucket:
        return BucketSource(settings=settings, last_good=last_good)
    return FolderSource(settings=settings, folder=folder)


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[Connection]:
    """Open a connection for the policy alone, which is needed before the first session and after each one."""
    connection = await connect(connect_options(settings, "mss policy"))
    try:
        yield connection
    finally:
        await connection.close()
