"""The preferences bucket: one record for each user, changed by compare-and-set.

The key is a hash of the user id, so an id need not look like a key, and no subject contains it.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..broker import Bucket
from ..model.errors import InvalidPreferences
from .document import decode, encode

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The stored preferences of one user; without data, the user has none."""

    data: bytes = b""
    revision: int = 0  # of the data or of its removal; 0: the record was never written

    def document_of(self, user: str) -> dict[str, Any] | None:
        """Return the document of ``user``. Raises InvalidPreferences for a bad record, or another user's."""
        if not self.data:
            return None
        owner, document = decode(self.data)
        if owner != user:
            raise InvalidPreferences(["the record is somebody else's"])
        return document


def token_of(user: str) -> str:
    """Return the token of a user in a key."""
    return hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class PreferenceStore:
    """The preferences of all users. A read is never old: the stream's leader answers it."""

    bucket: Bucket

    @property
    def subjects(self) -> str:
        """The subjects of every record."""
        return self.bucket.subject("user.*")

    async def get(self, user: str) -> Record:
        """Return the record of ``user``. Raises BrokerError."""
        found = await self.bucket.get(_key(user))
        return Record(data=found.data, revision=found.revision)

    async def change(
        self, user: str, step: Callable[[dict[str, Any]], tuple[Mapping[str, Any] | None, T]]
    ) -> tuple[T, int]:
        """Replace the document of ``user`` with the one that ``step`` returns.

        Return the result of ``step``, and the revision that the record has then.

        ``step`` gets {} if there is no document or it cannot be read. It returns the new document, {} to
        remove the record with its history, or None to keep it. It may be called several times. Raises
        InvalidPreferences if the new document is too large, and BrokerError: nothing was written then, or
        that is unknown.
        """

        def change(data: bytes) -> tuple[bytes | None, T]:
            try:
                present = Record(data=data).document_of(user) or {}
            except InvalidPreferences:
                present = {}
            document, result = step(present)
            if document is None or not (document or data):
                return None, result
            return encode(user, document) if document else b"", result

        result, value = await self.bucket.update(_key(user), change)
        return result, value.revision

    async def records(self) -> AsyncIterator[Record]:
        """Yield every record, the one that was changed longest ago first. Raises BrokerError."""
        async for stored in self.bucket.present("user.*"):
            yield Record(data=stored.payload, revision=stored.sequence)


def _key(user: str) -> str:
    return f"user.{token_of(user)}"
