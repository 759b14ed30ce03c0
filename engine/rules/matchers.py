"""Match text against networks (CIDR), wildcards and regular expressions, each in bounded time.

Addresses are parsed as strictly as by ``inet_pton``: no leading zeros, ports or zones. An IPv6 address that
maps an IPv4 address (``::ffff:10.0.0.1``) is that IPv4 address.

A wildcard pattern is matched by one scan from left to right: each part between two stars is searched after
the part before it, and the first match is as good as any later one. As a regular expression with ``.*`` the
same pattern could backtrack without end. Regular expressions run on RE2 in time linear in the text.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import re2

OCTETS = {str(number): number for number in range(256)}
_BITS = {4: 32, 6: 128}
_MAPPED = 0xFFFF  # the bits above the last 32 of an IPv6 address that maps an IPv4 address
_MAX_ADDRESS_LENGTH = 45  # characters of an address

MAX_WILDCARD_LENGTH = 1000  # characters of a pattern
MAX_REGEX_LENGTH = 1000  # characters of a pattern
MAX_REGEX_INSTRUCTIONS = 2000  # of the compiled pattern; at worst, each runs for each character of a text


@dataclass(frozen=True, slots=True)
class Network:
    """All addresses that begin with the same bits; for a single address, all bits."""

    version: int  # 4 or 6
    bits: int  # number of fixed bits
    number: int  # the first address

    def __str__(self) -> str:
        address = ipaddress.IPv4Address if self.version == 4 else ipaddress.IPv6Address
        return f"{address(self.number)}/{self.bits}"


def parse_address(text: str) -> tuple[int, int] | None:
    """Return version (4 or 6) and number of an address; None if ``text`` is no address."""
    if len(text) > _MAX_ADDRESS_LENGTH:
        return None
    return _ipv6(text) if ":" in text else _ipv4(text)


def _ipv4(text: str) -> tuple[int, int] | None:
    try:
        first, second, third, fourth = text.split(".", 4)
        return 4, OCTETS[first] << 24 | OCTETS[second] << 16 | OCTETS[third] << 8 | OCTETS[fourth]
    except (KeyError, ValueError):  # 08 and 256 are no octets
        return None


def _ipv6(text: str) -> tuple[int, int] | None:
    if "%" in text:  # a zone, which ipaddress would accept
        return None
    try:
        number = int(ipaddress.IPv6Address(text))
    except ValueError:
        return None
    return (4, number & 0xFFFFFFFF) if number >> 32 == _MAPPED else (6, number)


def parse_network(text: str) -> Network:
    """Parse ``10.0.0.0/8`` or a single address. Raise ValueError with a message for the author."""
    written, slash, length = text.partition("/")
    address = parse_address(written)
    if address is None:
        raise ValueError(f"{text[:60]!r} is no network: write 10.0.0.0/8, 2001:db8::/32 or one address")
    version, number = address
    shown = 6 if ":" in written else 4  # the length counts from there, also for a mapped address
    size = _BITS[shown]
    if not slash:
        bits = size
    elif length.isascii() and length.isdigit() and str(int(length[:4])) == length and int(length) <= size:
        bits = int(length)
    else:
        raise ValueError(f"{text[:60]!r}: the slash is followed by a number of bits from 0 to {size}")
    if shown != version:
        if bits < 96:
            raise ValueError(
                f"{text[:60]!r} contains IPv4 and other addresses: write the IPv4 network, such as 10.0.0.0/8"
            )
        bits -= 96
    network = Network(version, bits, number >> (_BITS[version] - bits) << (_BITS[version] - bits))
    if network.number != number:
        raise ValueError(f"{text[:60]!r} has bits set after the first {bits}: did you mean {network}?")
    return network


def within(networks: Iterable[Network]) -> Callable[[str], bool]:
    """Test whether a text is an address in one of ``networks``, with one look-up for each length."""
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


@dataclass(frozen=True, slots=True)
class _Segment:
    """The part of a pattern between two stars; it has a fixed length."""

    size: int  # characters
    matches_at: Callable[[str, int], object]  # at a position of a text
    find: Callable[[str, int, int], int]  # its first position between two positions of a text, or -1


def wildcard(pattern: str) -> Callable[[str], bool]:
    """Test whether a text matches ``pattern``. Raise ValueError with a message for the author."""
    parts = _split(pattern)
    texts = ["".join(filter(None, part)) for part in parts]
    if list(map(len, texts)) == list(map(len, parts)) and len(parts) > 1:
        return _of_literals(*texts)
    head, *middle = map(_segment, parts)
    if not middle:
        return lambda text: len(text) == head.size and bool(head.matches_at(text, 0))
    tail = middle.pop()
    middle = [segment for segment in middle if segment.size]

    def holds(text: str) -> bool:
        at, end = head.size, len(text) - tail.size
        if at > end or not head.matches_at(text, 0) or not tail.matches_at(text, end):
            return False
        for segment in middle:
            found = segment.find(text, at, end)
            if found < 0:
                return False
            at = found + segment.size
        return True

    return holds


def _of_literals(head: str, *rest: str) -> Callable[[str], bool]:
    """Match a pattern without question marks, given by its texts between the stars: twice as fast."""
    *middle, tail = rest
    middle = [part for part in middle if part]
    before, after = len(head), len(tail)
    shortest = before + after
    if len(middle) == 1 and not shortest:
        (part,) = middle
        return lambda text: part in text

    def holds(text: str) -> bool:
        if len(text) < shortest or not text.startswith(head) or not text.endswith(tail):
            return False
        at, end = before, len(text) - after
        for part in middle:
            at = text.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    return holds


def _split(pattern: str) -> list[list[str | None]]:
    """Return the characters between the stars, None for a question mark."""
    if len(pattern) > MAX_WILDCARD_LENGTH:
        raise ValueError(f"a pattern of {len(pattern):,} characters; at most {MAX_WILDCARD_LENGTH:,}")
    parts: list[list[str | None]] = [[]]
    chars = iter(pattern)
    for char in chars:
        if char == "*":
            parts.append([])
        elif char == "?":
            parts[-1].append(None)
        elif char == "\\":
            following = next(chars, "")
            if following not in ("*", "?", "\\"):
                raise ValueError(f"{pattern[:60]!r}: a backslash must be followed by *, ? or a backslash")
            parts[-1].append(following)
        else:
            parts[-1].append(char)
    return parts


def _segment(chars: list[str | None]) -> _Segment:
    literal = "".join(char for char in chars if char is not None)
    if len(literal) == len(chars):
        return _Segment(
            len(chars),
            lambda text, at: text.startswith(literal, at),
            lambda text, at, end: text.find(literal, at, end),
        )
    # It has no repetition, so it cannot backtrack.
    fixed = re.compile("".join("." if char is None else re.escape(char) for char in chars), re.DOTALL)

    def find(text: str, at: int, end: int) -> int:
        found = fixed.search(text, at, end)
        return found.start() if found else -1

    return _Segment(len(chars), fixed.match, find)


def regex(pattern: str, *, ignore_case: bool = False) -> Callable[[str], bool]:
    """Test whether ``pattern`` matches a whole text. Raise ValueError with a message for the author."""
    if len(pattern) > MAX_REGEX_LENGTH:
        raise ValueError(f"a pattern of {len(pattern):,} characters; at most {MAX_REGEX_LENGTH:,}")
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True  # captured groups would need a second, slower engine
    options.case_sensitive = not ignore_case
    try:
        compiled = re2.compile(pattern, options)
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair is no character") from None
    except re2.error as error:
        raise ValueError(f"{pattern[:60]!r}: {_describe_error(error)}") from None
    if compiled.programsize > MAX_REGEX_INSTRUCTIONS:
        raise ValueError(
            f"{pattern[:60]!r} is too large: {compiled.programsize:,} instructions, "
            f"at most {MAX_REGEX_INSTRUCTIONS:,}; "
            r"repetitions such as {1,500} and classes such as \pL make it large"
        )

    def holds(text: str) -> bool:
        try:
            encoded = text.encode()
        except UnicodeEncodeError:  # half a surrogate pair, which no pattern can match
            return False
        return compiled.fullmatch(encoded) is not None

    return holds


def _describe_error(error: Exception) -> str:
    """Return the message of RE2, with advice on features of other engines that RE2 lacks."""
    (raw,) = error.args
    complaint = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
    if complaint.startswith("invalid perl operator"):
        return f"{complaint}; there is no look-ahead or look-behind: add another condition"
    if complaint.startswith("invalid escape sequence"):
        return f"{complaint}; there are no back-references, and the pattern always matches the whole value"
    return complaint
