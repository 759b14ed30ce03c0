"""The dead letters on the broker: list, redrive, drop.

A dead letter is removed only after the broker has stored its successor. If a command was killed in between
and run again, the successor is stored twice; the delivery worker detects the copy.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ..broker import Connection, OutgoingMessage, Publisher, Topology
from ..broker.codec import encode
from ..broker.reader import StreamReader, await_permitted, request_jetstream
from ..model.errors import MaxPayloadExceeded, MessageNotFound, NotPermitted, NotRedrivable, NotStored
from ..model.messages import Kind
from . import entries
from .dead_letters import DeadLetter, DeadLetterFilter, EventRedrive, redrive_message

_MAX_SEQUENCE_LENGTH = 19  # digits; a delivery's id has 32, and may have nothing else
_AT_ONCE = 32  # letters in hand: each may be as large as the broker takes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterStore:
    """The dead letters of one MSS."""

    connection: Connection
    topology: Topology
    hidden: dict[Kind, NotPermitted] = field(default_factory=dict)  # kinds that we may not read

    async def search(self, wanted: DeadLetterFilter, *, start: int = 1) -> AsyncIterator[DeadLetter]:
        """The letters that are meant and there at this moment, by kind, then from the oldest on.

        Only headers are read. Where no kind is named, those that may not be read are left out and
        noted as hidden. Raises NotPermitted, BrokerError.
        """
        kinds = tuple(Kind) if wanted.kind is None else (wanted.kind,)
        for kind in kinds:
            try:
                async for letter in self._of(kind, wanted, start):
                    yield letter
            except NotPermitted as error:
                self.hidden[kind] = error
                if self.hidden.keys() >= set(kinds):
                    raise

    async def resolve(self, name: str, kind: Kind | None = None) -> list[DeadLetter]:
        """The letters that an operator calls ``name``: a sequence in the stream, or a delivery's id."""
        if len(name) > _MAX_SEQUENCE_LENGTH or not (name.isascii() and name.isdecimal()):
            return [each async for each in self.search(DeadLetterFilter(kind=kind, delivery=name))]
        kinds = tuple(Kind) if kind is None else (kind,)
        for each in kinds:
            try:
                async for letter in self._of(each, DeadLetterFilter(), int(name)):
                    if letter.sequence == int(name):
                        return [letter]
                    break
            except NotPermitted as error:
                self.hidden[each] = error
        if self.hidden.keys() >= set(kinds):
            raise self.hidden[kinds[0]]
        return []

    async def payload(self, letter: DeadLetter) -> bytes:
        """What is in a letter. Raises NotThere when it was removed, NotPermitted, BrokerError."""
        subject = f"$JS.API.STREAM.MSG.GET.{self.topology.dead_stream}"
        answer = await request_jetstream(self.connection, subject, {"seq": letter.sequence})
        return base64.b64decode(answer["message"].get("data", ""))

    async def remove(self, letter: DeadLetter) -> None:
        """Take a letter off the stream; somebody else may have done it at the same time."""
        subject = f"$JS.API.STREAM.MSG.DELETE.{self.topology.dead_stream}"
        with contextlib.suppress(MessageNotFound):
            # Without overwriting it on disk, which is some fifty times slower.
            await request_jetstream(self.connection, subject, {"seq": letter.sequence, "no_erase": True})

    async def _of(self, kind: Kind, wanted: DeadLetterFilter, start: int) -> AsyncIterator[DeadLetter]:
        subject = self.topology.dead_subject(kind, wanted.reason or "*")
        async with StreamReader(
            self.connection,
            self.topology.dead_stream,
            subject,
            start=start,
            since=wanted.since,
            headers_only=True,
        ) as reading:
            while (stored := await reading.next_existing()) is not None:
                letter = DeadLetter.from_message(
                    stored.subject, stored.headers, sequence=stored.sequence, at=stored.at, size=stored.size
                )
                if wanted.matches(letter):
                    yield letter


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterResult:
    """What became of one letter that was to be brought back or thrown away."""

    letter: DeadLetter
    problem: str = ""  # why nothing did; "" when it went well


