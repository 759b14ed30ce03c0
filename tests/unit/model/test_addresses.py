"""Addresses: which are accepted, and that each remains one address when it is formatted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.model.addresses import Mailbox, parse_mailbox, parse_phone

GOOD = {
    "a@b.example": ("", "a@b.example"),
    " a@b.example ": ("", "a@b.example"),
    "A <a@b.example>": ("A", "a@b.example"),
    "B Two <b@x.test>": ("B Two", "b@x.test"),
    "B Two<b@x.test>": ("B Two", "b@x.test"),
    "<a@b.example>": ("", "a@b.example"),
    "J. Doe <a@b.example>": ("J. Doe", "a@b.example"),
    '"Doe, Jane" <a@b.example>': ("Doe, Jane", "a@b.example"),
    '"q\\"x" <a@b.example>': ('q"x', "a@b.example"),
    "=?utf-8?b?5byg5LiJ?= <a@b.example>": ("张三", "a@b.example"),
    "张三 <a@b.example>": ("张三", "a@b.example"),
    "a+tag@b.example": ("", "a+tag@b.example"),
    "o'brien@b.example": ("", "o'brien@b.example"),
    "root@localhost": ("", "root@localhost"),
    '"a b"@x.test': ("", '"a b"@x.test'),
    '"a@b"@x.test': ("", '"a@b"@x.test'),
    "用户@例子.广告": ("", "用户@例子.广告"),
    "info@bücher.example": ("", "info@bücher.example"),
    f"{'a' * 64}@b.example": ("", f"{'a' * 64}@b.example"),
}

BAD = [
    "",
    " ",
    "a",
    "a@",
    "@b.example",
    "a b@c.example",
    "a@b.example c",
    "A, B <a@b.example>",
    "a@b.example, c@d.example",
    "a@b.example,",
    "a@b.example; c@d.example",
    "friends: a@b.example;",
    "friends:;",
    "A <a@b.example> x",
    "A <a@b.example",
    "a <b> <c@d.example>",
    "a@b@c.example",
    "a.@b.example",
    ".a@b.example",
    "a..b@c.example",
    "a@b..example",
    "a@b.example.",
    "a@-b.example",
    "a@b_c.example",
    "a@[192.0.2.1]",
    "a@b.example (comment)",
    "a(b)@c.example",
    "a @ b.example",
    "@r:a@b.example",
    "<@r:a@b.example>",
    "J. Doe <@r.example:a@b.example>",
    "a\n@b.example",
    "a@b.example\r\nBcc: c@d.example",
    "A\r\nBcc: c@d.example <a@b.example>",
    "a@b.example\0",
    "A\x1b[2J <a@b.example>",
    "A\u2028B <a@b.example>",
    "A\ud800 <a@b.example>",
    "=?utf-8?q?x=0D=0ABcc:_c=40d=2Eexample?= <a@b.example>",
    "=?utf-8?q?x=00?= <a@b.example>",
    "=?utf-8?q?a=C2=85b?= <a@b.example>",
    "=?utf-8?q?a=E2=80=A8b?= <a@b.example>",
    "=?utf-8?q?a=40x=2Ec?=@b.example",
    "a@=?utf-8?q?x?=.example",
    f"{'a' * 65}@b.example",
    f"a@{'b' * 64}.example",
    f"a@{'b.' * 130}example",
    "x" * 600 + " <a@b.example>",
    "(" * 511,
]


@pytest.mark.parametrize(("text", "expected"), GOOD.items(), ids=repr)
def test_a_mailbox_is_parsed(text: str, expected: tuple[str, str]) -> None:
    assert parse_mailbox(text) == Mailbox(name=expected[0], address=expected[1])


@pytest.mark.parametrize("text", BAD, ids=ascii)
def test_text_that_is_not_one_mailbox_is_refused(text: str) -> None:
    assert parse_mailbox(text) is None


@pytest.mark.parametrize("text", GOOD)
def test_a_formatted_mailbox_parses_to_the_same_mailbox(text: str) -> None:
    mailbox = parse_mailbox(text)
    assert parse_mailbox(str(mailbox)) == mailbox


PIECES = st.sampled_from(
    [
        "a",
        "b.example",
        "@",
        "<",
        ">",
        '"',
        "\\",
        ",",
        ";",
        ":",
        ".",
        " ",
        "\r\n",
        "=?utf-8?q?",
        "?=",
        "=0D=0A",
        "(",
        ")",
        "é",
    ]
)


@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=12).map("".join)))
def test_a_mailbox_never_contains_the_end_of_a_header(text: str) -> None:
    mailbox = parse_mailbox(text)
    if mailbox is not None:
        written = str(mailbox)
        assert len(written.splitlines()) == 1
        assert "=?" not in mailbox.name
        assert parse_mailbox(written) == mailbox


def test_a_name_is_not_decoded_twice() -> None:
    inner = "=3D=3Futf-8=3Fq=3Fx=0D=0Ay=3F=3D".replace("=0D=0A", "=3D0D=3D0A")
    mailbox = parse_mailbox(f"=?utf-8?q?{inner}?= <a@b.example>")
    assert mailbox is None or "=?" not in str(mailbox)


@pytest.mark.parametrize(
    ("address", "ascii_form"),
    [
        ("info@bücher.example", "info@xn--bcher-kva.example"),
        ("a@例子.example", "a@xn--fsqu00a.example"),
        ("a@b.example", "a@b.example"),
        ("a@straße.example", "a@straße.example"),  # IDNA 2003 would make it strasse: another domain
        ("用户@例子.example", "用户@例子.example"),
    ],
)
def test_a_domain_becomes_ascii_only_if_it_remains_the_same_domain(address: str, ascii_form: str) -> None:
    mailbox = Mailbox(name="N", address=address)
    assert mailbox.in_ascii == Mailbox(name="N", address=ascii_form)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("+8613800000000", "+8613800000000"),
        ("+86 138-0000-0000", "+8613800000000"),
        ("(020) 7946.0958", "02079460958"),
        ("10086", "10086"),
        ("1234", "1234"),
        ("123", None),
        ("1234567890123456", None),
        ("+", None),
        ("", None),
        ("12+345", None),
        ("++12345", None),
        ("1234a", None),
        ("1234\n", None),
        ("１２３４５", None),
        ("+1 " + " " * 600 + "2345", None),
    ],
)
def test_a_phone_number_loses_its_separators(text: str, number: str | None) -> None:
    assert parse_phone(text) == number
