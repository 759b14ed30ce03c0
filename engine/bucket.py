"""A policy on the broker: pushed as one, pointed to by one key, and read back whole.

Everything lies in one key-value bucket: the pointer under ``current``, the files in parts under
``files.<hash>.<n>``, since they may be more than a message can carry. Parts are written first and the
pointer last, so that whoever sees the pointer finds the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import nats.errors
import nats.js.errors
from nats.js import api
from nats.js.kv import KeyValue

from .beside import run_in_thread
from .broker import AtomicStore, Connection
from .broker.reading import StreamReader, await_permitted
from .errors import BrokerError, InvalidBucket, RevisionNotFound
from .loader import Files
from .packing import blob_name, join_parts, pack, split, unpack
from .revisions import CURRENT, PushedRevision, Revisions, read_revisions

_PART = 512 * 1024  # bytes
_POINTERS = 20  # values of the pointer that the broker keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyBucket:
    """One bucket with policies. Made by ``open_bucket`` or ``make_bucket``."""

    connection: Connection
    name: str
    values: KeyValue

    @property
    def stream(self) -> str:
        return f"KV_{self.name}"

    @property
    def pointer(self) -> str:
        """The subject that the pointer lies on."""
        return f"$KV.{self.name}.{CURRENT}"

    async def revisions(self) -> Revisions:
        """What was pushed, and what is in force. Raises BadBucket, BrokerError."""
        return read_revisions(await self._value(CURRENT) or b"")

    async def previous_pointers(self) -> list[Revisions]:
        """The readable values that the pointer had before, the newest first. Raises BrokerError."""
        found: list[Revisions] = []
        async with StreamReader(self.connection, self.stream, self.pointer) as reading:
            while (stored := await reading.next_existing()) is not None:
                with suppress(InvalidBucket):
                    found.append(read_revisions(stored.payload))
        return found[::-1]

    async def files(self, pushed: PushedRevision) -> Files:
        """The files of one revision. Raises BadBucket, BrokerError."""
        parts = [await self._value(_part(pushed.blob, number)) for number in range(pushed.parts)]
        if None in parts:
            raise InvalidBucket(f"{pushed}: files are missing")
        packed = join_parts([part for part in parts if part is not None], pushed.blob)
        return Files(contents=await run_in_thread(unpack, packed))

    async def push(self, files: Files, over: Revisions, *, who: str, at: int, message: str) -> Revisions:
        """Store ``files`` and have everybody go by them.

        Raises NotPushed where another one is in force than in ``over``: what somebody else has pushed
        meanwhile is not overwritten unseen. Raises BrokerError, and then nobody goes by them or nobody knows.
        """
        packed = pack(files.contents)
        blob = blob_name(packed)
        parts = split(packed, min(_PART, self.connection.largest_payload))
        await self._put(blob, parts)
        pushed = PushedRevision(
            number=0, revision=files.revision, blob=blob, parts=len(parts), size=len(packed), who=who, at=at,
            message=message,
        )  # fmt: skip
        try:
            after = await self._change(over, lambda revisions: revisions.with_pushed(pushed))
        except RevisionNotFound:
            await self._delete_unused((pushed,), await self.revisions())
            raise
        await self._delete_unused(over.pushed, after)
        return after

    async def activate(self, number: int, over: Revisions, *, who: str, at: int) -> Revisions:
        """Have everybody go by a revision that is there. Raises as ``push`` does."""
        return await self._change(over, lambda revisions: revisions.with_active(number, who=who, at=at))

    async def _change(self, over: Revisions, step: Callable[[Revisions], Revisions]) -> Revisions:
        def changed(value: bytes) -> tuple[bytes, Revisions]:
            after = step(_require_unchanged(value, over))
            return after.encoded(), after

        return await await_permitted(
            self.connection, AtomicStore(self.values).update(CURRENT, changed), (self.pointer,)
        )

    async def _put(self, blob: str, parts: list[bytes]) -> None:
        for number, part in enumerate(parts):
            key = _part(blob, number)
            try:
                await await_permitted(
                    self.connection, self.values.put(key, part), (f"$KV.{self.name}.{key}",)
                )
            except (nats.errors.Error, TimeoutError) as error:
                raise BrokerError(f"{self.name}: files are not stored: {error or 'no answer'}") from error

    async def _delete_unused(self, some: Iterable[PushedRevision], after: Revisions) -> None:
        """Remove the files that no revision has any more; what is not removed does no harm."""
        kept = {each.blob for each in after.pushed}
        for each in some:
            if each.blob not in kept:
                for number in range(each.parts):
                    with suppress(nats.errors.Error, TimeoutError):
                        await self.values.purge(_part(each.blob, number))

    async def _value(self, key: str) -> bytes | None:
        subject = f"$JS.API.STREAM.MSG.GET.{self.stream}"
        try:
            return (await await_permitted(self.connection, self.values.get(key), (subject,))).value or b""
        except nats.js.errors.KeyNotFoundError:
            return None
        except (nats.errors.Error, TimeoutError) as error:
            self.connection.require_open()
            raise BrokerError(f"{self.name} cannot be read: {error or 'no answer'}") from error


async def open_bucket(connection: Connection, name: str) -> PolicyBucket:
    """The bucket of that name. Raises BadBucket where there is none, BrokerError."""
    subject = f"$JS.API.STREAM.INFO.KV_{name}"
    try:
        values = await await_permitted(connection, connection.js.key_value(name), (subject,))
    except nats.js.errors.NotFoundError as error:
        raise InvalidBucket("there is no such bucket; mss push DIR makes it") from error
    except (nats.errors.Error, TimeoutError) as error:
        connection.require_open()
        raise BrokerError(f"{name} cannot be opened: {error or 'no answer'}") from error
    return PolicyBucket(connection=connection, name=name, values=values)


async def make_bucket(connection: Connection, name: str, replicas: int) -> PolicyBucket:
    """The bucket of that name, made where there is none. Raises BrokerError."""
    with suppress(InvalidBucket):
        return await open_bucket(connection, name)
    # Read from the stream's leader: a follower may not have heard of what the pointer points to.
    config = api.KeyValueConfig(bucket=name, history=_POINTERS, replicas=replicas, direct=False)
    making = connection.js.create_key_value(config)
    try:
        values = await await_permitted(connection, making, (f"$JS.API.STREAM.CREATE.KV_{name}",))
    except (nats.errors.Error, TimeoutError) as error:
        raise BrokerError(f"{name} cannot be made: {error or 'no answer'}") from error
    return PolicyBucket(connection=connection, name=name, values=values)


def _part(blob: str, number: int) -> str:
    return f"files.{blob}.{number}"


def _require_unchanged(value: bytes, over: Revisions) -> Revisions:
    """What is there, unless somebody was quicker; what cannot be read is replaced by what there was."""
    try:
        present = read_revisions(value)
    except InvalidBucket:
        return over
    if present.current != over.current:
        found = present.active
        by = f", pushed by {found.who}," if found else ""
        raise RevisionNotFound(
            f"meanwhile {found or 'nothing'}{by} is in force: look at it (mss diff) and push again"
        )
    return present
