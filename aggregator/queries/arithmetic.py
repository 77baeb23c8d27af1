"""Intervals and periods: the pure part of every answer. Times are microseconds UTC."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

SECOND_US: Final = 1_000_000
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
        if re.fullmatch(r"\d{4}-\d{2}", text):
            start = dt.datetime.strptime(text, "%Y-%m").replace(tzinfo=dt.UTC)
            end = (start + dt.timedelta(days=32)).replace(day=1)
        elif re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            start = _instant(text)
            end = start + dt.timedelta(days=1)
        else:
            first, _, last = text.partition("/")
            start, end = _instant(first), _instant(last)
    except ValueError:
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
    return (when - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def iso(us: int) -> str:
    """ISO 8601 in UTC with milliseconds; empty for 0, which means unknown or not yet."""
    if us == 0:
        return ""
    when = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=us)
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


def completeness(expected: Iterable[Interval], lost: Iterable[Interval]) -> float:
    """Share of the expected time in which nothing is known to be missing, 0 to 1.

    With nothing expected nothing is missing: 1.
    """
    whole = union(expected)
    total = length(whole)
    if total == 0:
        return 1.0
    return 1.0 - length(intersect(whole, lost)) / total
