"""Where an IP address is: a lookup in a MaxMind database, which is opened anew when it is replaced.

MSS reads a copy of its own: a database that is overwritten in place would otherwise pull the memory
away under a lookup and with it the process.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import maxminddb

from ..errors import UndecodableError
from ..model import Problem
from ..rulebook import ActionSpec
from ..telling.payloads import read_payload
from ..telling.shapes import SHAPES
from . import ActionRequest, ActionResponse, HandlerResources, failed, unusable
from .geo import NotLocatableError, locate, public_address

log = logging.getLogger(__name__)

_LOOK_EVERY = 1.0  # seconds between two looks at the file
_UNAVAILABLE = "the location of addresses is not available"
_UNREADABLE = (OSError, maxminddb.InvalidDatabaseError, ValueError)

_Version = tuple[int, int, int]  # inode, size, nanosecond of the last change


class IpLocationHandler:
    """Answers from the database as it was at the last look."""

    def __init__(self, spec: ActionSpec, resources: HandlerResources) -> None:
        self._path = Path(spec.options["database"])
        self._key = spec.key
        self._up = resources.metrics.databases.labels(spec.key)
        self._reader: maxminddb.Reader | None = None
        self._version: _Version | None = None
        self._looked = time.monotonic()
        self._reopening: asyncio.Task[None] | None = None
        self._complained = ""
        self._use(*_read(self._path))

    def answer(self, request: ActionRequest) -> ActionResponse:
        if time.monotonic() - self._looked > _LOOK_EVERY:
            self._check_for_update()
        try:
            payload = read_payload(request.payload, SHAPES["iplocation"])
            address = public_address(payload["ipaddr"])
        except (UndecodableError, NotLocatableError) as error:
            return failed(str(error))
        if self._reader is None:
            return failed(_UNAVAILABLE, f"{self._path}: {self._complained}")
        try:
            return ActionResponse(payload=locate(self._reader, address, payload["locale"]))
        except _UNREADABLE as error:
            return failed(_UNAVAILABLE, f"{self._path}: {error}")

    async def close(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
        if self._reader is not None:
            self._reader.close()

    def _check_for_update(self) -> None:
        """Have the file read again, beside the requests, when it is not what it was."""
        self._looked = time.monotonic()
        if self._reopening is None and _version(self._path) != self._version:
            self._reopening = asyncio.create_task(self._reopen(), name=f"database {self._key}")

    async def _reopen(self) -> None:
        try:
            self._use(*await asyncio.to_thread(_read, self._path))
        finally:
            self._reopening = None

    def _use(self, version: _Version | None, reader: maxminddb.Reader | None, trouble: str) -> None:
        """Use ``reader``; without one, go on with the last that could be read."""
        self._version, self._complained = version, trouble
        self._up.set(0 if reader is None else 1)
        if reader is None:
            log.warning("action %s: the database cannot be read: %s: %s", self._key, self._path, trouble)
            return
        if self._reader is not None:
            log.info("action %s: the database was opened anew", self._key)
            self._reader.close()
        self._reader = reader


def open_handler(spec: ActionSpec, resources: HandlerResources) -> IpLocationHandler:
    return IpLocationHandler(spec, resources)


def problems(spec: ActionSpec) -> Iterator[Problem]:
    """A database that cannot be read: the action will answer code 1 until it can.

    Where nobody has said which one, the default of the reference counting as nobody, it is no more
    than worth a word.
    """
    path = Path(spec.options["database"])
    _, reader, trouble = _read(path)
    if reader is None:
        severity = "info" if spec.options.get("database_by_default") else "warning"
        yield unusable(spec, f"the database cannot be read: {path}: {trouble}", severity)
    else:
        reader.close()


def _read(path: Path) -> tuple[_Version | None, maxminddb.Reader | None, str]:
    """The version of the file, a reader of a copy of it, and what kept it from being read."""
    version = _version(path)
    try:
        return version, _open(path.read_bytes()), ""
    except _UNREADABLE as error:
        trouble = error.strerror if isinstance(error, OSError) and error.strerror else "no MaxMind database"
        return version, None, trouble


def _open(data: bytes) -> maxminddb.Reader:
    with tempfile.NamedTemporaryFile(prefix="mss-geo-") as copy:
        copy.write(data)
        copy.flush()
        reader: Any = maxminddb.open_database(copy.name)  # what it has mapped outlives the name
    reader.get("192.0.2.1")
    return reader  # type: ignore[no-any-return]


def _version(path: Path) -> _Version | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
