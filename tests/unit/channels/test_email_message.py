"""Composing a mail: the content for every reader, and no value of a payload as a header."""

from __future__ import annotations

import re
from dataclasses import replace
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.channels.email import message
from engine.channels.email.message import MailMessage, compose, with_prefix
from engine.model.addresses import Mailbox
from engine.model.messages import Inline, Message

PNG = Inline(name="logo.png", media_type="image/png", data=b"\x89PNG\r\n.\r\n\x00\xff")
MAIL = MailMessage(
    id="0123456789abcdef0123456789abcdef",
    domain="example.com",
    created=1_772_465_400_123_456,
    sender=Mailbox(name="KrossIAM", address="noreply@example.com"),
    to=Mailbox(name="B Two", address="b@x.test"),
    subject="Hello",
    message=Message(text="plain words\n"),
)
HEAD = ["From", "To", "Cc", "Reply-To", "Subject", "Date", "Message-ID", "Auto-Submitted"]
MIME = ["Content-Type", "Content-Transfer-Encoding", "MIME-Version"]
MANY = settings.default.max_examples // 2  # each example composes and parses a mail


def read(data: bytes) -> EmailMessage:
    message = message_from_bytes(data, policy=default)
    assert isinstance(message, EmailMessage)
    return message


def test_the_headers_are_the_same_at_every_attempt() -> None:
    mail = read(compose(MAIL))
    assert dict(mail.items()) == {
        "From": "KrossIAM <noreply@example.com>",
        "To": "B Two <b@x.test>",
        "Subject": "Hello",
        "Date": "Mon, 02 Mar 2026 15:30:00 +0000",
        "Message-ID": "<0123456789abcdef0123456789abcdef@example.com>",
        "Auto-Submitted": "auto-generated",
        "Content-Type": 'text/plain; charset="utf-8"',
        "Content-Transfer-Encoding": "7bit",
        "MIME-Version": "1.0",
    }
    assert compose(MAIL) == compose(MAIL)


def test_cc_and_reply_to_are_headers() -> None:
    others = (Mailbox(name="Doe, Jane", address="c@x.test"), Mailbox(name="张三", address="d@x.test"))
    mail = read(compose(replace(MAIL, cc=others, reply_to=(Mailbox(address="help@x.test"),))))
    assert [str(each) for each in mail["Cc"].addresses] == ['"Doe, Jane" <c@x.test>', "张三 <d@x.test>"]
    assert mail["Reply-To"] == "help@x.test"
    assert "Bcc" not in mail


def test_a_mail_has_text_and_html_and_the_images_belong_to_the_html() -> None:
    message = Message(text="plain", html='<img src="cid:logo.png">', inline=(PNG,))
    mail = read(compose(replace(MAIL, message=message)))
    assert mail.get_content_type() == "multipart/alternative"
    text, related = mail.iter_parts()
    assert text.get_content().strip() == "plain"
    assert related.get_content_type() == "multipart/related"
    html, picture = related.iter_parts()
    assert html.get_content_type() == "text/html"
    assert (picture["Content-ID"], picture.get_content_disposition()) == ("<logo.png>", "inline")
    assert picture.get_content() == PNG.data


def test_a_mail_with_html_only_or_without_content_is_valid() -> None:
    html = read(compose(replace(MAIL, message=Message(html="<p>x</p>"))))
    assert html.get_content_type() == "text/html"
    pictured = read(compose(replace(MAIL, message=Message(html="<p>x</p>", inline=(PNG,)))))
    assert pictured.get_content_type() == "multipart/related"
    assert pictured["MIME-Version"] == "1.0"
    assert read(compose(replace(MAIL, message=Message()))).get_content().strip() == ""


def test_an_image_with_an_invalid_type_is_still_attached() -> None:
    odd = Inline(name='a"\r\nX: y.png', media_type="image/png\r\nX-Evil: 1", data=b"x")
    data = compose(replace(MAIL, message=Message(html="<p>x</p>", inline=(odd,))))
    assert b"\r\nX" not in data


