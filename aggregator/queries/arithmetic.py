"""Intervals and periods: the pure part of every answer. Times are microseconds UTC."""

from __future__ import annotations

import datetime as dt
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

SECOND_US: Final = 1_000_000
HOUR_US: Final = 3_600 * SECOND_US
DAY_US: Final = 24 * HOUR_US
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LAST: Final = "9999-12-31T23:59:59.999Z"
Interval = tuple[int, int]
"""[start, end) in microseconds."""


class PeriodError(ValueError):
    """The text is no period; the message shows the forms that are."""


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of UTC time that a question is about, as its text and as [start, end)."""

    text: str
    start_us: int
    end_us: int


def parse_period(text: str) -> Period:
    """A month `2026-11`, a day `2026-11-22`, or `FROM/TO` of ISO dates or times, TO exclusive.

    All in UTC: a billing period ends at one instant everywhere. Raises PeriodError.
    """
    try:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}", text):
            start = dt.datetime.strptime(text, "%Y-%m").replace(tzinfo=dt.UTC)
            end = (start + dt.timedelta(days=32)).replace(day=1)
        elif re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            start = _instant(text)
            end = start + dt.timedelta(days=1)
        else:
            first, _, last = text.partition("/")
            start, end = _instant(first), _instant(last)
    except (ValueError, OverflowError):
        raise PeriodError(
            f"{text!r} is no period; use 2026-11, 2026-11-22 or 2026-11-01/2026-11-08"
        ) from None
    if start >= end:
        raise PeriodError(f"{text!r} ends before it starts")
    return Period(text, _us(start), _us(end))


def _instant(text: str) -> dt.datetime:
    when = dt.datetime.fromisoformat(text)
    return when if when.tzinfo else when.replace(tzinfo=dt.UTC)


def _us(when: dt.datetime) -> int:
    return (when - _EPOCH) // dt.timedelta(microseconds=1)


def iso(us: int) -> str:
    """ISO 8601 in UTC with milliseconds; empty for 0, which means unknown or not yet.

    A time that no calendar has, from a clock gone wrong, is written as the last one it has.
    """
    if us == 0:
        return ""
    try:
        when = _EPOCH + dt.timedelta(microseconds=us)
    except OverflowError:
        return _LAST
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same points as disjoint intervals in order; empty ones vanish."""
    merged: list[Interval] = []
    for start, end in sorted(each for each in intervals if each[0] < each[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def clip(intervals: Iterable[Interval], bounds: Interval) -> list[Interval]:
    """The parts of the intervals inside the bounds, as a union."""
    return union((max(start, bounds[0]), min(end, bounds[1])) for start, end in intervals)


def intersect(left: Iterable[Interval], right: Iterable[Interval]) -> list[Interval]:
    """The points in both, as a union."""
    others = union(right)
    return union(part for each in union(left) for part in clip(others, each))


def length(intervals: Iterable[Interval]) -> int:
    """Total length in microseconds, overlaps counted once."""
    return sum(end - start for start, end in union(intervals))


class Spans:
    """A union of intervals of which many questions are asked, each in logarithmic time."""

    def __init__(self, intervals: Iterable[Interval]) -> None:
        merged = union(intervals)
        self._starts = [start for start, _ in merged]
        self._ends = [end for _, end in merged]
        self._before = [0, *accumulate(end - start for start, end in merged)]

    def inside(self, bounds: Interval) -> int:
        """Length of the part of the union that lies inside [start, end)."""
        return self._until(max(bounds)) - self._until(bounds[0])

    def _until(self, at: int) -> int:
        begun = bisect_right(self._starts, at)
        return self._before[begun] - (max(0, self._ends[begun - 1] - at) if begun else 0)


def completeness(expected: Iterable[Interval], lost: Iterable[Interval]) -> float:
    """Share of the expected time in which nothing is known to be missing, 0 to 1.

    With nothing expected nothing is missing: 1.
    """
    whole = union(expected)
    missing = Spans(lost)
    return share(length(whole), sum(missing.inside(each) for each in whole))


def share(expected_us: int, lost_us: int) -> float:
    """Share complete of an expected time; with nothing expected nothing is missing: 1."""
    return 1.0 - lost_us / expected_us if expected_us else 1.0
