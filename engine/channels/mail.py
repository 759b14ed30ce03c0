"""A delivery as a mail: bytes with CRLF line ends and nothing beyond ASCII but addresses.

The head is written here, line by line, and the library makes the body: its own header parser would
decode and fold what payloads bring, and has more than once let a line break through.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from urllib.parse import quote

from ..addresses import Mailbox
from ..model import Inline, Message

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_POLICY = SMTP.clone(cte_type="7bit")  # no server needs 8BITMIME then
_LONGEST_WORD = 60  # characters; a longer one cannot be folded, so it is encoded
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+", re.ASCII)
_MEDIA_TYPE = re.compile(r"([a-z0-9]+)/([a-z0-9.+-]+)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
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


def compose(letter: Letter) -> bytes:
    """The whole mail, ready for DATA but for the dots."""
    return _head(letter) + _body(letter.message)


def with_prefix(prefix: str, subject: str) -> str:
    """Both on one line with one space between, whether or not the prefix ends in one."""
    return f"{_one_line(prefix)} {_one_line(subject)}".strip()


def _head(letter: Letter) -> bytes:
    message_id = re.sub(r"[^A-Za-z0-9._-]", "", letter.id)
    date = _EPOCH + timedelta(microseconds=letter.created)
    fields = [
        ("From", _mailboxes("From", (letter.sender,))),
        ("To", _mailboxes("To", (letter.to,))),
        ("Cc", _mailboxes("Cc", letter.cc)),
        ("Reply-To", _mailboxes("Reply-To", letter.reply_to)),
        ("Subject", _words("Subject", letter.subject)),
        ("Date", format_datetime(date)),
        ("Message-ID", f"<{message_id}@{letter.domain}>"),
        ("Auto-Submitted", "auto-generated"),
    ]
    return "".join(f"{name}: {value}\r\n" for name, value in fields if value).encode()


def _mailboxes(field: str, mailboxes: tuple[Mailbox, ...]) -> str:
    """Each on a line of its own, so that no line is too long however many there are."""
    return ",\r\n ".join(_mailbox(field, mailbox) for mailbox in mailboxes)


def _mailbox(field: str, mailbox: Mailbox) -> str:
    name = _one_line(mailbox.name)
    if not name:
        return mailbox.address
    if not _is_plain(name):
        name = _encoded(field, name)
    elif not _ATOMS.fullmatch(name):
        name = '"' + name.replace("\\", r"\\").replace('"', r"\"") + '"'
    return f"{name} <{mailbox.address}>"


def _words(field: str, text: str) -> str:
    text = _one_line(text)
    if not _is_plain(text):
        return _encoded(field, text)
    return Header(text, "us-ascii", header_name=field).encode(linesep="\r\n")


def _encoded(field: str, text: str) -> str:
    return Header(text, "utf-8", header_name=field).encode(linesep="\r\n")


def _is_plain(text: str) -> bool:
    """Whether readers see ``text`` as it is: they would decode what looks like an encoded word."""
    return text.isascii() and "=?" not in text and all(len(word) <= _LONGEST_WORD for word in text.split())


def _one_line(text: str) -> str:
    """``text`` without line breaks and control characters: it cannot become a second header."""
    printable = (c if unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") else " " for c in text)
    return " ".join("".join(printable).split())


def _body(message: Message) -> bytes:
    """The MIME headers and what follows: text, HTML or both; pictures belong to the HTML."""
    mail = EmailMessage(policy=_POLICY)
    html = mail
    if message.text or not message.html:
        mail.set_content(_storable(message.text))
        if message.html:
            mail.add_alternative(_storable(message.html), subtype="html")
            html = mail.get_payload(1)  # type: ignore[assignment]  # a part of an EmailMessage is one too
    else:
        mail.set_content(_storable(message.html), subtype="html")
    if message.html:
        for picture in message.inline:
            _add_picture(html, picture)
    if "MIME-Version" not in mail:
        mail["MIME-Version"] = "1.0"
    return mail.as_bytes()


def _add_picture(html: EmailMessage, picture: Inline) -> None:
    found = _MEDIA_TYPE.fullmatch(picture.media_type)
    maintype, subtype = found.groups() if found else ("application", "octet-stream")
    name = quote(picture.name, safe="!$&'*+-./=^_`{|}~@")
    html.add_related(
        picture.data, maintype=maintype, subtype=subtype, cid=f"<{name}>", disposition="inline", filename=name
    )


def _storable(text: str) -> str:
    """``text`` without NUL and halves of characters, which no mail can carry."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()
