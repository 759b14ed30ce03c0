"""Recurring time intervals: office hours, the night, the first of the month.

A window holds while the wall clock of its time zone shows a time inside it. If clocks skip an hour, a window
that would start in this hour starts after it. If an hour occurs twice, a window in it holds twice.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from calendar import monthrange
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from heapq import merge
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..model.times import from_micros, to_micros

DAY = 24 * 60  # minutes
_MAX_DAYS = 400  # a schedule that stays closed for longer counts as closed for ever
_MINUTE = 60_000_000  # microseconds

Range = tuple[int, int]  # from and to, both inclusive

_TIME = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a day in minutes since midnight. If the end is before the start, it spans midnight."""

    start: int
    end: int  # exclusive; DAY is midnight at the end of the day

    @property
    def overnight(self) -> bool:
        return self.end <= self.start

    def __str__(self) -> str:
        return "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in (self.start, self.end))


WHOLE_DAY = Window(0, DAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Windows on certain days. An empty field does not restrict.

    The days are those on which a window begins: Friday 22:00-06:00 ends on Saturday.
    """

    windows: tuple[Window, ...] = (WHOLE_DAY,)
    weekdays: frozenset[int] = frozenset()  # Monday is 0
    days_of_month: tuple[Range, ...] = ()  # from 1; negative days count from the end of the month
    months: frozenset[int] = frozenset()  # from 1
    years: tuple[Range, ...] = ()
    zone: ZoneInfo | None = None  # None: the recipient's

    def holds(self, at: int, recipient: ZoneInfo) -> bool:
        """Return whether ``at``, microseconds since the epoch, lies inside, for a recipient in that zone."""
        local = _wall(at, self.zone or recipient)
        minute, today = local.hour * 60 + local.minute, local.date()
        for window in self.windows:
            if window.overnight:
                if minute >= window.start and self._is_day(today):
                    return True
                if minute < window.end and self._is_day(today - timedelta(days=1)):
                    return True
            elif window.start <= minute < window.end and self._is_day(today):
                return True
        return False

    def _is_day(self, day: date) -> bool:
        if self.weekdays and day.weekday() not in self.weekdays:
            return False
        if self.months and day.month not in self.months:
            return False
        if self.years and not any(first <= day.year <= last for first, last in self.years):
            return False
        if not self.days_of_month:
            return True
        length = monthrange(day.year, day.month)[1]
        return any(
            _day_of(first, length) <= day.day <= _day_of(last, length) for first, last in self.days_of_month
        )

    @property
    def turns(self) -> Iterator[int]:
        """The minutes of the day at which it may begin or end."""
        yield 0
        for window in self.windows:
            yield window.start
            yield window.end % DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The times at which a message may be sent: in ``active``, if not empty, and not in ``mute``."""

    active: tuple[Interval, ...] = ()
    mute: tuple[Interval, ...] = ()

    def is_active(self, at: int, recipient: ZoneInfo) -> bool:
        return not self.active or any(each.holds(at, recipient) for each in self.active)

    def is_mute(self, at: int, recipient: ZoneInfo) -> bool:
        return any(each.holds(at, recipient) for each in self.mute)

    def opens(self, at: int, recipient: ZoneInfo) -> int | None:
        """Return the first moment from ``at`` on at which it is open; None if that is too far away."""

        def is_open(moment: int) -> bool:
            return self.is_active(moment, recipient) and not self.is_mute(moment, recipient)

        if is_open(at):
            return at
        return next(filter(is_open, _turns((*self.active, *self.mute), at, recipient)), None)


def _turns(intervals: Iterable[Interval], at: int, recipient: ZoneInfo) -> Iterator[int]:
    """Yield, in order, every moment after ``at`` at which one of the intervals may begin or end."""
    minutes: defaultdict[ZoneInfo, set[int]] = defaultdict(set)
    for interval in intervals:
        minutes[interval.zone or recipient].update(interval.turns)
    return merge(*(_turns_of(sorted(of_zone), at, zone) for zone, of_zone in minutes.items()))


def _turns_of(minutes: Sequence[int], at: int, zone: ZoneInfo) -> Iterator[int]:
    today = _wall(at, zone).date()
    for days in range(_MAX_DAYS):
        moments = _moments(today + timedelta(days=days), minutes, zone)
        yield from sorted({moment for moment in moments if moment > at})


def _moments(day: date, minutes: Iterable[int], zone: ZoneInfo) -> Iterator[int]:
    """Yield when the clock of ``zone`` shows each of ``minutes`` on ``day``, and when it changes."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    for minute in minutes:
        shown = midnight + timedelta(minutes=minute)
        for fold in (0, 1):
            yield to_micros(shown.replace(fold=fold))

    def has_changed(minute: int) -> bool:
        return _wall(minute * _MINUTE, zone).utcoffset() != offset

    # Searched in minutes since the epoch: a time of the wall clock may be missing or there twice.
    first, last = (to_micros(each) // _MINUTE for each in (midnight, midnight + timedelta(days=1)))
    offset = _wall(first * _MINUTE, zone).utcoffset()
    if has_changed(last):
        yield (first + bisect_left(range(first, last), True, key=has_changed)) * _MINUTE


def _day_of(day: int, length: int) -> int:
    """Return the day of a month of ``length`` days, -1 for its last. It may lie outside the month."""
    return day if day > 0 else length + 1 + day


def _wall(at: int, zone: tzinfo | None) -> datetime:
    return from_micros(at).astimezone(zone)


ALWAYS = Schedule()


def parse_window(value: str | Mapping[str, Any]) -> Window:
    """Parse ``22:00-07:00``, or the same as a mapping. Raise ValueError with a message for the author."""
    if isinstance(value, Mapping):
        start, end = str(value["start_time"]), str(value["end_time"])
    else:
        start, dash, end = value.partition("-")
        if not dash:
            raise ValueError(f"{value!r} is no window such as 09:00-17:30")
    minutes = _minute(start.strip()), _minute(end.strip())
    if minutes[0] == minutes[1]:
        raise ValueError(f"a window from {start.strip()} to {end.strip()} is empty; a day is 00:00-24:00")
    if minutes[0] == DAY:
        raise ValueError("a window cannot begin at 24:00; write 00:00")
    return Window(*minutes)


def _minute(text: str) -> int:
    found = _TIME.fullmatch(text)
    if found is None or int(found[1]) * 60 + int(found[2]) > DAY:
        raise ValueError(f"{text!r} is no time of day between 00:00 and 24:00")
    return int(found[1]) * 60 + int(found[2])


def parse_zone(name: str) -> ZoneInfo:
    """Return the time zone ``name``. Raise ValueError if there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # also for a folder, for odd characters
        raise ValueError(f"there is no time zone {name!r}; names look like Europe/Berlin or UTC") from error
