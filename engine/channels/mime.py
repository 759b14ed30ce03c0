"""The words of a message as MIME: text, HTML or both, and pictures that belong to the HTML.

Written here and not by the standard library, whose policies parse every header that they have just
made: that took longer than all the rest of a mail's way through this process.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from functools import lru_cache
from urllib.parse import quote

from ..model import Inline, Message

_MAX_BODY_LINE_LENGTH = 76  # characters
_LEGIBLE = 1.5  # times as long as the words themselves: quoted words beyond that nobody can read
_REMEMBERED = 32  # messages, as many recipients of one event get the same; and pictures
_MEDIA_TYPE = re.compile(r"[a-z0-9]+/[a-z0-9.+-]+", re.ASCII | re.IGNORECASE)


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
