"""Email addresses and phone numbers, parsed strictly enough to go into a header.

The parsers take any text that an application sends, and never raise.
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

# Exceptions of the standard library's parser for text that it cannot parse.
_UNPARSABLE = (
    errors.MessageError,
    ValueError,
    IndexError,
    KeyError,
    AttributeError,
    TypeError,
    RecursionError,
)
# Python 3.13 and later report a local part that is not ASCII as a defect. RFC 6531 allows it.
_INTERNATIONAL = tuple(filter(None, [getattr(errors, "NonASCIILocalPartDefect", None)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailbox:
    """One mail address, with or without the name of its owner."""

    name: str = ""  # decoded text
    address: str  # local@domain, the local part in quotes if it needs them

    def __str__(self) -> str:
        """Return the mailbox as a header shows it. ``parse_mailbox`` reads it."""
        return str(Address(display_name=self.name, addr_spec=self.address)) if self.name else self.address

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2]

    @property
    def in_ascii(self) -> Mailbox:
        """The same mailbox with its domain as ``xn--``, which every mail server accepts.

        It is unchanged if the encoding could lead to another domain. It is also unchanged if the local part
        is not ASCII: such an address needs a server with SMTPUTF8 anyway.
        """
        local, _, domain = self.address.rpartition("@")
        if domain.isascii() or not local.isascii():
            return self
        try:
            encoded = domain.encode("idna")
            if encoded.decode("idna") != unicodedata.normalize("NFC", domain).lower():
                return self  # IDNA 2003 replaces some characters, such as ß
        except UnicodeError:
            return self
        return Mailbox(name=self.name, address=f"{local}@{encoded.decode('ascii')}")


@lru_cache(maxsize=4096)  # an address is parsed when its mail is planned, and again when it is sent
def parse_mailbox(text: str) -> Mailbox | None:
    """Return the mailbox in ``text``, ``a@b.example`` or ``Name <a@b.example>``; None if it is not one."""
    text = text.strip(" ")
    if not text or len(text) > _MAX_TEXT_LENGTH:
        return None
    if _PLAIN.fullmatch(text):
        return Mailbox(address=text) if _fits(text) else None
    if not _printable(text):
        return None
    name, address = _parsed(text)
    # The parser skips comments, routes and extra spaces. An address with one of them is refused.
    written = text[text.rindex("<") + 1 : -1] if text.endswith(">") and "<" in text else text
    if written != address and not written.startswith('"'):
        return None
    if not _fits(address) or not _printable(address + name):
        return None
    return Mailbox(name=_never_encoded(name), address=address)


def parse_phone(text: str) -> str | None:
    """Return the digits of a phone number, after its ``+`` if it has one; None if it is not a number."""
    compact = _PHONE_FILLING.sub("", text) if len(text) <= _MAX_TEXT_LENGTH else ""
    return compact if _DIGITS.fullmatch(compact) else None


def _parsed(text: str) -> tuple[str, str]:
    """Return the name and the address in ``text``; both are empty if the library finds a defect."""
    try:
        header = _policy.header_factory("to", text)
        (group,) = header.groups
        (found,) = group.addresses
        name, address = found.display_name, found.addr_spec
    except _UNPARSABLE:
        return "", ""
    # RFC 5322 calls a full stop in a name, as in J. Doe, obsolete; it is common.
    harmless: tuple[type[Exception], ...] = (
        *_INTERNATIONAL,
        *([errors.ObsoleteHeaderDefect] if "." in name else []),
    )
    valid = group.display_name is None and all(isinstance(defect, harmless) for defect in header.defects)
    return (name, address) if valid else ("", "")


def _printable(text: str) -> bool:
    """Return whether ``text`` has no line ends, control characters or surrogates."""
    return not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)


def _never_encoded(name: str) -> str:
    """Return ``name`` in a form that no mail reader decodes: the decoded text would be unchecked."""
    return " ".join(name.replace("=?", "= ?").split())


def _fits(address: str) -> bool:
    """Return whether ``address`` has a local part and a valid domain, both within their limits."""
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
    """Return the address of the given kind in the form that channels use; None if it is invalid."""
    if kind == "email":
        mailbox = parse_mailbox(text)
        return None if mailbox is None else str(mailbox)
    if kind == "phone":
        return parse_phone(text)
    return text if text.isprintable() else None
