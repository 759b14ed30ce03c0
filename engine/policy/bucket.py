"""The policy bucket: revisions that were pushed, the pointer to the active one, and their files.

All of it is in one key-value bucket: the pointer under ``current``, the files in parts under
``files.<hash>.<n>``, since they may be larger than a message. The parts are written first and the pointer
last, so a replica that sees the pointer finds the files. The pointer and the list of revisions are one
value, so one compare-and-set changes them. The same files always pack to the same bytes.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import unified_diff

import msgspec
import nats.errors
import nats.js.errors
from nats.js import api

from ..broker import Bucket, Connection
from ..broker.codec import encode
from ..broker.reader import StreamReader, await_permitted
from ..model.errors import BrokerError, InvalidBucket, RevisionNotFound
from ..runtime import run_in_thread
from .loader import Files

_PART = 512 * 1024  # bytes
_POINTERS = 20  # values of the pointer that the broker keeps

MAX_REVISIONS = 200  # revisions that are kept
MAX_MESSAGE_LENGTH = 500  # characters of a message
CURRENT = "current"  # the key of the pointer, and a name for the active revision
_MIN_HASH_LENGTH = 6  # a shorter name of a revision is a number

MAX_UNPACKED_BYTES = 512 * 1024 * 1024  # a policy has up to 256 MB, and base64 takes more
_files_decoder = msgspec.json.Decoder(dict[str, bytes])


@dataclass(frozen=True, slots=True)
class PolicyBucket:
    """One bucket with policies. Made by ``open_bucket`` or ``make_bucket``."""

    bucket: Bucket

    async def revisions(self) -> Revisions:
        """Return the pushed revisions and which one is active. Raises InvalidBucket, BrokerError."""
        return read_revisions((await self.bucket.get(CURRENT)).data)

    async def previous_pointers(self) -> list[Revisions]:
        """Return the readable values that the pointer had before, the newest first. Raises BrokerError."""
        found: list[Revisions] = []
        bucket = self.bucket
        async with StreamReader(bucket.connection, bucket.stream, bucket.subject(CURRENT)) as reading:
            while (stored := await reading.next_existing()) is not None:
                with suppress(InvalidBucket):
                    found.append(read_revisions(stored.payload))
        return found[::-1]

    async def files(self, pushed: PushedRevision) -> Files:
        """Return the files of one revision. Raises InvalidBucket, BrokerError."""
        parts = [(await self.bucket.get(_part(pushed.blob, n))).data for n in range(pushed.parts)]
        if not all(parts):
            raise InvalidBucket(f"{pushed}: files are missing")
        packed = join_parts(parts, pushed.blob)
        return Files(contents=await run_in_thread(unpack, packed))

    async def push(self, files: Files, over: Revisions, *, who: str, at: int, message: str) -> Revisions:
        """Store ``files`` and make them the active revision.

        Raises RevisionNotFound if the active revision is not the one of ``over``: a push of somebody else
        is not overwritten unseen. Raises BrokerError; the revision is not active then, or that is unknown.
        """
        packed = pack(files.contents)
        blob = blob_name(packed)
        parts = split(packed, min(_PART, self.bucket.connection.largest_payload))
        for number, part in enumerate(parts):
            await self.bucket.put(_part(blob, number), part)
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
        """Make a revision of the bucket the active one. Raises as ``push`` does."""
        return await self._change(over, lambda revisions: revisions.with_active(number, who=who, at=at))

    async def _change(self, over: Revisions, step: Callable[[Revisions], Revisions]) -> Revisions:
        def change(value: bytes) -> tuple[bytes, Revisions]:
            after = step(_require_unchanged(value, over))
            return after.encoded(), after

        return (await self.bucket.update(CURRENT, change))[0]

    async def _delete_unused(self, some: Iterable[PushedRevision], after: Revisions) -> None:
        """Remove the files that no revision has any more; a file that stays does no harm."""
        kept = {each.blob for each in after.pushed}
        for each in some:
            if each.blob not in kept:
                for number in range(each.parts):
                    with suppress(BrokerError):
                        await self.bucket.put(_part(each.blob, number), b"")


async def open_bucket(connection: Connection, name: str) -> PolicyBucket:
    """Return the bucket of that name. Raises InvalidBucket if there is none, and BrokerError."""
    bucket = Bucket(connection, name)
    asking = connection.js.stream_info(bucket.stream)
    try:
        await await_permitted(connection, asking, (f"$JS.API.STREAM.INFO.{bucket.stream}",))
    except nats.js.errors.NotFoundError as error:
        raise InvalidBucket("there is no such bucket; mss push DIR makes it") from error
    except (nats.errors.Error, TimeoutError) as error:
        connection.require_open()
        raise BrokerError(f"{name} cannot be opened: {error or 'no answer'}") from error
    return PolicyBucket(bucket)


async def make_bucket(connection: Connection, name: str, replicas: int) -> PolicyBucket:
    """Return the bucket of that name, and create it if there is none. Raises BrokerError."""
    with suppress(InvalidBucket):
        return await open_bucket(connection, name)
    # No direct reads: a follower may not have stored the files yet that the pointer names.
    config = api.KeyValueConfig(bucket=name, history=_POINTERS, replicas=replicas, direct=False)
    making = connection.js.create_key_value(config)
    try:
        await await_permitted(connection, making, (f"$JS.API.STREAM.CREATE.KV_{name}",))
    except (nats.errors.Error, TimeoutError) as error:
        raise BrokerError(f"{name} cannot be made: {error or 'no answer'}") from error
    return PolicyBucket(Bucket(connection, name))


def _part(blob: str, number: int) -> str:
    return f"files.{blob}.{number}"


def _require_unchanged(value: bytes, over: Revisions) -> Revisions:
    """Return the present revisions, or ``over`` if they cannot be read.

    Raises RevisionNotFound if another push has changed the active revision.
    """
    try:
        present = read_revisions(value)
    except InvalidBucket:
        return over
    if present.current != over.current:
        found = present.active
        by = f", pushed by {found.who}," if found else ""
        raise RevisionNotFound(
            f"meanwhile {found or 'nothing'}{by} is active: compare (mss diff) and push again"
        )
    return present


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedRevision:
    """A policy that was pushed."""

    number: int  # from 1, in the order of pushing
    revision: str  # of the policy, as ``mss check`` prints it: equal files have equal ones
    blob: str  # hash of its packed files, part of their keys
    parts: int  # of the packed files
    size: int  # bytes of the packed files
    who: str
    at: int  # microseconds since the epoch
    message: str = ""
    parent: int = 0  # the number that was active before; 0: none

    def __str__(self) -> str:
        return f"revision {self.number} ({self.revision})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revisions:
    """The value of the pointer: the pushed revisions, and the active one."""

    current: int = 0  # number of the active revision; 0: nothing was pushed yet
    moved_by: str = ""  # who moved the pointer last
    moved_at: int = 0  # microseconds since the epoch
    pushed: tuple[PushedRevision, ...] = ()  # the oldest first

    @property
    def active(self) -> PushedRevision | None:
        return next((each for each in self.pushed if each.number == self.current), None)

    def require(self) -> PushedRevision:
        """Return the active revision. Raises InvalidBucket if there is none."""
        if (found := self.active) is None:
            reason = (
                f"the active revision {self.current} is missing" if self.current else "nothing was pushed"
            )
            raise InvalidBucket(f"{reason}: mss push DIR")
        return found

    def with_pushed(self, pushed: PushedRevision) -> Revisions:
        """Return the revisions with ``pushed`` as the active one; its number and its parent are set here."""
        number = max((each.number for each in self.pushed), default=self.current) + 1
        newest = replace(
            pushed, number=number, parent=self.current, message=pushed.message[:MAX_MESSAGE_LENGTH]
        )
        kept = (*self.pushed, newest)[-MAX_REVISIONS:]
        return Revisions(current=number, moved_by=pushed.who, moved_at=pushed.at, pushed=kept)

    def with_active(self, number: int, *, who: str, at: int) -> Revisions:
        """Return the revisions with another active one."""
        return replace(self, current=number, moved_by=who, moved_at=at)

    def resolve(self, name: str) -> PushedRevision:
        """Return the revision called ``name``: ``current``, a number, or a revision of a policy.

        Raises RevisionNotFound.
        """
        if name == CURRENT and self.active is not None:
            return self.active
        if len(name) < _MIN_HASH_LENGTH:
            found = [each for each in self.pushed if str(each.number) == name]
        else:
            found = [each for each in self.pushed if each.revision.startswith(name)]
        if not found:
            raise RevisionNotFound(f"there is no revision {name}; mss revisions lists them")
        if len({each.revision for each in found}) > 1:
            raise RevisionNotFound(f"{name} may be any of {', '.join(str(each.number) for each in found)}")
        return found[-1]

    def previous(self) -> PushedRevision:
        """Return the revision that was active before the last push. Raises RevisionNotFound."""
        parent = self.require().parent
        found = next((each for each in self.pushed if each.number == parent), None)
        if found is None:
            raise RevisionNotFound(
                f"{self.require()} is the first one"
                if not parent
                else f"revision {parent} is no longer stored"
            )
        return found

    def candidates(self) -> tuple[PushedRevision, ...]:
        """Return the revisions to serve if the active one cannot be: all others, the newest first."""
        others = [each for each in self.pushed if each.number != self.current]
        return tuple(reversed(others))

    def encoded(self) -> bytes:
        return encode(self)


_revisions_decoder = msgspec.json.Decoder(Revisions)


def read_revisions(data: bytes) -> Revisions:
    """Return the value of the pointer; without data, no revisions. Raises InvalidBucket."""
    if not data:
        return Revisions()
    try:
        return _revisions_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidBucket(f"its pointer cannot be read: {error}") from error


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return ``files`` by path as compressed JSON, with contents in base64."""
    ordered = {name: files[name] for name in sorted(files)}
    return zlib.compress(msgspec.json.encode(ordered))


