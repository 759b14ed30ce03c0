"""Time intervals: midnight, weekdays, ends of months, and clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from engine.rules.schedule import Interval, Schedule, Window, parse_window

BERLIN, SHANGHAI, NEW_YORK = map(ZoneInfo, ("Europe/Berlin", "Asia/Shanghai", "America/New_York"))
LORD_HOWE, KATHMANDU, CAIRO = map(ZoneInfo, ("Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Cairo"))
NIGHT = Window(22 * 60, 7 * 60)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> int:
    """Microseconds since the epoch when the clock of ``zone`` shows ``text``."""
    shown = datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold)
    return (shown - EPOCH) // timedelta(microseconds=1)


def shown(moment: int | None, zone: ZoneInfo = BERLIN) -> str:
    assert moment is not None
    return (EPOCH + timedelta(microseconds=moment)).astimezone(zone).isoformat(timespec="minutes")


def mute(*windows: Window, zone: ZoneInfo | None = BERLIN, **days: object) -> Schedule:
    return Schedule(mute=(Interval(windows=windows, zone=zone, **days),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("time", "inside"),
    [("21:59", False), ("22:00", True), ("23:59", True), ("00:00", True), ("06:59", True), ("07:00", False)],
)
def test_a_window_spans_midnight(time: str, inside: bool) -> None:
    assert Interval(windows=(NIGHT,), zone=BERLIN).holds(at(f"2026-06-10T{time}"), SHANGHAI) is inside


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    friday = Interval(windows=(NIGHT,), weekdays=frozenset({4}), zone=BERLIN)
    assert friday.holds(at("2026-06-12T23:00"), BERLIN)  # a Friday
    assert friday.holds(at("2026-06-13T06:59"), BERLIN)
    assert not friday.holds(at("2026-06-12T06:00"), BERLIN)
    assert not friday.holds(at("2026-06-13T23:00"), BERLIN)


@pytest.mark.parametrize(
    ("days", "inside", "outside"),
    [
        ({"days_of_month": ((-1, -1),)}, "2028-02-29", "2028-02-28"),
        ({"days_of_month": ((31, 31),)}, "2026-03-31", "2026-04-30"),
        ({"days_of_month": ((1, 5), (-3, -1))}, "2026-04-28", "2026-04-27"),
        ({"days_of_month": ((21, -4),)}, "2026-02-25", "2026-02-26"),
        ({"months": frozenset({11, 12, 1})}, "2027-01-15", "2027-02-01"),
        ({"years": ((2026, 2027),)}, "2027-12-31", "2028-01-01"),
        ({"months": frozenset({3}), "weekdays": frozenset({0})}, "2026-03-02", "2026-03-03"),
    ],
)
def test_an_interval_holds_on_its_days(days: dict[str, object], inside: str, outside: str) -> None:
    interval = Interval(zone=BERLIN, **days)  # type: ignore[arg-type]
    assert interval.holds(at(f"{inside}T12:00"), BERLIN)
    assert not interval.holds(at(f"{outside}T12:00"), BERLIN)


def test_an_interval_without_a_zone_uses_that_of_the_recipient() -> None:
    interval = Interval(windows=(NIGHT,))
    noon_in_berlin = at("2026-06-10T16:30")
    assert interval.holds(noon_in_berlin, SHANGHAI)  # 22:30 there
    assert not interval.holds(noon_in_berlin, NEW_YORK)


@pytest.mark.parametrize(
    ("zone", "asked", "released"),
    [
        (BERLIN, "2026-03-28T23:00", "2026-03-29T07:00+02:00"),  # clocks go forward that night
        (BERLIN, "2026-10-24T23:00", "2026-10-25T07:00+01:00"),  # and back
        (NEW_YORK, "2026-03-07T23:00", "2026-03-08T07:00-04:00"),
        (NEW_YORK, "2026-10-31T23:00", "2026-11-01T07:00-05:00"),
        (SHANGHAI, "2026-03-28T23:00", "2026-03-29T07:00+08:00"),
        (LORD_HOWE, "2026-10-03T23:00", "2026-10-04T07:00+11:00"),  # by half an hour
        (KATHMANDU, "2026-10-03T06:59", "2026-10-03T07:00+05:45"),
    ],
)
def test_quiet_hours_end_at_seven_local_time(zone: ZoneInfo, asked: str, released: str) -> None:
    moment = mute(NIGHT, zone=None).opens(at(asked, zone), zone)
    assert shown(moment, zone) == released


def test_a_window_in_a_skipped_hour_starts_or_ends_after_it() -> None:
    """2026-03-29 in Berlin has no 02:00 to 03:00."""
    begins_inside = mute(Window(2 * 60 + 30, 4 * 60))
    assert not begins_inside.is_mute(at("2026-03-29T01:59"), BERLIN)
    assert begins_inside.is_mute(at("2026-03-29T03:00"), BERLIN)
    ends_inside = mute(Window(60, 2 * 60 + 30))
    assert shown(ends_inside.opens(at("2026-03-29T01:30"), BERLIN)) == "2026-03-29T03:00+02:00"
    wholly_inside = mute(Window(2 * 60, 3 * 60))
    assert not wholly_inside.is_mute(at("2026-03-29T01:59"), BERLIN)
    assert not wholly_inside.is_mute(at("2026-03-29T03:00"), BERLIN)


def test_a_window_in_a_repeated_hour_holds_twice() -> None:
    """2026-10-25 in Berlin has 02:00 to 03:00 twice."""
    window = mute(Window(2 * 60, 2 * 60 + 30))
    for fold in (0, 1):
        assert window.is_mute(at("2026-10-25T02:15", fold=fold), BERLIN)
        assert not window.is_mute(at("2026-10-25T02:45", fold=fold), BERLIN)
    assert shown(window.opens(at("2026-10-25T02:15"), BERLIN)) == "2026-10-25T02:30+02:00"
    over_it = mute(Window(2 * 60 + 30, 5 * 60))
    # From 02:30 to the change, then open again until the clock shows 02:30 for the second time.
    assert shown(over_it.opens(at("2026-10-25T02:45"), BERLIN)) == "2026-10-25T02:00+01:00"
    assert over_it.is_mute(at("2026-10-25T02:30", fold=1), BERLIN)


@pytest.mark.parametrize(
    ("zone", "start", "end", "asked", "opened"),
    [
        # The clock skips the end of the window ...
        (BERLIN, "01:00", "02:30", "2026-03-29T01:30", "2026-03-29T03:00+02:00"),
        (LORD_HOWE, "00:00", "02:01", "2026-10-04T01:10", "2026-10-04T02:30+11:00"),
        (LORD_HOWE, "00:00", "02:20", "2026-10-04T01:10", "2026-10-04T02:30+11:00"),
        (CAIRO, "20:00", "00:30", "2026-04-23T21:00", "2026-04-24T01:00+03:00"),  # at midnight
        # ... and shows for one minute only a time that is outside ...
        (BERLIN, "03:01", "02:01", "2026-03-28T23:00", "2026-03-29T03:00+02:00"),
        (LORD_HOWE, "02:31", "02:01", "2026-10-03T19:00", "2026-10-04T02:30+11:00"),
        (CAIRO, "01:01", "00:01", "2026-04-23T21:00", "2026-04-24T01:00+03:00"),
        # ... or goes back to before the window.
        (BERLIN, "02:30", "05:00", "2026-10-25T02:45", "2026-10-25T02:00+01:00"),
        (LORD_HOWE, "01:45", "03:00", "2026-04-05T01:50", "2026-04-05T01:30+10:30"),
        (CAIRO, "23:30", "06:00", "2026-10-29T23:40", "2026-10-29T23:00+02:00"),
    ],
)
def test_it_opens_at_a_clock_change(zone: ZoneInfo, start: str, end: str, asked: str, opened: str) -> None:
    schedule = mute(parse_window(f"{start}-{end}"), zone=zone)
    assert shown(schedule.opens(at(asked, zone), BERLIN), zone) == opened


def test_a_schedule_with_active_and_mute_waits_for_both() -> None:
    office = Interval(windows=(Window(9 * 60, 17 * 60),), weekdays=frozenset(range(5)), zone=BERLIN)
    lunch = Interval(windows=(Window(9 * 60, 13 * 60),), zone=NEW_YORK)
    schedule = Schedule(active=(office,), mute=(lunch,))
    # 15:00 in Berlin is 09:00 in New York; the office closes before lunch is over there.
    assert shown(schedule.opens(at("2026-06-12T15:00"), BERLIN)) == "2026-06-15T09:00+02:00"


def test_a_schedule_that_never_opens_returns_none() -> None:
    assert mute(Window(0, 24 * 60)).opens(at("2026-01-01T00:00"), BERLIN) is None
    past = Schedule(active=(Interval(years=((2020, 2021),), zone=BERLIN),))
    assert past.opens(at("2026-01-01T00:00"), BERLIN) is None


windows = some.builds(Window, some.integers(0, 24 * 60 - 1), some.integers(1, 24 * 60)).filter(
    lambda window: window.start != window.end
)
zones = some.sampled_from([BERLIN, SHANGHAI, NEW_YORK, LORD_HOWE, KATHMANDU, CAIRO, None])
intervals = some.builds(
    Interval,
    windows=some.lists(windows, min_size=1, max_size=3).map(tuple),
    weekdays=some.frozensets(some.integers(0, 6), max_size=6),
    zone=zones,
)


@settings(max_examples=60, deadline=None)
@given(
    some.builds(
        Schedule,
        active=some.lists(intervals, max_size=2).map(tuple),
        mute=some.lists(intervals, max_size=2).map(tuple),
    ),
    some.sampled_from(
        ["2026-03-28T12:00", "2026-10-24T12:00", "2026-10-03T09:00", "2026-04-23T12:00", "2026-06-01T00:00"]
    ),
    some.integers(0, 36 * 60),
)
def test_it_opens_at_the_first_minute_at_which_it_is_open(schedule: Schedule, day: str, minute: int) -> None:
    """Against a walk minute by minute."""
    start = at(day) + minute * 60_000_000
    walk = (start + step * 60_000_000 for step in range(3 * 24 * 60))
    first = next((m for m in walk if schedule.is_active(m, BERLIN) and not schedule.is_mute(m, BERLIN)), None)
    found = schedule.opens(start, BERLIN)
    if first is None:
        assert found is None or found >= start + 3 * 24 * 3600 * 1_000_000
    else:
        assert found == first
