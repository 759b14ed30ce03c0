"""The document of a user's preferences: its meaning, and the reasons against invalid ones."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.documents.schema_validation import STRICT, violations_of
from engine.documents.schemas import load
from engine.model.errors import InvalidPreferences
from engine.planning.recipients import Choices
from engine.preferences.document import parse
from engine.rules.schedule import Window

WHOLE: dict[str, Any] = {
    "locale": "zh-CN",
    "time_zone": "Asia/Shanghai",
    "quiet_hours": "22:00-07:00",
    "addresses": {"phone": "+8613800000000"},
    "security": {"sms": True, "email": False},
    "newsletter": [],
    "default": ["email"],
}


def test_a_document_is_parsed() -> None:
    assert parse(WHOLE) == Choices(
        channels={"security": {"sms": True, "email": False}, "newsletter": (), "default": ("email",)},
        addresses={"phone": "+8613800000000"},
        locale="zh-CN",
        zone=ZoneInfo("Asia/Shanghai"),
        quiet=(Window(22 * 60, 7 * 60),),
    )
    assert parse({}) == Choices()
    assert parse({"quiet_hours": ["12:00-13:00", "22:00-06:00"]}).quiet == (
        Window(720, 780), Window(1320, 360),
    )  # fmt: skip


@pytest.mark.parametrize("document", [WHOLE, {}, {"a": ["x"]}, {"quiet_hours": []}])
def test_the_schema_accepts_valid_documents(document: dict[str, Any]) -> None:
    parse(document)
    assert violations_of(document, STRICT(load("preferences"))) == []


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([], "preferences are a mapping"),
        ({"security": "sms"}, "security: a list of the channels that are on"),
        ({"security": None}, "security: a list of the channels that are on"),
        ({"security": [1]}, "security: 1 cannot be a channel"),
        ({"security": {"sms": "no"}}, "security: sms is true or false"),
        ({"": ["sms"]}, "'' cannot be a category"),
        ({f"c{n}": [] for n in range(65)}, "more than 64 keys"),
        ({"a": [f"c{n}" for n in range(65)]}, "a: more than 64 channels"),
        ({"quiet_hours": 7}, "quiet_hours: a window such as"),
        ({"quiet_hours": ["22"]}, "quiet_hours: '22' is no window"),
        ({"quiet_hours": [{"start_time": "22:00"}]}, "is no window such as"),
        ({"addresses": ["a@example.com"]}, "addresses: a mapping"),
        ({"addresses": {"phone": 4}}, "addresses: phone: 4 is no address"),
        ({"locale": 1}, "locale: 1 is no language"),
        ({"time_zone": ["UTC"]}, "there is no time zone ['UTC']"),
    ],
)
def test_the_schema_rejects_invalid_documents(document: Any, reason: str) -> None:
    with pytest.raises(InvalidPreferences) as refused:
        parse(document)
    assert reason in str(refused.value)
    assert violations_of(document, STRICT(load("preferences")))


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"quiet_hours": "07:00-07:00"}, "is empty"),
        ({"quiet_hours": "25:00-07:00"}, "no time of day"),
        ({"quiet_hours": "00:00-24:00"}, "no time of the day is left"),
        ({"quiet_hours": ["22:00-12:00", "12:00-22:00"]}, "no time of the day is left"),
        ({"addresses": {"email": "nobody"}}, "addresses: email: 'nobody' is no address of that kind"),
        ({"addresses": {"phone": "12"}}, "addresses: phone: '12' is no address of that kind"),
        ({"locale": "???"}, "'???' is no language"),
        ({"time_zone": "Europe/Nowhere"}, "there is no time zone 'Europe/Nowhere'"),
        ({"time_zone": "../UTC"}, "there is no time zone"),
        ({"time_zone": "Europe"}, "there is no time zone"),
        ({"sec\nurity": []}, "cannot be a category"),
    ],
)
def test_documents_that_only_the_parser_rejects(document: Any, reason: str) -> None:
    with pytest.raises(InvalidPreferences) as refused:
        parse(document)
    assert reason in str(refused.value)


@given(
    st.lists(
        st.tuples(st.integers(0, 24), st.integers(0, 24)).filter(lambda w: w[0] != w[1] and w[0] < 24),
        min_size=1,
        max_size=4,
    )
)
def test_quiet_hours_must_leave_some_time_of_the_day(hours: list[tuple[int, int]]) -> None:
    windows = [f"{start:02}:00-{end:02}:00" for start, end in hours]
    quiet = {hour % 24 for start, end in hours for hour in range(start, end if end > start else end + 24)}
    try:
        parse({"quiet_hours": windows})
        is_taken = True
    except InvalidPreferences:
        is_taken = False
    assert is_taken == (len(quiet) < 24)


def test_all_reasons_are_reported_together() -> None:
    with pytest.raises(InvalidPreferences) as refused:
        parse({"locale": "?", "time_zone": "?", "quiet_hours": "?", "addresses": {"phone": "?"}, "a": 1})
    assert len(refused.value.reasons) == 5
