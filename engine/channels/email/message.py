"""A delivery as a mail: MIME bytes with CRLF line ends, ASCII apart from addresses.

This module writes the headers itself: the header parser of the standard library decodes and folds values
from a payload, and has more than once let a line break through. It writes the MIME parts itself too: the
library's policies parse each header that they have just made, which takes longer than all other work on a
mail.
"""

from __future__ import annotations

import binascii
import hashlib
import re
import unicodedata
from binascii import b2a_base64
from dataclasses import dataclass
from datetime import timedelta
from email.header import Header
from email.utils import format_datetime
from functools import lru_cache
from urllib.parse import quote

from ...model.addresses import Mailbox
from ...model.messages import Inline, Message
from ...model.times import EPOCH

_MAX_HEADER_LINE_LENGTH = 76  # characters
_MAX_WORD_LENGTH = 60  # characters; a longer one cannot be folded, so it is encoded
_ENCODED_BYTES = 39  # in one encoded word: 52 characters, which fit after the longest field name
_UNFIT_FOR_ID = re.compile(r"[^A-Za-z0-9._-]")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+", re.ASCII)

_MAX_BODY_LINE_LENGTH = 76  # characters
_MAX_QUOTED_GROWTH = 1.5  # times the text; longer quoted-printable is not readable any more
_CACHE_SIZE = 32  # messages, since many recipients of one event get the same; and images
_MEDIA_TYPE = re.compile(r"[a-z0-9]+/[a-z0-9.+-]+", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class MailMessage:
    """A mail before it is encoded. Every reader sees every address in it."""

    id: str  # before the @ of the Message-ID
    domain: str  # after it
    created: int  # microseconds since the epoch; the Date, the same at every attempt
    sender: Mailbox
    to: Mailbox
    cc: tuple[Mailbox, ...] = ()
    reply_to: tuple[Mailbox, ...] = ()
    subject: str
    message: Message


def compose(mail: MailMessage) -> bytes:
    """Return the whole mail, ready for DATA except for dot-stuffing."""
    return _head(mail) + body(mail.message)


def with_prefix(prefix: str, subject: str) -> str:
    """Return both on one line, with one space between them even if the prefix ends in one."""
    return f"{_one_line(prefix)} {_one_line(subject)}".strip()


def _head(mail: MailMessage) -> bytes:
    message_id = _UNFIT_FOR_ID.sub("", mail.id)
    fields = [
        ("From", _mailboxes((mail.sender,))),
        ("To", _mailboxes((mail.to,))),
        ("Cc", _mailboxes(mail.cc)),
        ("Reply-To", _mailboxes(mail.reply_to)),
        ("Subject", _header_text("Subject", mail.subject)),
        ("Date", _date(mail.created // 1_000_000)),
        ("Message-ID", f"<{message_id}@{mail.domain}>"),
        ("Auto-Submitted", "auto-generated"),
    ]
    return "".join(f"{name}: {value}\r\n" for name, value in fields if value).encode()


@lru_cache(maxsize=256)
def _date(second: int) -> str:
    return format_datetime(EPOCH + timedelta(seconds=second))


def _mailboxes(mailboxes: tuple[Mailbox, ...]) -> str:
    """Return each mailbox on a separate line, so that no line is too long."""
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
    """Return ``text`` encoded as in RFC 2047: chunks of whole characters, each on a separate line."""
    chunks, chunk = [], b""
    for character in text:
        encoded = character.encode()
        if len(chunk) + len(encoded) > _ENCODED_BYTES:
            chunks.append(chunk)
            chunk = b""
        chunk += encoded
    return "\r\n ".join(
        f"=?utf-8?b?{b2a_base64(each, newline=False).decode()}?=" for each in (*chunks, chunk)
    )


def _is_plain(text: str) -> bool:
    """Return whether mail programs show ``text`` unchanged: they decode anything like an encoded word."""
    return text.isascii() and "=?" not in text and all(len(word) <= _MAX_WORD_LENGTH for word in text.split())


def _one_line(text: str) -> str:
    """Return ``text`` without line breaks and control characters: it cannot become a second header."""
    if text.isprintable():
        return " ".join(text.split())
    printable = (c if unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") else " " for c in text)
    return " ".join("".join(printable).split())


@lru_cache(maxsize=_CACHE_SIZE)
def body(message: Message) -> bytes:
    """Return the MIME headers, an empty line and the parts; ASCII, with CRLF line ends."""
    if not message.html:
        part = _text_part("plain", message.text)
    else:
        part = _text_part("html", message.html)
        if message.inline:
            part = _multipart("related", [part, *(_image(each) for each in message.inline)])
        if message.text:
            part = _multipart("alternative", [_text_part("plain", message.text), part])
    return b"MIME-Version: 1.0\r\n" + part


def _text_part(subtype: str, text: str) -> bytes:
    """Return a part with text, encoded as little as possible, so that people can read its source."""
    # A mail cannot contain NUL and lone surrogates.
    data = _with_line_ends(text.replace("\0", "")).encode("utf-8", "replace")
    if not data.endswith(b"\r\n"):
        data += b"\r\n"
    if data.isascii() and max(map(len, data.split(b"\r\n"))) <= _MAX_BODY_LINE_LENGTH:
        encoding, encoded = "7bit", data
    else:
        encoding, encoded = "quoted-printable", binascii.b2a_qp(data, istext=True)
        if len(encoded) > _MAX_QUOTED_GROWTH * len(data):
            encoding, encoded = "base64", _base64(data)
    head = f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n'
    return head.encode() + encoded


def _with_line_ends(text: str) -> str:
    """Return ``text`` with CRLF at the end of each line."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")


@lru_cache(maxsize=_CACHE_SIZE)  # every mail of a template has the same images
def _image(image: Inline) -> bytes:
    media_type = image.media_type if _MEDIA_TYPE.fullmatch(image.media_type) else "application/octet-stream"
    name = quote(image.name, safe="!$&'*+-./=^_`{|}~@")
    head = (
        f"Content-Type: {media_type}\r\nContent-Transfer-Encoding: base64\r\n"
        f'Content-ID: <{name}>\r\nContent-Disposition: inline; filename="{name}"\r\n\r\n'
    )
    return head.encode() + _base64(image.data)


def _multipart(subtype: str, parts: list[bytes]) -> bytes:
    """Return ``parts`` between boundaries. The boundary is a hash of all parts, so no part contains it."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    boundary = f"=_{digest.hexdigest()}"
    between = f"--{boundary}\r\n".encode()
    head = f'Content-Type: multipart/{subtype}; boundary="{boundary}"\r\n\r\n'.encode()
    # The line end before a boundary belongs to the boundary.
    return head + b"".join(between + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()


def _base64(data: bytes) -> bytes:
    step = _MAX_BODY_LINE_LENGTH // 4 * 3
    lines = (binascii.b2a_base64(data[at : at + step], newline=False) for at in range(0, len(data), step))
    return b"".join(line + b"\r\n" for line in lines)