def unpack(packed: bytes) -> dict[str, bytes]:
    """Return the files that were packed. Raises InvalidBucket."""
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(packed, MAX_UNPACKED_BYTES)
        if not inflater.eof:
            raise InvalidBucket("the files of the policy are incomplete, or too large")
        return _files_decoder.decode(data)
    except (zlib.error, msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidBucket(f"the files of the policy cannot be read: {error}") from error


def blob_name(packed: bytes) -> str:
    """Return the hash of ``packed``, part of its keys."""
    return hashlib.sha256(packed).hexdigest()


def split(packed: bytes, size: int) -> list[bytes]:
    """Return parts of at most ``size`` bytes."""
    return [packed[start : start + size] for start in range(0, len(packed), size)]


def join_parts(parts: Sequence[bytes], name: str) -> bytes:
    """Return the joined parts. Raises InvalidBucket if their hash is not ``name``."""
    packed = b"".join(parts)
    if blob_name(packed) != name:
        raise InvalidBucket("the files of the policy are not those that were pushed")
    return packed


def policy_diff(
    before: Mapping[str, bytes], after: Mapping[str, bytes], names: tuple[str, str]
) -> Iterator[str]:
    """Yield the lines of a unified diff; ``names`` are those of the two policies."""
    for path in sorted({*before, *after}):
        mine, its = before.get(path), after.get(path)
        if mine == its:
            continue
        olds, news = _lines(mine), _lines(its)
        if olds is None or news is None:
            yield f"binary file {path} {_how(mine, its)}"
            continue
        titles = (
            f"{names[0]}/{path}" if mine is not None else "/dev/null",
            f"{names[1]}/{path}" if its is not None else "/dev/null",
        )
        lines = list(unified_diff(olds, news, *titles, lineterm=""))
        yield from lines or (f"empty file {path} {_how(mine, its)}",)


def _how(mine: bytes | None, its: bytes | None) -> str:
    return "is new" if mine is None else "is gone" if its is None else "differs"


def _lines(data: bytes | None) -> list[str] | None:
    """Return the lines of a text file; None if it is binary."""
    if data is None:
        return []
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    lines = text.split("\n")
    if lines[-1] == "":
        return lines[:-1]
    return [*lines[:-1], f"{lines[-1]}\\ (no newline at the end)"]
