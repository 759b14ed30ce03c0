"""The dead letters on the broker: found, read, brought back, thrown away.

A letter is removed only after the broker has stored what became of it. What is stored twice
nevertheless, because a command was killed in between and run again, the deliverer tells apart.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from . import history
from .broker import Connection, Outgoing, Publisher, Topology
from .broker.reading import Reading, ask, permitted
from .codec import encode
from .dead import Letter, Replanning, Wanted, letter_of, revived
from .errors import MessageTooLarge, NotPermitted, NotStored, NotThere, StaysDead
from .model import Kind

_LONGEST_SEQUENCE = 19  # digits; a delivery's id has 32, and may have nothing else
_AT_ONCE = 32  # letters in hand: each may be as large as the broker takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Letters:
    """The dead letters of one MSS."""

    connection: Connection
    topology: Topology
    hidden: dict[Kind, NotPermitted] = field(default_factory=dict)  # kinds that we may not read

    async def find(self, wanted: Wanted, *, start: int = 1) -> AsyncIterator[Letter]:
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

    async def named(self, name: str, kind: Kind | None = None) -> list[Letter]:
        """The letters that an operator calls ``name``: a sequence in the stream, or a delivery's id."""
        if len(name) > _LONGEST_SEQUENCE or not (name.isascii() and name.isdecimal()):
            return [each async for each in self.find(Wanted(kind=kind, delivery=name))]
        kinds = tuple(Kind) if kind is None else (kind,)
        for each in kinds:
            try:
                async for letter in self._of(each, Wanted(), int(name)):
                    if letter.sequence == int(name):
                        return [letter]
                    break
            except NotPermitted as error:
                self.hidden[each] = error
        if self.hidden.keys() >= set(kinds):
            raise self.hidden[kinds[0]]
        return []

    async def payload(self, letter: Letter) -> bytes:
        """What is in a letter. Raises NotThere when it was removed, NotPermitted, BrokerError."""
        subject = f"$JS.API.STREAM.MSG.GET.{self.topology.dead_stream}"
        answer = await ask(self.connection, subject, {"seq": letter.sequence})
        return base64.b64decode(answer["message"].get("data", ""))

    async def remove(self, letter: Letter) -> None:
        """Take a letter off the stream; somebody else may have done it at the same time."""
        subject = f"$JS.API.STREAM.MSG.DELETE.{self.topology.dead_stream}"
        with contextlib.suppress(NotThere):
            # Without overwriting it on disk, which is some fifty times slower.
            await ask(self.connection, subject, {"seq": letter.sequence, "no_erase": True})

    async def _of(self, kind: Kind, wanted: Wanted, start: int) -> AsyncIterator[Letter]:
        subject = self.topology.dead_subject(kind, wanted.reason or "*")
        async with Reading(
            self.connection,
            self.topology.dead_stream,
            subject,
            start=start,
            since=wanted.since,
            headers_only=True,
        ) as reading:
            while (stored := await reading.present()) is not None:
                letter = letter_of(
                    stored.subject, stored.headers, sequence=stored.sequence, at=stored.at, size=stored.size
                )
                if wanted.means(letter):
                    yield letter


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of one letter that was to be brought back or thrown away."""

    letter: Letter
    problem: str = ""  # why nothing did; "" when it went well


@dataclass(frozen=True, slots=True, kw_only=True)
class Disposal:
    """Ends the stay of letters among the dead, one way or the other."""

    letters: Letters
    publisher: Publisher
    clock: Callable[[], int]  # microseconds since the epoch

    async def bring_back(self, letters: Sequence[Letter]) -> AsyncIterator[Done]:
        """Bring each back to where it came from; the rest goes on when one cannot be."""
        async for done in _each(letters, self._bring_back):
            yield done

    async def throw_away(self, letters: Sequence[Letter]) -> AsyncIterator[Done]:
        """Remove each for good; what was thrown away is written into its history."""
        async for done in _each(letters, self._throw_away):
            yield done

    async def _bring_back(self, letter: Letter) -> Done:
        try:
            back = self._revived(letter, await self.letters.payload(letter))
        except NotThere:
            return Done(letter=letter, problem="it is not there any more")
        except StaysDead as error:
            return Done(letter=letter, problem=str(error))
        return await self._replaced_by(letter, back)

    def _revived(self, letter: Letter, payload: bytes) -> list[Outgoing]:
        at, topology = self.clock(), self.letters.topology
        what = revived(letter, payload, at=at)
        name = f"revived.{letter.id}"  # and not the delivery's id, which the stream may know from before
        if isinstance(what, Replanning):
            back = Outgoing(subject=what.subject, payload=what.payload, id=name, headers=what.headers)
        else:
            subject = topology.delivery_subject(what.kind, what.channel)
            back = Outgoing(subject=subject, payload=encode(what), id=name)
        noted = history.revived(topology, letter, at=at)
        return [back, noted] if noted else [back]

    async def _throw_away(self, letter: Letter) -> Done:
        noted = history.dropped(self.letters.topology, letter, at=self.clock())
        return await self._replaced_by(letter, [noted] if noted else [])

    async def _replaced_by(self, letter: Letter, messages: Sequence[Outgoing]) -> Done:
        subjects = [message.subject for message in messages]
        try:
            await permitted(self.letters.connection, self.publisher.store(*messages), subjects)
        except (NotStored, MessageTooLarge) as error:
            return Done(letter=letter, problem=str(error))
        await self.letters.remove(letter)  # only now: the broker has what became of it
        return Done(letter=letter)


async def _each(letters: Sequence[Letter], treat: Callable[[Letter], Awaitable[Done]]) -> AsyncIterator[Done]:
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
            if isinstance(done, Done):
                yield done
        for trouble in finished:
            if isinstance(trouble, BaseException):
                raise trouble


@asynccontextmanager
async def disposal(letters: Letters, clock: Callable[[], int]) -> AsyncIterator[Disposal]:
    """With a publisher at work."""
    publisher = Publisher(letters.connection)
    await publisher.start()
    running = asyncio.create_task(publisher.run(), name="publisher")
    try:
        yield Disposal(letters=letters, publisher=publisher, clock=clock)
    finally:
        running.cancel()
        await publisher.close()
