"""Secrets masked in texts and in values."""

from __future__ import annotations

from engine.model.masking import longest_first, mask, maskable, masked


def test_no_part_of_a_secret_is_left_over() -> None:
    secrets = longest_first(["hunter", "hunter2", "hunter"])
    assert secrets == ("hunter2", "hunter")
    assert mask("hunter and hunter2", secrets) == "*** and ***"


def test_a_short_value_is_not_masked_wherever_it_occurs() -> None:
    assert maskable(["1", "abc", "abcd", "abcde", "abcd"]) == ("abcde", "abcd")


def test_secrets_are_masked_in_every_text_and_number() -> None:
    value = {"text": "pin 4711", "list": ["4711", 4711, True], "other": 12}
    assert masked(value, ("4711",)) == {"text": "pin ***", "list": ["***", "***", True], "other": 12}
