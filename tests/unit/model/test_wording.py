"""Parts of messages for operators."""

from __future__ import annotations

import pytest

from engine.model.wording import join_or, listing, nearest, shorten


@pytest.mark.parametrize(
    ("name", "hint"),
    [("emial", "did you mean 'email'?"), ("EMAIL", "did you mean 'email'?"), ("zzz", ""), ("", "")],
)
def test_nearest_names_what_was_meant(name: str, hint: str) -> None:
    assert nearest(name, ["email", "sms"]) == hint


def test_nearest_finds_nothing_among_no_names() -> None:
    assert nearest("x", []) == ""


@pytest.mark.parametrize(
    ("words", "text"), [(["a"], "a"), (["a", "b"], "a or b"), (["a", "b", "c"], "a, b or c")]
)
def test_either_joins_alternatives(words: list[str], text: str) -> None:
    assert join_or(words) == text


def test_a_long_list_ends_with_an_ellipsis() -> None:
    assert listing([1, 2], 2) == "1, 2"
    assert listing([1, 2, 3], 2) == "1, 2, …"


def test_a_long_text_is_cut_to_the_limit() -> None:
    assert shorten("abcd", 4) == "abcd"
    assert shorten("abcde", 4) == "abc…"