@pytest.mark.parametrize(
    "text",
    [
        "x" * 5000,
        "一二三" * 2000,
        "a\rb\nc\r\nd",
        ".\n..\n.x\n",
        "NUL\0 and half a character \ud800",
        "\u2028",
    ],
    ids=ascii,
)
def test_lines_are_short_ascii_and_end_in_crlf(text: str) -> None:
    data = compose(replace(MAIL, subject=text, message=Message(text=text, html=f"<p>{text}</p>")))
    assert data.isascii()
    assert data.endswith(b"\r\n")
    lines = data.split(b"\r\n")
    assert max(map(len, lines)) <= 998
    assert not any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines)


@pytest.mark.parametrize(
    "subject", ["验证您的邮箱 " * 20, "Déjà vu", "a" * 300, "two  words", "=?utf-8?q?x?=", "1: 2"]
)
def test_a_subject_is_decoded_as_it_was_written(subject: str) -> None:
    assert read(compose(replace(MAIL, subject=subject)))["Subject"] == " ".join(subject.split())


@pytest.mark.parametrize(
    ("prefix", "subject"),
    [("[K]", "x"), ("[K] ", "x"), ("[K]  ", " x")],
)
def test_one_space_follows_the_prefix(prefix: str, subject: str) -> None:
    assert with_prefix(prefix, subject) == "[K] x"


def test_a_prefix_or_a_subject_alone_has_no_space() -> None:
    assert with_prefix("", "x") == "x"
    assert with_prefix("[K] ", "") == "[K]"


EVIL = st.one_of(
    st.text(max_size=200),
    st.lists(
        st.sampled_from(
            [
                "\r\n",
                "\n",
                "\r",
                "Bcc: e@x.test",
                "=?utf-8?q?=0D=0ABcc:e=40x?=",
                "\u2028",
                "\x85",
                "\x0b",
                ",",
                '"',
                "\\",
                "é",
                " " * 40,
            ]
        ),
        max_size=12,
    ).map("".join),
)


@settings(max_examples=MANY)
@given(subject=EVIL, name=EVIL, id_=EVIL)
def test_no_value_becomes_another_header(subject: str, name: str, id_: str) -> None:
    person = Mailbox(name=name, address="b@x.test")
    data = compose(replace(MAIL, subject=subject, id=id_, to=person, cc=(person,), reply_to=(person,)))
    head = data.split(b"\r\n\r\n")[0].decode("ascii")
    names = [line.partition(":")[0] for line in head.split("\r\n") if line[:1] not in (" ", "\t")]
    assert set(names) <= {*HEAD, *MIME}
    assert len(names) == len(set(names))
    mail = read(data)
    for field in ("To", "Cc", "Reply-To"):
        assert [each.addr_spec for each in mail[field].addresses] == ["b@x.test"]


def test_an_address_outside_ascii_is_not_encoded() -> None:
    data = compose(replace(MAIL, to=Mailbox(name="用", address="用户@例子.广告")))
    assert "<用户@例子.广告>".encode() in data


@settings(max_examples=MANY)
@given(
    text=st.text(
        st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=300
    ),
    repeat=st.integers(1, 60),
)
@example(text="two  spaces at the end of a line  \n\t\n", repeat=1)
@example(text=".\n--=_x\nFrom me\n=3D=\n", repeat=1)
def test_the_text_is_decoded_as_it_was_written(text: str, repeat: int) -> None:
    content = text * repeat
    whole = read(compose(replace(MAIL, message=Message(text=content, html="<br>" + content))))
    for part, expected in zip(whole.iter_parts(), (content, "<br>" + content), strict=True):
        received = part.get_payload(decode=True)
        assert isinstance(received, bytes)
        lines = re.split(r"\r\n|\r|\n", expected)
        assert received.decode().removesuffix("\r\n").split("\r\n") == (
            lines[:-1] if lines[-1] == "" and len(lines) > 1 else lines
        )


def test_the_parts_of_a_message_are_composed_once() -> None:
    message.body.cache_clear()
    for number in range(50):
        to = Mailbox(address=f"u{number}@x.test")
        compose(replace(MAIL, to=to, message=Message(text="the same", html="<p>the same</p>")))
    assert message.body.cache_info().misses == 1
