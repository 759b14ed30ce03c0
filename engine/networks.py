"""IP addresses and networks, read as strictly as ``inet_pton`` does: no leading zeros, ports or zones.

An IPv6 address that stands for an IPv4 one (``::ffff:10.0.0.1``) is that IPv4 address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_OCTETS = {str(number): number for number in range(256)}
_BITS = {4: 32, 6: 128}
_MAPPED = 0xFFFF  # an IPv6 address above its last 32 bits, where those are an IPv4 address
_MAX_ADDRESS_LENGTH = 45  # characters of an address


@dataclass(frozen=True, slots=True)
class Network:
    """All addresses that begin with the same bits; a single one has all its bits fixed."""

    version: int  # 4 or 6
    bits: int  # how many are fixed
    number: int  # the first address

    def __str__(self) -> str:
        address = ipaddress.IPv4Address if self.version == 4 else ipaddress.IPv6Address
        return f"{address(self.number)}/{self.bits}"


def parse_address(text: str) -> tuple[int, int] | None:
    """Version (4 or 6) and number of the address that ``text`` is; None where it is none."""
    if len(text) > _MAX_ADDRESS_LENGTH:
        return None
    return _ipv6(text) if ":" in text else _ipv4(text)


def _ipv4(text: str) -> tuple[int, int] | None:
    try:
        first, second, third, fourth = text.split(".", 4)
        return 4, _OCTETS[first] << 24 | _OCTETS[second] << 16 | _OCTETS[third] << 8 | _OCTETS[fourth]
    except (KeyError, ValueError):  # 08 and 256 are no octets
        return None


def _ipv6(text: str) -> tuple[int, int] | None:
    if "%" in text:  # a zone, which ipaddress would take
        return None
    try:
        number = int(ipaddress.IPv6Address(text))
    except ValueError:
        return None
    return (4, number & 0xFFFFFFFF) if number >> 32 == _MAPPED else (6, number)


def parse_network(text: str) -> Network:
    """``10.0.0.0/8`` or a single address; ValueError, in words for operators, where it is neither."""
    written, slash, length = text.partition("/")
    address = parse_address(written)
    if address is None:
        raise ValueError(f"{text[:60]!r} is no network: write 10.0.0.0/8, 2001:db8::/32 or one address")
    version, number = address
    shown = 6 if ":" in written else 4  # what the length counts in, also where the address is mapped
    size = _BITS[shown]
    if not slash:
        bits = size
    elif length.isascii() and length.isdigit() and str(int(length[:4])) == length and int(length) <= size:
        bits = int(length)
    else:
        raise ValueError(f"{text[:60]!r}: after the slash stands a number of bits from 0 to {size}")
    if shown != version:
        if bits < 96:
            raise ValueError(
                f"{text[:60]!r} holds IPv4 addresses and others: write the IPv4 network, as 10.0.0.0/8"
            )
        bits -= 96
    network = Network(version, bits, number >> (_BITS[version] - bits) << (_BITS[version] - bits))
    if network.number != number:
        raise ValueError(f"{text[:60]!r} has bits set after the first {bits}: did you mean {network}?")
    return network


def within(networks: Iterable[Network]) -> Callable[[str], bool]:
    """Whether a text is an address in one of ``networks``: one look for each length, however many."""
    by_shift: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
    for network in networks:
        shift = _BITS[network.version] - network.bits
        by_shift[network.version].setdefault(shift, set()).add(network.number >> shift)
    tables = {version: tuple(table.items()) for version, table in by_shift.items()}

    def holds(text: str) -> bool:
        address = parse_address(text)
        if address is None:
            return False
        version, number = address
        for shift, numbers in tables[version]:  # noqa: SIM110 - half the time of any() over a generator
            if number >> shift in numbers:
                return True
        return False

    return holds
