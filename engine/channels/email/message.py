"""A delivery as a mail: MIME bytes with CRLF line ends, ASCII apart from addresses.

The headers are written here, line by line: the header parser of the standard library decodes and folds
values from a payload, and has more than once let a line break through. The MIME parts are written here too:
the library's policies parse each header that they have just made, which took longer than all other work on
a mail.
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
_ENCODED_BYTES = 39  # in one encoded word: 52 characters, beside the longest field's name
_UNFIT_FOR_ID = re.compile(r"[^A-Za-z0-9._-]")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+", re.ASCII)

_MAX_BODY_LINE_LENGTH = 76  # characters
_LEGIBLE = 1.5  # times as long as the words themselves: quoted words beyond that nobody can read
_REMEMBERED = 32  # messages, as many recipients of one event get the same; and pictures
_MEDIA_TYPE = re.compile(r"[a-z0-9]+/[a-z0-9.+-]+", re.ASCII | re.IGNORECASE)


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
    return _head(letter) + body(letter.message)


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
    return format_datetime(EPOCH + timedelta(seconds=second))


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


@lru_cache(maxsize=_REMEMBERED)
def body(message: Message) -> bytes:
    """The MIME headers, an empty line and what follows; ASCII, with CRLF line ends."""
    if not message.html:
        part = _text_part("plain", message.text)
    else:
        part = _text_part("html", message.html)
        if message.inline:
            part = _multipart("related", [part, *(_picture(each) for each in message.inline)])
        if message.text:
            part = _multipart("alternative", [_text_part("plain", message.text), part])
    return b"MIME-Version: 1.0\r\n" + part


def _text_part(subtype: str, text: str) -> bytes:
    """A part of text, encoded as little as it can be, so that a person can read it raw."""
    # NUL and halves of characters are in no mail.
    data = _with_line_ends(text.replace("\0", "")).encode("utf-8", "replace")
    if not data.endswith(b"\r\n"):
        data += b"\r\n"
    if data.isascii() and max(map(len, data.split(b"\r\n"))) <= _MAX_BODY_LINE_LENGTH:
        encoding, encoded = "7bit", data
    else:
        encoding, encoded = "quoted-printable", binascii.b2a_qp(data, istext=True)
        if len(encoded) > _LEGIBLE * len(data):
            encoding, encoded = "base64", _base64(data)
    head = f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n'
    return head.encode() + encoded


def _with_line_ends(text: str) -> str:
    """``text`` with CRLF at the end of each line, whatever stood there."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")


@lru_cache(maxsize=_REMEMBERED)  # every mail of a template has the same
def _picture(picture: Inline) -> bytes:
    media_type = (
        picture.media_type if _MEDIA_TYPE.fullmatch(picture.media_type) else "application/octet-stream"
    )
    name = quote(picture.name, safe="!$&'*+-./=^_`{|}~@")
    head = (
        f"Content-Type: {media_type}\r\nContent-Transfer-Encoding: base64\r\n"
        f'Content-ID: <{name}>\r\nContent-Disposition: inline; filename="{name}"\r\n\r\n'
    )
    return head.encode() + _base64(picture.data)


def _multipart(subtype: str, parts: list[bytes]) -> bytes:
    """Parts between boundaries that are in none of them, as they are derived from all of them."""
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
