"""Patterns follow the rules of NATS; keys and tokens are safe on the broker."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.model.subjects import Pattern, covers, parse_event_pattern, parse_pattern, token, valid_key

tokens = st.sampled_from(["a", "b"])
subjects = st.lists(tokens, min_size=1, max_size=4).map(".".join)
patterns = st.builds(
    lambda first, last: Pattern((*first, *last)),
    st.lists(tokens | st.just("*"), max_size=3),
    st.sampled_from([("a",), ("b",), ("*",), (">",)]),
)


@pytest.mark.parametrize(
    ("pattern", "subject", "matches"),
    [
        ("notice.login.abnormal", "notice.login.abnormal", True),
        ("notice.login.abnormal", "notice.login", False),
        ("notice.login", "notice.login.abnormal", False),
        ("notice.login", "notice.Login", False),
        ("notice.*", "notice.login", True),
        ("notice.*", "notice", False),
        ("notice.*", "notice.login.abnormal", False),
        ("notice.*.abnormal", "notice.login.abnormal", True),
        ("*.login.*", "audit.login.ok", True),
        ("notice.>", "notice.login", True),
        ("notice.>", "notice.login.abnormal.again", True),
        ("notice.>", "notice", False),
        ("*.>", "log", False),
        (">", "log", True),
        (">", "notice.login.abnormal", True),
        ("log", "log", True),
        ("log", "log.x", False),
        ("log.>", "log", False),
        ("notice.foo*", "notice.foobar", False),
        ("notice.foo*", "notice.foo*", True),
        ("notice.>foo", "notice.>foo", True),
        ("notice.登录.*", "notice.登录.异常", True),
    ],
)
def test_a_pattern_matches_by_the_rules_of_nats(pattern: str, subject: str, matches: bool) -> None:
    assert parse_pattern(pattern).matches(subject) is matches


def as_regex(pattern: Pattern) -> str:
    one = {"*": r"[^.]+", ">": r"[^.]+(\.[^.]+)*"}
    return r"\.".join(one.get(t, re.escape(t)) for t in pattern.tokens)


@given(patterns, subjects)
def test_a_pattern_matches_as_its_regular_expression(pattern: Pattern, subject: str) -> None:
    assert pattern.matches(subject) is bool(re.fullmatch(as_regex(pattern), subject))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("notice.", "is empty"),
        (".notice", "is empty"),
        ("notice..a", "is empty"),
        ("notice.>.a", "must be the last token"),
        ("notice.a b", "' ' is not allowed"),
        ("notice.a\t", "is not allowed"),
        ("notice.a\n", "is not allowed"),
        ("notice.\x00", "is not allowed"),
        ("notice.\x7f", "is not allowed"),
        ("notice.\u3000", "is not allowed"),
        ("notice.\ud800", "is not allowed"),
    ],
)
def test_an_invalid_pattern_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_pattern(text)


@pytest.mark.parametrize("text", ["notice.login", "audit.>", "log", "log.*", "*.login", "*.>", ">", "log.>"])
def test_an_event_pattern_is_accepted(text: str) -> None:
    assert str(parse_event_pattern(text)) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("login.abnormal", "starts with its kind: notice, audit, log"),
        ("action.sendsms", "starts with its kind"),
        ("Notice.login", "starts with its kind"),
        ("notice", "the key after the kind is missing"),
        ("*", "the key after the kind is missing"),
        ("", "empty"),
    ],
)
def test_an_invalid_event_pattern_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_event_pattern(text)


def test_a_wildcard_inside_a_token_is_a_plain_character() -> None:
    pattern = parse_pattern("notice.foo*.*.a>b.>")
    assert pattern.matches("notice.foo*.x.a>b.y")
    assert not pattern.matches("notice.food.x.a>b.y")
    assert not pattern.matches("notice.foo*.x.a.b.y")


@pytest.mark.parametrize("text", ["login", "login.abnormal", "登录", "foo*", "a-b_c", "$x"])
def test_a_key_is_accepted(text: str) -> None:
    assert valid_key(text)


@pytest.mark.parametrize(
    "text", ["", ".", "a.", ".a", "a..b", "*", "a.*", ">", "a.>", "a b", "a\r", "\x85", "\udc00"]
)
def test_an_invalid_key_is_refused(text: str) -> None:
    assert not valid_key(text)


@pytest.mark.parametrize("text", ["a", "A-b_9", "-", "x" * 64])
def test_a_safe_token_is_unchanged(text: str) -> None:
    assert token(text) == text


@given(st.text() | st.sampled_from(["", "a.b", "*", ">", "x" * 65, "a\n", "é", "\ud800", "٣"]))
def test_any_text_becomes_a_safe_token(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", token(text))
    assert token(text) == token(text)
    if token(text) != text:
        assert re.fullmatch(r"[0-9a-f]{32}", token(text))


def test_the_hash_is_the_same_in_every_version() -> None:
    assert token("a.b") == "2e7336dc8eba87ef472df568c35482ab"


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        (">", "a.>", True),
        (">", "*", True),
        ("a.>", "a.*", True),
        ("a.>", "a.*.>", True),
        ("a.*", "a.b", True),
        ("a.*", "a.*", True),
        ("a.*", "a.>", False),
        ("*.>", ">", False),
        ("a.b", "a.*", False),
        ("a.>", "a", False),
        ("a", "a.b", False),
        ("a.b", "a", False),
    ],
)
def test_a_pattern_covers_another(wide: str, narrow: str, covered: bool) -> None:
    assert covers(parse_pattern(wide), parse_pattern(narrow)) is covered


SMALL = [".".join(parts) for n in range(1, 6) for parts in product("abz", repeat=n)]


@given(patterns, patterns)
def test_covers_agrees_with_matches(wide: Pattern, narrow: Pattern) -> None:
    """If two patterns of 4 tokens differ, they differ on a subject of 5 tokens, one of them new to both."""
    matched = [subject for subject in SMALL if narrow.matches(subject)]
    assert covers(wide, narrow) is all(map(wide.matches, matched))
