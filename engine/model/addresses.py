"""Email addresses and phone numbers, parsed strictly enough to go into a header.

The parsers take text that an application sent, and never raise.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from email import errors
from email.headerregistry import Address
from email.policy import default as _policy
from functools import lru_cache

_MAX_TEXT_LENGTH = 512  # characters, name and address together
_MAX_LOCAL_LENGTH, _MAX_DOMAIN_LENGTH, _MAX_ADDRESS_LENGTH = 64, 253, 254  # octets, RFC 5321
_MAX_LABEL_LENGTH = 63  # octets of one part of a domain

# The common case, for which the full parser is a hundred times too slow.
_PLAIN = re.compile(r"[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9.-]+", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?", re.ASCII)
_DIGITS = re.compile(r"\+?[0-9]{4,15}", re.ASCII)
_PHONE_FILLING = re.compile(r"[ \u00a0().-]")

# What the library's parser raises on text that it cannot make sense of.
_UNPARSABLE = (
    errors.MessageError,
    ValueError,
    IndexError,
    KeyError,
    AttributeError,
    TypeError,
    RecursionError,
)
# Python 3.13 and later report it, and it is legal since RFC 6531.
_INTERNATIONAL = tuple(filter(None, [getattr(errors, "NonASCIILocalPartDefect", None)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailbox:
    """One mail address, perhaps with the name of who reads it."""

    name: str = ""  # in plain words, never encoded
    address: str  # local@domain, the local part quoted where it has to be

    def __str__(self) -> str:
        """On one line, as a header shows it; ``parse_mailbox`` reads it back."""
        return str(Address(display_name=self.name, addr_spec=self.address)) if self.name else self.address

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2]

    @property
    def in_ascii(self) -> Mailbox:
        """The same mailbox with its domain as ``xn--``, which every mail server takes.

        Unchanged where that could mean another domain, or where the local part is not ASCII anyway:
        such an address needs a server with SMTPUTF8.
        """
        local, _, domain = self.address.rpartition("@")
        if domain.isascii() or not local.isascii():
            return self
        try:
            encoded = domain.encode("idna")
            if encoded.decode("idna") != unicodedata.normalize("NFC", domain).lower():
                return self  # IDNA 2003 maps some letters away, such as ß
        except UnicodeError:
            return self
        return Mailbox(name=self.name, address=f"{local}@{encoded.decode('ascii')}")


@lru_cache(maxsize=4096)  # an address is looked at when its mail is planned, and when it is sent
def parse_mailbox(text: str) -> Mailbox | None:
    """The one mailbox that ``text`` is, ``a@b.example`` or ``Name <a@b.example>``; else None."""
    text = text.strip(" ")
    if not text or len(text) > _MAX_TEXT_LENGTH:
        return None
    if _PLAIN.fullmatch(text):
        return Mailbox(address=text) if _fits(text) else None
    if not _printable(text):
        return None
    name, address = _parsed(text)
    # The parser skips comments, routes and stray spaces; an address must be what was written.
    written = text[text.rindex("<") + 1 : -1] if text.endswith(">") and "<" in text else text
    if written != address and not written.startswith('"'):
        return None
    if not _fits(address) or not _printable(address + name):
        return None
    return Mailbox(name=_never_encoded(name), address=address)


def parse_phone(text: str) -> str | None:
    """The number without its spaces, dashes, dots and parentheses, ``+`` kept; None when it is none."""
    compact = _PHONE_FILLING.sub("", text) if len(text) <= _MAX_TEXT_LENGTH else ""
    return compact if _DIGITS.fullmatch(compact) else None


def _parsed(text: str) -> tuple[str, str]:
    """The name and the address that the library finds in ``text``; both empty unless it is flawless."""
    try:
        header = _policy.header_factory("to", text)
        (group,) = header.groups
        (found,) = group.addresses
        name, address = found.display_name, found.addr_spec
    except _UNPARSABLE:
        return "", ""
    # A full stop in a name, as in J. Doe, is obsolete only on paper.
    harmless: tuple[type[Exception], ...] = (
        *_INTERNATIONAL,
        *([errors.ObsoleteHeaderDefect] if "." in name else []),
    )
    flawless = group.display_name is None and all(isinstance(defect, harmless) for defect in header.defects)
    return (name, address) if flawless else ("", "")


def _printable(text: str) -> bool:
    """Whether nothing in it ends a line, controls a terminal or is half a character."""
    return not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)


def _never_encoded(name: str) -> str:
    """``name`` so that no reader decodes it once more: what comes out then was never checked."""
    return " ".join(name.replace("=?", "= ?").split())


def _fits(address: str) -> bool:
    """Whether both sides of the ``@`` are there, within bounds, and the domain is a domain."""
    local, _, domain = address.rpartition("@")
    if not local or len(_octets(local)) > _MAX_LOCAL_LENGTH or len(_octets(address)) > _MAX_ADDRESS_LENGTH:
        return False
    if len(_octets(domain)) > _MAX_DOMAIN_LENGTH:
        return False
    return all(_is_label(label) for label in domain.split("."))


def _is_label(label: str) -> bool:
    if len(_octets(label)) > _MAX_LABEL_LENGTH:
        return False
    if label.isascii():
        return _LABEL.fullmatch(label) is not None
    return all(
        c == "-" or unicodedata.category(c)[0] in "LMN" or c in "\u00b7\u30fb\u200c\u200d" for c in label
    )


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def usable_address(kind: str, text: str) -> str | None:
    """The address in the form a channel can use, or None where it is none."""
    if kind == "email":
        mailbox = parse_mailbox(text)
        return None if mailbox is None else str(mailbox)
    if kind == "phone":
        return parse_phone(text)
    return text if text.isprintable() else None
