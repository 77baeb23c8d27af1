"""A partition and a period in, the instants between which it is kept out. Pure; days are UTC.

IPA 2016 s.87(3) counts months "beginning with the day" the clock starts: twelve months beginning
with 22 November 2026 end when 22 November 2027 begins. A partition is destroyed as a whole, so
the last of its clock days counts for all of it: no row leaves before its own period is over.
"""

from __future__ import annotations

import calendar
import datetime as dt
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from aggregator.store.schema import TABLES
from retention.model import DAY_US, Place

Length = tuple[int, int]
"""Calendar months and then days."""

_EPOCH: Final = dt.date(1970, 1, 1)
_CYCLE_DAYS: Final = 1461
"""Four years with their leap day: after them the calendar comes again (but for 2100, which is
beyond every time that retention knows)."""
_CYCLE_START: Final = (dt.date(2025, 1, 1) - _EPOCH).days


@dataclass(frozen=True, slots=True)
class Period:
    """How long a class is kept: `months` calendar months, then `days`, from the clock's start.

    purpose, clock, basis: of the rule it comes from, the longest that is in force.
    """

    months: int
    days: int
    purpose: str
    clock: str
    basis: str

    @property
    def length(self) -> Length:
        return self.months, self.days


def span(place: Place) -> tuple[int, int]:
    """The partition's clock days [start, end) in microseconds.

    Raises ValueError for a class without a table or a number that is no day or month of it.
    """
    first = _first_day(place)
    last = first + dt.timedelta(days=1) if _daily(place.record_class) else _next_month(first)
    return _us(first), _us(last)


def place_of(record_class: str, clock_us: int) -> Place:
    """The partition of a row whose retention clock starts at this instant; ValueError as `span`."""
    if clock_us < 0:
        raise ValueError("a time before 1970 is in no partition")
    return Place(record_class, _number(_date(clock_us), daily=_daily(record_class)))


def after(at_us: int, months: int, days: int) -> int:
    """The instant so many calendar months and then days later; a day that is not is the last.

    The audit log's replay counts in the same way, in code of its own (`replay_purges`).
    """
    when = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=at_us)
    years, month = divmod(when.month - 1 + min(months, 1200), 12)  # a century: more is a slip
    year = when.year + years
    day = min(when.day, calendar.monthrange(year, month + 1)[1])
    moved = when.replace(year=year, month=month + 1, day=day)
    return at_us + ((moved - when).days + days) * DAY_US


def retain_until(place: Place, period: Period) -> int:
    """Until when the partition is kept: the period from the first instant of its last clock day.

    From here on it is closed for writing; `model.OPEN_US` later it is open for destruction.
    """
    return after(span(place)[1] - DAY_US, period.months, period.days)


def first_open(record_class: str, period: Period, now_us: int) -> int:
    """The number of the first partition that still takes rows: all smaller ones are closed now."""
    # retain-until never falls from one partition to the next, so the border can be searched for.
    daily = _daily(record_class)
    today = _date(max(now_us, 0))
    last = max(now_us, 0) // DAY_US if daily else (today.year - 1970) * 12 + today.month - 1

    def number(index: int) -> int:
        if daily:
            return _number(_EPOCH + dt.timedelta(days=index), daily=True)
        return (1970 + index // 12) * 100 + index % 12 + 1

    return number(
        bisect_right(
            range(last + 1),
            now_us,
            key=lambda index: retain_until(Place(record_class, number(index)), period),
        )
    )


@lru_cache(maxsize=1024)  # a policy has a few lengths, compared at each load
def outlasts(one: Length, other: Length) -> bool:
    """Whether `one` never ends before `other`, from whatever day they are counted.

    Of 3 months and 90 days neither does: February makes the first shorter, July longer.
    """
    if one[0] >= other[0] and one[1] >= other[1]:
        return True
    return all(
        after(day * DAY_US, *one) >= after(day * DAY_US, *other)
        for day in range(_CYCLE_START, _CYCLE_START + _CYCLE_DAYS)
    )


def _daily(record_class: str) -> bool:
    if record_class not in TABLES:
        raise ValueError(f"no table is named {record_class}")
    return TABLES[record_class].period == "day"


def _first_day(place: Place) -> dt.date:
    months, day = divmod(place.number, 100) if _daily(place.record_class) else (place.number, 1)
    year, month = divmod(months, 100)
    if year < 1970:
        raise ValueError(f"{place.record_class} has no partition {place.name}")
    try:
        return dt.date(year, month, day)
    except ValueError:
        raise ValueError(f"{place.record_class} has no partition {place.name}") from None


def _next_month(first: dt.date) -> dt.date:
    years, month = divmod(first.month, 12)
    return dt.date(first.year + years, month + 1, 1)


def _number(day: dt.date, *, daily: bool) -> int:
    number = day.year * 100 + day.month
    return number * 100 + day.day if daily else number


def _date(at_us: int) -> dt.date:
    return _EPOCH + dt.timedelta(days=at_us // DAY_US)


def _us(day: dt.date) -> int:
    return (day - _EPOCH).days * DAY_US
