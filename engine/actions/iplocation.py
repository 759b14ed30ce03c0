"""Handler: look an IP address up in a MaxMind database, which is reopened when it is replaced.

MSS maps a copy of the database: if the mapped file were overwritten in place, a lookup could crash the
process. Replies have the original server's text.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import maxminddb

from ..model.errors import UndecodableError
from ..model.problems import Problem
from ..planning.requests import SHAPES, ActionRequest, ActionResponse, failed, read_payload
from ..rules.rulebook import ActionSpec
from . import HandlerResources, unusable

log = logging.getLogger(__name__)

CHECK_INTERVAL = 1.0  # seconds between two checks of the file
_UNAVAILABLE = "the location of addresses is not available"
_UNREADABLE = (OSError, maxminddb.InvalidDatabaseError, ValueError)

_Version = tuple[int, int, int]  # inode, size, nanosecond of the last change

_MAX_ADDRESS_LENGTH = 100  # characters of the requested address, in a message
_ENGLISH = "en"


class IpLocationHandler:
    """A lookup in the database as it was at the last check."""

    def __init__(self, spec: ActionSpec, resources: HandlerResources) -> None:
        self._path = Path(spec.options["database"])
        self._key = spec.key
        self._readable = resources.metrics.databases.labels(spec.key)
        self._reader: maxminddb.Reader | None = None
        self._version: _Version | None = None
        self._checked = time.monotonic()
        self._reopening: asyncio.Task[None] | None = None
        self._trouble = ""
        self._use(*_read(self._path))

    def answer(self, request: ActionRequest) -> ActionResponse:
        if time.monotonic() - self._checked > CHECK_INTERVAL:
            self._check_for_update()
        try:
            payload = read_payload(request.payload, SHAPES["iplocation"])
            address = public_address(payload["ipaddr"])
        except (UndecodableError, NotLocatableError) as error:
            return failed(str(error))
        if self._reader is None:
            return failed(_UNAVAILABLE, f"{self._path}: {self._trouble}")
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
        """Reload the file in a thread if it has changed."""
        self._checked = time.monotonic()
        if self._reopening is None and _version(self._path) != self._version:
            self._reopening = asyncio.create_task(self._reopen(), name=f"database {self._key}")

    async def _reopen(self) -> None:
        try:
            self._use(*await asyncio.to_thread(_read, self._path))
        finally:
            self._reopening = None

    def _use(self, version: _Version | None, reader: maxminddb.Reader | None, trouble: str) -> None:
        """Use ``reader``; without one, keep the last database that could be read."""
        self._version, self._trouble = version, trouble
        self._readable.set(0 if reader is None else 1)
        if reader is None:
            log.warning("action %s: the database cannot be read: %s: %s", self._key, self._path, trouble)
            return
        if self._reader is not None:
            log.info("action %s: the database was reloaded", self._key)
            self._reader.close()
        self._reader = reader


open_handler = IpLocationHandler


def problems(spec: ActionSpec) -> Iterator[Problem]:
    """Yield a problem if the database cannot be read: the action replies with code 1 until it can.

    It is only info if no policy and no environment variable names the database.
    """
    path = Path(spec.options["database"])
    _, reader, trouble = _read(path)
    if reader is None:
        severity = "info" if spec.options.get("database_by_default") else "warning"
        yield unusable(spec, f"the database cannot be read: {path}: {trouble}", severity)
    else:
        reader.close()


def _read(path: Path) -> tuple[_Version | None, maxminddb.Reader | None, str]:
    """Return the version of the file, a reader of a copy of it, and the reason if it cannot be read."""
    version = _version(path)
    try:
        return version, _open(path.read_bytes()), ""
    except _UNREADABLE as error:
        trouble = (
            error.strerror if isinstance(error, OSError) and error.strerror else "not a MaxMind database"
        )
        return version, None, trouble


def _open(data: bytes) -> maxminddb.Reader:
    with tempfile.NamedTemporaryFile(prefix="mss-geo-") as copy:
        copy.write(data)
        copy.flush()
        reader: Any = maxminddb.open_database(copy.name)  # the mapping outlives the name
    reader.get("192.0.2.1")
    return reader  # type: ignore[no-any-return]


def _version(path: Path) -> _Version | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _ranges(*networks: str) -> tuple[tuple[int, int], ...]:
    """Return the first and last address of each as numbers: ten times as fast as the library's tests."""
    known = map(ipaddress.ip_network, networks)
    return tuple((int(network.network_address), int(network.broadcast_address)) for network in known)


# By version of the address: the kind of the addresses, and their ranges.
_UNLOCATABLE = {
    4: (
        ("loopback", _ranges("127.0.0.0/8")),
        ("private", _ranges("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")),
        ("multicast", _ranges("224.0.0.0/4")),
    ),
    6: (
        ("loopback", _ranges("::1/128")),
        ("private", _ranges("fc00::/7")),
        ("multicast", _ranges("ff00::/8")),
    ),
}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Database(Protocol):
    """The methods of a ``maxminddb`` reader that a lookup needs."""

    def get(self, ip_address: Address) -> Any: ...


class NotLocatableError(ValueError):
    """An address that no database has; the text is for the caller."""


def public_address(text: str) -> Address:
    """Parse ``text``; an IPv4-mapped address becomes IPv4. Raises NotLocatableError."""
    shown = text[:_MAX_ADDRESS_LENGTH]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise NotLocatableError(f"parse ip({shown}) error") from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise NotLocatableError(f"parse ip({shown}) error")
        address = address.ipv4_mapped or address
    number = int(address)
    for name, ranges in _UNLOCATABLE[address.version]:
        for first, last in ranges:
            if first <= number <= last:
                raise NotLocatableError(f"ip({shown}) is a {name} address")
    return address


def locate(database: Database, address: Address, locale: str) -> dict[str, Any]:
    """Return the payload of the reply; a value that the database does not know is ``""`` or 0.

    A ``locale`` that the database does not have means English.
    """
    try:
        record = _mapping(database.get(address))
    except ValueError:  # an IPv6 address in a database of IPv4 only
        record = {}
    location = _mapping(record.get("location"))
    return {
        "continent": _name(record.get("continent"), locale),
        "country": _name(record.get("country"), locale),
        "city": _name(record.get("city"), locale),
        "longitude": _number(location.get("longitude")),
        "latitude": _number(location.get("latitude")),
        "timezone": _text(location.get("time_zone")),
    }


def _name(value: Any, locale: str) -> str:
    names = _mapping(_mapping(value).get("names"))
    return _text(names.get(locale)) or _text(names.get(_ENGLISH))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float:
    """Return the number as Go writes it: a whole number without a fraction."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if float(value).is_integer() else value
