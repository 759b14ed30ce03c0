"""The stored dead letters: list, redrive, drop.

A dead letter is removed only after the broker has stored its successor. If a command is killed in between
and runs again, the successor is stored twice; the delivery worker detects the copy.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from ..broker import Broker, OutgoingMessage
from ..broker.codec import encode
from ..broker.reader import StreamReader, await_permitted, request_jetstream
from ..model.errors import MaxPayloadExceeded, MessageNotFound, NotPermitted, NotRedrivable, NotStored
from ..model.messages import Kind
from .dead_letters import DeadLetter, DeadLetterFilter, EventRedrive, redrive_message
from .entries import DropRecord, RedriveRecord, decision_entry

_MAX_SEQUENCE_LENGTH = 19  # digits; the id of a delivery has 32 characters, and may be all digits
_MAX_IN_FLIGHT = 32  # dead letters: each may be as large as the largest message


@dataclass(frozen=True, slots=True)
class DeadLetterStore:
    """The dead letters in the stream of one MSS."""

    broker: Broker
    hidden: dict[Kind, NotPermitted] = field(default_factory=dict)  # kinds that this user may not read

    async def search(
        self, wanted: DeadLetterFilter, *, start: int = 1, first_only: bool = False
    ) -> AsyncGenerator[DeadLetter, None]:
        """Yield the dead letters that match and are stored now, by kind, each from the oldest.

        ``start`` is the first sequence to read. With ``first_only``, only the first of each kind is read.
        Payloads are not read. Kinds that may not be read are added to ``hidden``. Raises NotPermitted if
        that is so for all that are wanted, and BrokerError.
        """
        kinds = tuple(Kind) if wanted.kind is None else (wanted.kind,)
        for kind in kinds:
            subject = self.broker.topology.dead_subject(kind, wanted.reason or "*")
            stream, since = self.broker.topology.dead_stream, wanted.since
            reader = StreamReader(
                self.broker.connection, stream, subject, start=start, since=since, headers_only=True
            )
            try:
                async with reader:
                    while (stored := await reader.next_existing()) is not None:
                        dead_letter = DeadLetter.from_message(stored)
                        if wanted.matches(dead_letter):
                            yield dead_letter
                        if first_only:
                            break
            except NotPermitted as error:
                self.hidden[kind] = error
                if self.hidden.keys() >= set(kinds):
                    raise

    async def resolve(self, name: str) -> list[DeadLetter]:
        """Return the dead letters named ``name``: a sequence in the stream, or the id of a delivery.

        Raises NotPermitted if no kind may be read, and BrokerError.
        """
        if len(name) > _MAX_SEQUENCE_LENGTH or not (name.isascii() and name.isdecimal()):
            return [each async for each in self.search(DeadLetterFilter(delivery=name))]
        # No other kind has the same sequence, so the kinds after it are not read.
        async with aclosing(self.search(DeadLetterFilter(), start=int(name), first_only=True)) as firsts:
            async for dead_letter in firsts:
                if dead_letter.sequence == int(name):
                    return [dead_letter]
        return []

    async def payload(self, dead_letter: DeadLetter) -> bytes:
        """Return the payload. Raises MessageNotFound if it was removed, NotPermitted, and BrokerError."""
        subject = f"$JS.API.STREAM.MSG.GET.{self.broker.topology.dead_stream}"
        answer = await request_jetstream(self.broker.connection, subject, {"seq": dead_letter.sequence})
        return base64.b64decode(answer["message"].get("data", ""))

    async def remove(self, dead_letter: DeadLetter) -> None:
        """Remove a dead letter, unless another command has removed it already."""
        subject = f"$JS.API.STREAM.MSG.DELETE.{self.broker.topology.dead_stream}"
        # Erasing it on disk would be some fifty times slower.
        request = {"seq": dead_letter.sequence, "no_erase": True}
        with contextlib.suppress(MessageNotFound):
            await request_jetstream(self.broker.connection, subject, request)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterResult:
    """The result of a redrive or a drop."""

    dead_letter: DeadLetter
    problem: str = ""  # why it failed; "" for success


@dataclass(frozen=True, slots=True, kw_only=True)
class Redriver:
    """Redrives and drops dead letters. ``open_redriver`` creates it."""

    store: DeadLetterStore
    clock: Callable[[], int]  # microseconds since the epoch

    async def redrive(self, dead_letters: Sequence[DeadLetter]) -> AsyncIterator[DeadLetterResult]:
        """Redrive each dead letter. One that fails does not stop the others. Raises BrokerError."""
        async for result in _run_all(self._redrive, dead_letters):
            yield result

    async def drop(self, dead_letters: Sequence[DeadLetter]) -> AsyncIterator[DeadLetterResult]:
        """Remove each dead letter, and record that in the history. Raises BrokerError."""
        async for result in _run_all(self._drop, dead_letters):
            yield result

    async def _redrive(self, dead_letter: DeadLetter) -> DeadLetterResult:
        at, topology = self.clock(), self.store.broker.topology
        try:
            redriven = redrive_message(dead_letter, await self.store.payload(dead_letter), at=at)
        except MessageNotFound:
            return DeadLetterResult(dead_letter=dead_letter, problem="it was removed in the meantime")
        except NotRedrivable as error:
            return DeadLetterResult(dead_letter=dead_letter, problem=str(error))
        id_ = f"redriven.{dead_letter.id}"  # the stream may still know the id of the delivery
        if isinstance(redriven, EventRedrive):
            message = OutgoingMessage(
                subject=redriven.subject, payload=redriven.payload, id=id_, headers=redriven.headers
            )
        else:
            subject = topology.delivery_subject(redriven.kind, redriven.channel)
            message = OutgoingMessage(subject=subject, payload=encode(redriven), id=id_)
        entry = decision_entry(topology, RedriveRecord, dead_letter, at=at)
        return await self._replace(dead_letter, message, entry)

    async def _drop(self, dead_letter: DeadLetter) -> DeadLetterResult:
        entry = decision_entry(self.store.broker.topology, DropRecord, dead_letter, at=self.clock())
        return await self._replace(dead_letter, entry)

    async def _replace(
        self, dead_letter: DeadLetter, *successors: OutgoingMessage | None
    ) -> DeadLetterResult:
        messages = [message for message in successors if message is not None]
        broker = self.store.broker
        storing = broker.publisher.store(*messages)
        try:
            await await_permitted(broker.connection, storing, [message.subject for message in messages])
        except (NotStored, MaxPayloadExceeded) as error:
            return DeadLetterResult(dead_letter=dead_letter, problem=str(error))
        await self.store.remove(dead_letter)
        return DeadLetterResult(dead_letter=dead_letter)


async def _run_all(
    step: Callable[[DeadLetter], Awaitable[DeadLetterResult]], dead_letters: Sequence[DeadLetter]
) -> AsyncIterator[DeadLetterResult]:
    for position in range(0, len(dead_letters), _MAX_IN_FLIGHT):
        batch = dead_letters[position : position + _MAX_IN_FLIGHT]
        running = asyncio.gather(*map(step, batch), return_exceptions=True)
        try:
            results = await asyncio.shield(running)
        except asyncio.CancelledError:
            await running  # dead letters whose successors are stored must be removed
            raise
        for result in results:
            if isinstance(result, DeadLetterResult):
                yield result
        for result in results:
            if isinstance(result, BaseException):
                raise result


@asynccontextmanager
async def open_redriver(store: DeadLetterStore, clock: Callable[[], int]) -> AsyncIterator[Redriver]:
    """Run the publisher for a redriver, and close it at the end."""
    async with store.broker.publisher.running():
        yield Redriver(store=store, clock=clock)
