"""The preferences bucket: one record for each user, changed by compare-and-set.

The key is a hash of the user id, so an id need not look like a key, and no subject contains it.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import nats.errors
import nats.js.errors
from nats.js.kv import KV_DEL, KV_OP, KV_PURGE

from ..broker import Connection
from ..broker.reader import StreamReader, await_permitted
from ..model.errors import BrokerError, InvalidPreferences
from .document import decode, encode

_TRIES = 50  # of a compare-and-set that others win
_WRONG_REVISION, _NO_MESSAGE = 10071, 10037
_TROUBLE = (nats.errors.Error, TimeoutError)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What lies under one person's key; without one, nobody has chosen anything."""

    data: bytes = b""
    revision: int = 0  # of what lies there, or of its removal; 0: there never was any

    def document_of(self, user: str) -> dict[str, Any] | None:
        """The person's document. Raises BadPreferences where the record is none, or another's."""
        if not self.data:
            return None
        owner, document = decode(self.data)
        if owner != user:
            raise InvalidPreferences(["the record is somebody else's"])
        return document


def token_of(user: str) -> str:
    """What stands for a person in a key."""
    return hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceStore:
    """The bucket of the preferences. What is asked for comes from the stream's leader: it is never old."""

    connection: Connection
    name: str  # of the bucket

    @property
    def stream(self) -> str:
        return f"KV_{self.name}"

    @property
    def subjects(self) -> str:
        """What is told of every record."""
        return self._subject("*")

    async def get(self, user: str) -> Record:
        """What lies there for ``user``. Raises BrokerError."""
        asking = self.connection.js.get_last_msg(self.stream, self._subject(token_of(user)))
        subject = f"$JS.API.STREAM.MSG.GET.{self.stream}"
        try:
            found = await await_permitted(self.connection, asking, (subject,))
        except nats.js.errors.NotFoundError as error:
            if error.err_code == _NO_MESSAGE:
                return Record()
            raise self._trouble("read", error) from error
        except _TROUBLE as error:
            raise self._trouble("read", error) from error
        is_gone = (found.headers or {}).get(KV_OP) in (KV_DEL, KV_PURGE)
        return Record(data=b"" if is_gone else found.data or b"", revision=found.seq or 0)

    async def change(
        self, user: str, step: Callable[[dict[str, Any]], tuple[Mapping[str, Any] | None, T]]
    ) -> tuple[T, int]:
        """Replace a person's document by what ``step`` makes of it.

        Returns what ``step`` says besides, and the revision that is there now.

        ``step`` may be called several times; it gets {} where there is none or none that can be read,
        gives {} for what is to be forgotten with all that was there before, and None for what is to
        stay. Raises BadPreferences where the new one is too large, and BrokerError: nothing was
        written then, or nobody knows.
        """
        for _ in range(_TRIES):
            record = await self.get(user)
            try:
                present = record.document_of(user) or {}
            except InvalidPreferences:
                present = {}
            changed, result = step(present)
            if changed is None or (not changed and not record.data):
                return result, record.revision
            if revision := await self._write(user, changed, record.revision):
                return result, revision
        raise BrokerError(f"{self.name} cannot be written: too many change it at once")

    async def records(self) -> AsyncIterator[Record]:
        """Every record there is, the one that was changed longest ago first. Raises BrokerError."""
        async with StreamReader(self.connection, self.stream, self.subjects, latest=True) as reading:
            while (stored := await reading.next_existing()) is not None:
                if stored.payload:
                    yield Record(data=stored.payload, revision=stored.sequence)

    async def _write(self, user: str, document: Mapping[str, Any], revision: int) -> int:
        """The new revision; 0 where somebody has changed it since ``revision``."""
        subject = self._subject(token_of(user))
        headers = {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        if not document:
            headers |= {KV_OP: KV_PURGE, "Nats-Rollup": "sub"}
        data = encode(user, document) if document else b""
        try:
            storing = self.connection.js.publish(subject, data, headers=headers)
            return (await await_permitted(self.connection, storing, (subject,))).seq
        except nats.js.errors.APIError as error:
            if error.err_code == _WRONG_REVISION:
                return 0
            raise self._trouble("written", error) from error
        except _TROUBLE as error:
            raise self._trouble("written", error) from error

    def _subject(self, token: str) -> str:
        return f"$KV.{self.name}.user.{token}"

    def _trouble(self, done: str, error: Exception) -> BrokerError:
        self.connection.require_open()
        return BrokerError(f"{self.name} cannot be {done}: {str(error) or 'no answer'}")
