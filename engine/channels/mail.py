"""A delivery as a mail: bytes with CRLF line ends and nothing beyond ASCII but addresses.

The head is written here, line by line: the standard library's header parser would decode and fold
what payloads bring, and has more than once let a line break through.
"""

from __future__ import annotations

import re
import unicodedata
from binascii import b2a_base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.header import Header
from email.utils import format_datetime
from functools import lru_cache

from ..addresses import Mailbox
from ..model import Message
from . import mime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_HEADER_LINE_LENGTH = 76  # characters
_MAX_WORD_LENGTH = 60  # characters; a longer one cannot be folded, so it is encoded
_ENCODED_BYTES = 39  # in one encoded word: 52 characters, beside the longest field's name
_UNFIT_FOR_ID = re.compile(r"[^A-Za-z0-9._-]")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class MailMessage:
    """A mail before it is bytes. Every address in it is seen by every reader."""

    id: str  # what stands before the @ of the Message-ID
    domain: str  # and after it
    created: int  # microseconds since the epoch; the Date, the same at every attempt
    sender: Mailbox
    to: Mailbox
    cc: tuple[Mailbox, ...] = ()
    reply_to: tuple[Mailbox, ...] = ()
    subject: str
    message: Message


def compose(letter: MailMessage) -> bytes:
    """The whole mail, ready for DATA but for the dots."""
    return _head(letter) + mime.body(letter.message)


def with_prefix(prefix: str, subject: str) -> str:
    """Both on one line with one space between, whether or not the prefix ends in one."""
    return f"{_one_line(prefix)} {_one_line(subject)}".strip()


def _head(letter: MailMessage) -> bytes:
    message_id = _UNFIT_FOR_ID.sub("", letter.id)
    fields = [
        ("From", _mailboxes((letter.sender,))),
        ("To", _mailboxes((letter.to,))),
        ("Cc", _mailboxes(letter.cc)),
        ("Reply-To", _mailboxes(letter.reply_to)),
        ("Subject", _header_text("Subject", letter.subject)),
        ("Date", _date(letter.created // 1_000_000)),
        ("Message-ID", f"<{message_id}@{letter.domain}>"),
        ("Auto-Submitted", "auto-generated"),
    ]
    return "".join(f"{name}: {value}\r\n" for name, value in fields if value).encode()


@lru_cache(maxsize=256)
def _date(second: int) -> str:
    return format_datetime(_EPOCH + timedelta(seconds=second))


def _mailboxes(mailboxes: tuple[Mailbox, ...]) -> str:
    """Each on a line of its own, so that no line is too long however many there are."""
    return ",\r\n ".join(_mailbox(mailbox) for mailbox in mailboxes)


@lru_cache(maxsize=1024)  # the sender is nearly always the same
def _mailbox(mailbox: Mailbox) -> str:
    name = _one_line(mailbox.name)
    if not name:
        return mailbox.address
    if not _is_plain(name):
        name = _encoded(name)
    elif not _ATOMS.fullmatch(name):
        name = '"' + name.replace("\\", r"\\").replace('"', r"\"") + '"'
    return f"{name} <{mailbox.address}>"


def _header_text(field: str, text: str) -> str:
    text = _one_line(text)
    if not _is_plain(text):
        return _encoded(text)
    if len(field) + len(text) < _MAX_HEADER_LINE_LENGTH:
        return text
    return Header(text, "us-ascii", header_name=field).encode(linesep="\r\n")


def _encoded(text: str) -> str:
    """Encoded words of RFC 2047, each of whole characters and on a line of its own."""
    words, word = [], b""
    for character in text:
        encoded = character.encode()
        if len(word) + len(encoded) > _ENCODED_BYTES:
            words.append(word)
            word = b""
        word += encoded
    return "\r\n ".join(f"=?utf-8?b?{b2a_base64(each, newline=False).decode()}?=" for each in (*words, word))


def _is_plain(text: str) -> bool:
    """Whether readers see ``text`` as it is: they would decode what looks like an encoded word."""
    return text.isascii() and "=?" not in text and all(len(word) <= _MAX_WORD_LENGTH for word in text.split())


def _one_line(text: str) -> str:
    """``text`` without line breaks and control characters: it cannot become a second header."""
    if text.isprintable():
        return " ".join(text.split())
    printable = (c if unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") else " " for c in text)
    return " ".join("".join(printable).split())
