"""What ``time_intervals`` says, and where it makes no sense."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from .cursors import Diagnostics, DocumentNode
from .intervals import DAY, WHOLE_DAY, Interval, Range, Window
from .spelling import nearest

RECIPIENT = "recipient"  # as a zone: that of whoever reads the message
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
    "november", "december",
)  # fmt: skip
_TIME = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,4}", re.ASCII)
_SHORT_MONTH_LENGTHS = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}  # months without a 31st


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalCompiler:
    """Compiles intervals; ``zone`` is for those that name none."""

    diagnostics: Diagnostics
    zone: ZoneInfo

    def intervals(self, entry: DocumentNode) -> tuple[Interval, ...]:
        """One named interval, which is one mapping or several of which one must hold.

        Of one with a mistake in it there is nothing, so that one mistake makes one problem.
        """
        before = len(self.diagnostics.problems)
        intervals = tuple(self._interval(each) for each in entry.each())
        return intervals if len(self.diagnostics.problems) == before else ()

    def _interval(self, at: DocumentNode) -> Interval:
        zone: ZoneInfo | None = self.zone
        if written := at.get("time_zone"):
            zone = None if written.value == RECIPIENT else zone_of(written, self.diagnostics) or self.zone
        interval = Interval(
            windows=tuple(self._windows(at.get("times"))) or (WHOLE_DAY,),
            weekdays=frozenset(self._numbers(at.get("weekdays"), _DAYS, first=0)),
            days_of_month=tuple(self._ranges(at.get("days_of_month"), self._day)),
            months=frozenset(self._numbers(at.get("months"), _MONTHS, first=1)),
            years=tuple(self._ranges(at.get("years"), self._year)),
            zone=zone,
        )
        if not _has_a_day(interval):
            self.diagnostics.add(at, "empty-interval", "no day is all of this")
        return interval

    def _windows(self, times: DocumentNode | None) -> Iterator[Window]:
        for each in times.each() if times else ():
            try:
                yield parse_window(each.value)
            except ValueError as error:
                self.diagnostics.add(each, "bad-window", str(error))

    def _numbers(self, written: DocumentNode | None, names: Sequence[str], *, first: int) -> Iterator[int]:
        """Days of the week or months: names, or two with a colon between; they may go round the end."""

        def number(text: str) -> int:
            if text.lower() not in names:
                raise ValueError(f"{text!r} is none of {', '.join(names)}")
            return names.index(text.lower())

        for low, high in self._ranges(written, number, names):
            yield from (first + n % len(names) for n in range(low, high + 1 + len(names) * (high < low)))

    def _ranges(
        self, written: DocumentNode | None, number: Callable[[str], int], names: Sequence[str] = ()
    ) -> Iterator[Range]:
        for each in written.each() if written else ():
            low, colon, high = str(each.value).partition(":")
            try:
                pair = number(low.strip()), number((high if colon else low).strip())
            except ValueError as error:
                hint = nearest(str(each.value).lower(), names)
                self.diagnostics.add(each, "bad-range", str(error), hint=hint)
                continue
            if not names and pair[0] > pair[1] and (pair[0] > 0) == (pair[1] > 0):
                self.diagnostics.add(each, "bad-range", f"{each.value} ends before it begins")
                continue
            yield pair

    @staticmethod
    def _day(text: str) -> int:
        if not _NUMBER.fullmatch(text) or not 1 <= abs(int(text)) <= 31:
            raise ValueError(f"{text!r} is no day of a month: 1 to 31, or -1 (the last) to -31")
        return int(text)

    @staticmethod
    def _year(text: str) -> int:
        if not _NUMBER.fullmatch(text) or not 1970 <= int(text) <= 9999:
            raise ValueError(f"{text!r} is no year")
        return int(text)


def parse_window(value: str | Mapping[str, Any]) -> Window:
    """``22:00-07:00``, or the same as a mapping; ValueError, in words for operators, when it is none."""
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


def zone_of(written: DocumentNode, complaints: Diagnostics) -> ZoneInfo | None:
    """The time zone of that name; None, after a complaint, where there is none."""
    try:
        return parse_zone(written.value)
    except ValueError as error:
        complaints.add(
            written, "unknown-zone", str(error), hint=nearest(written.value, available_timezones())
        )
        return None


def parse_zone(name: str) -> ZoneInfo:
    """The time zone called ``name``; ValueError where there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # of a folder, of odd characters
        message = f"there is no time zone {name!r}; they are called as in Europe/Berlin or UTC"
        raise ValueError(message) from error


def _has_a_day(interval: Interval) -> bool:
    """Whether some month has a day that it asks for."""
    if not interval.days_of_month:
        return True
    months = interval.months or frozenset(range(1, 13))
    for month in months:
        length = _SHORT_MONTH_LENGTHS.get(month, 31)
        for low, high in interval.days_of_month:
            first, last = (day if day > 0 else length + 1 + day for day in (low, high))
            if max(first, 1) <= min(last, length):
                return True
    return False
