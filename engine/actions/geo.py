"""Where an address is, from a MaxMind database, in the original's words. No clock and no network."""

from __future__ import annotations

import ipaddress
from typing import Any, Protocol

_MAX_ADDRESS_LENGTH = 100  # characters of what was asked, in a message
_ENGLISH = "en"


def _ranges(*networks: str) -> tuple[tuple[int, int], ...]:
    """First and last address of each, as numbers: the library's own tests take ten times as long."""
    known = map(ipaddress.ip_network, networks)
    return tuple((int(network.network_address), int(network.broadcast_address)) for network in known)


# By version of the address: what it is called, and which addresses are.
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
    """What is needed of a ``maxminddb`` reader."""

    def get(self, ip_address: Address) -> Any: ...


class NotLocatableError(ValueError):
    """An address that no database is asked for; the text is what the caller hears."""


def public_address(text: str) -> Address:
    """The address that ``text`` is; an IPv4-mapped one is IPv4. Raises NotLocatableError."""
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
    """The reply's payload; what the database does not know is ``""`` or 0.

    ``locale`` is one of the database's own, as written there; any other means English.
    """
    try:
        record = _mapping(database.get(address))
    except ValueError:  # an IPv6 address, and a database of IPv4 alone
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
    """As Go writes it: a whole number without a fraction."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if float(value).is_integer() else value
