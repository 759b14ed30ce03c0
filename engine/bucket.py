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

from .beside import beside
from .broker import Cells, Connection
from .broker.reading import Reading, permitted
from .errors import BadBucket, BrokerError, NotPushed
from .loader import Files
from .packing import joined, name_of, pack, split, unpack
from .revisions import CURRENT, Pushed, Revisions, read_revisions

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

    async def earlier(self) -> list[Revisions]:
        """The readable values that the pointer had before, the newest first. Raises BrokerError."""
        found: list[Revisions] = []
        async with Reading(self.connection, self.stream, self.pointer) as reading:
            while (stored := await reading.present()) is not None:
                with suppress(BadBucket):
                    found.append(read_revisions(stored.payload))
        return found[::-1]

    async def files(self, pushed: Pushed) -> Files:
        """The files of one revision. Raises BadBucket, BrokerError."""
        parts = [await self._value(_part(pushed.blob, number)) for number in range(pushed.parts)]
        if None in parts:
            raise BadBucket(f"{pushed}: files are missing")
        packed = joined([part for part in parts if part is not None], pushed.blob)
        return Files(contents=await beside(unpack, packed))

    async def push(self, files: Files, over: Revisions, *, who: str, at: int, message: str) -> Revisions:
        """Store ``files`` and have everybody go by them.

        Raises NotPushed where another one is in force than in ``over``: what somebody else has pushed
        meanwhile is not overwritten unseen. Raises BrokerError, and then nobody goes by them or nobody knows.
        """
        packed = pack(files.contents)
        blob = name_of(packed)
        parts = split(packed, min(_PART, self.connection.largest_payload))
        await self._put(blob, parts)
        pushed = Pushed(
            number=0, revision=files.revision, blob=blob, parts=len(parts), size=len(packed), who=who, at=at,
            message=message,
        )  # fmt: skip
        try:
            after = await self._change(over, lambda revisions: revisions.with_another(pushed))
        except NotPushed:
            await self._forget((pushed,), await self.revisions())
            raise
        await self._forget(over.pushed, after)
        return after

    async def move(self, number: int, over: Revisions, *, who: str, at: int) -> Revisions:
        """Have everybody go by a revision that is there. Raises as ``push`` does."""
        return await self._change(over, lambda revisions: revisions.moved_to(number, who=who, at=at))

    async def _change(self, over: Revisions, step: Callable[[Revisions], Revisions]) -> Revisions:
        def changed(value: bytes) -> tuple[bytes, Revisions]:
            after = step(_on_top(value, over))
            return after.encoded(), after

        return await permitted(self.connection, Cells(self.values).change(CURRENT, changed), (self.pointer,))

    async def _put(self, blob: str, parts: list[bytes]) -> None:
        for number, part in enumerate(parts):
            key = _part(blob, number)
            try:
                await permitted(self.connection, self.values.put(key, part), (f"$KV.{self.name}.{key}",))
            except (nats.errors.Error, TimeoutError) as error:
                raise BrokerError(f"{self.name}: files are not stored: {error or 'no answer'}") from error

    async def _forget(self, some: Iterable[Pushed], after: Revisions) -> None:
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
            return (await permitted(self.connection, self.values.get(key), (subject,))).value or b""
        except nats.js.errors.KeyNotFoundError:
            return None
        except (nats.errors.Error, TimeoutError) as error:
            self.connection.require_open()
            raise BrokerError(f"{self.name} cannot be read: {error or 'no answer'}") from error


async def open_bucket(connection: Connection, name: str) -> PolicyBucket:
    """The bucket of that name. Raises BadBucket where there is none, BrokerError."""
    subject = f"$JS.API.STREAM.INFO.KV_{name}"
    try:
        values = await permitted(connection, connection.js.key_value(name), (subject,))
    except nats.js.errors.NotFoundError as error:
        raise BadBucket("there is no such bucket; mss push DIR makes it") from error
    except (nats.errors.Error, TimeoutError) as error:
        connection.require_open()
        raise BrokerError(f"{name} cannot be opened: {error or 'no answer'}") from error
    return PolicyBucket(connection=connection, name=name, values=values)


async def make_bucket(connection: Connection, name: str, replicas: int) -> PolicyBucket:
    """The bucket of that name, made where there is none. Raises BrokerError."""
    with suppress(BadBucket):
        return await open_bucket(connection, name)
    # Read from the stream's leader: a follower may not have heard of what the pointer points to.
    config = api.KeyValueConfig(bucket=name, history=_POINTERS, replicas=replicas, direct=False)
    making = connection.js.create_key_value(config)
    try:
        values = await permitted(connection, making, (f"$JS.API.STREAM.CREATE.KV_{name}",))
    except (nats.errors.Error, TimeoutError) as error:
        raise BrokerError(f"{name} cannot be made: {error or 'no answer'}") from error
    return PolicyBucket(connection=connection, name=name, values=values)


def _part(blob: str, number: int) -> str:
    return f"files.{blob}.{number}"


def _on_top(value: bytes, over: Revisions) -> Revisions:
    """What is there, unless somebody was quicker; what cannot be read is replaced by what there was."""
    try:
        present = read_revisions(value)
    except BadBucket:
        return over
    if present.current != over.current:
        found = present.in_force
        by = f", pushed by {found.who}," if found else ""
        raise NotPushed(
            f"meanwhile {found or 'nothing'}{by} is in force: look at it (mss diff) and push again"
        )
    return present