@dataclass(frozen=True, slots=True, kw_only=True)
class Redriver:
    """Ends the stay of letters among the dead, one way or the other."""

    letters: DeadLetterStore
    publisher: Publisher
    clock: Callable[[], int]  # microseconds since the epoch

    async def redrive(self, letters: Sequence[DeadLetter]) -> AsyncIterator[DeadLetterResult]:
        """Bring each back to where it came from; the rest goes on when one cannot be."""
        async for done in _each(letters, self._redrive):
            yield done

    async def drop(self, letters: Sequence[DeadLetter]) -> AsyncIterator[DeadLetterResult]:
        """Remove each for good; what was thrown away is written into its history."""
        async for done in _each(letters, self._drop):
            yield done

    async def _redrive(self, letter: DeadLetter) -> DeadLetterResult:
        try:
            back = self._redrive_messages(letter, await self.letters.payload(letter))
        except MessageNotFound:
            return DeadLetterResult(letter=letter, problem="it is not there any more")
        except NotRedrivable as error:
            return DeadLetterResult(letter=letter, problem=str(error))
        return await self._replaced_by(letter, back)

    def _redrive_messages(self, letter: DeadLetter, payload: bytes) -> list[OutgoingMessage]:
        at, topology = self.clock(), self.letters.topology
        what = redrive_message(letter, payload, at=at)
        name = f"revived.{letter.id}"  # and not the delivery's id, which the stream may know from before
        if isinstance(what, EventRedrive):
            back = OutgoingMessage(subject=what.subject, payload=what.payload, id=name, headers=what.headers)
        else:
            subject = topology.delivery_subject(what.kind, what.channel)
            back = OutgoingMessage(subject=subject, payload=encode(what), id=name)
        noted = entries.redrive_entry(topology, letter, at=at)
        return [back, noted] if noted else [back]

    async def _drop(self, letter: DeadLetter) -> DeadLetterResult:
        noted = entries.drop_entry(self.letters.topology, letter, at=self.clock())
        return await self._replaced_by(letter, [noted] if noted else [])

    async def _replaced_by(self, letter: DeadLetter, messages: Sequence[OutgoingMessage]) -> DeadLetterResult:
        subjects = [message.subject for message in messages]
        try:
            await await_permitted(self.letters.connection, self.publisher.store(*messages), subjects)
        except (NotStored, MaxPayloadExceeded) as error:
            return DeadLetterResult(letter=letter, problem=str(error))
        await self.letters.remove(letter)  # only now: the broker has what became of it
        return DeadLetterResult(letter=letter)


async def _each(
    letters: Sequence[DeadLetter], treat: Callable[[DeadLetter], Awaitable[DeadLetterResult]]
) -> AsyncIterator[DeadLetterResult]:
    for position in range(0, len(letters), _AT_ONCE):
        begun = asyncio.gather(
            *(treat(each) for each in letters[position : position + _AT_ONCE]), return_exceptions=True
        )
        try:
            finished = await asyncio.shield(begun)
        except asyncio.CancelledError:
            await begun  # what has been stored is to be removed, however impatient somebody is
            raise
        for done in finished:
            if isinstance(done, DeadLetterResult):
                yield done
        for trouble in finished:
            if isinstance(trouble, BaseException):
                raise trouble


@asynccontextmanager
async def disposal(letters: DeadLetterStore, clock: Callable[[], int]) -> AsyncIterator[Redriver]:
    """With a publisher at work."""
    publisher = Publisher(letters.connection)
    await publisher.start()
    running = asyncio.create_task(publisher.run(), name="publisher")
    try:
        yield Redriver(letters=letters, publisher=publisher, clock=clock)
    finally:
        running.cancel()
        await publisher.close()
