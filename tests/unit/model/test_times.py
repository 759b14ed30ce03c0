"""Durations and times as operators and programs write them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.documents.schemas import load
from engine.model.times import (
    UNITS,
    from_micros,
    iso_time,
    parse_count_per,
    parse_duration,
    parse_rate,
    to_micros,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("7d", 604800.0),
        ("500ms", 0.5),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("1m500ms", 60.5),
        ("0s", 0.0),
    ],
)
def test_a_duration_is_parsed(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "s", "10", "1.5", "-5s", "+5s", "5 s", " 5s", "5s\n", "5w", "5S", "1h 30m", "٥s", "h1", "5sm"],
)
def test_an_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="unit"):
        parse_duration(text)


def test_the_error_about_a_bare_number_names_a_unit() -> None:
    with pytest.raises(ValueError, match="30 has no unit; write 30s for seconds"):
        parse_duration("30")


@pytest.mark.parametrize("value", [30, 1.5, None, True, ["5s"]])
def test_a_duration_must_be_text(value: object) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(value)  # type: ignore[arg-type]


def test_a_duration_beyond_a_float_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        parse_duration("9" * 400 + "d")


@given(
    st.one_of(
        st.text(),
        st.from_regex(r"[0-9.smhd]{0,12}", fullmatch=True),
        st.lists(st.sampled_from(["1", "30", "1.5", *UNITS]), max_size=6).map("".join),
    )
)
@pytest.mark.parametrize("schema", ["policy", "mss"])
def test_durations_agree_with_the_schemas(schema: str, text: str) -> None:
    pattern = load(schema)["$defs"]["duration"]["pattern"].removesuffix("$") + r"\Z"
    try:
        parse_duration(text)
    except ValueError:
        assert not re.search(pattern, text)
    else:
        assert re.search(pattern, text)


@pytest.mark.parametrize(
    ("at", "timespec", "text"),
    [
        (0, "auto", "1970-01-01T00:00:00Z"),
        (1_767_268_800_000_001, "microseconds", "2026-01-01T12:00:00.000001Z"),
        (1_767_268_800_999_999, "seconds", "2026-01-01T12:00:00Z"),
    ],
)
def test_a_time_is_formatted_in_utc(at: int, timespec: str, text: str) -> None:
    assert iso_time(at, timespec) == text


@given(st.integers(-(10**15), 10**17))
def test_microseconds_survive_a_conversion_to_a_datetime(at: int) -> None:
    assert to_micros(from_micros(at)) == at


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10/s", (10, 1.0)), ("100/m", (100, 60.0)), ("5/2h", (5, 7200.0)), ("1/500ms", (1, 0.5))],
)
def test_a_rate_is_parsed(text: str, expected: tuple[int, float]) -> None:
    assert parse_count_per(text) == expected
    assert parse_rate(text) == expected[0] / expected[1]


@pytest.mark.parametrize(
    "text", ["", "10", "10/", "/s", "0/s", "-1/s", "1.5/s", "10/x", "10/0s", "10/s/s", "١/s", 5]
)
def test_other_texts_are_no_rates(text: object) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        parse_rate(text)  # type: ignore[arg-type]
