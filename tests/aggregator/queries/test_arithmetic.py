"""Periods and intervals, against plain enumeration of points."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.queries.arithmetic import (
    PeriodError,
    Spans,
    clip,
    completeness,
    intersect,
    iso,
    length,
    parse_period,
    union,
)

INTERVALS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8)


def points(intervals: list[tuple[int, int]]) -> set[int]:
    return {p for start, end in intervals for p in range(start, end)}


def test_a_month_a_day_and_a_range() -> None:
    month = parse_period("2026-12")
    assert (iso(month.start_us), iso(month.end_us)) == (
        "2026-12-01T00:00:00.000Z",
        "2027-01-01T00:00:00.000Z",
    )
    day = parse_period("2028-02-29")
    assert day.end_us - day.start_us == 86_400_000_000
    span = parse_period("2026-11-01T06:00/2026-11-01T07:30+01:00")
    assert span.end_us - span.start_us == 1_800_000_000


def test_adjoining_months_meet_without_overlap() -> None:
    months = [parse_period(f"2026-{n:02d}") for n in range(1, 13)]
    for left, right in zip(months, months[1:], strict=False):
        assert left.end_us == right.start_us


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-13", "2026-02-30", "now", "a/b", "2026-11/x", "9999-12"]
)
def test_what_is_no_period_is_answered_with_what_is(text: str) -> None:
    with pytest.raises(PeriodError, match="use 2026-11"):
        parse_period(text)


def test_a_period_that_ends_first_is_refused() -> None:
    with pytest.raises(PeriodError, match="ends before it starts"):
        parse_period("2026-11-02/2026-11-01")


@given(INTERVALS, INTERVALS, st.tuples(st.integers(0, 60), st.integers(0, 60)))
def test_intervals_are_sets_of_points(
    left: list[tuple[int, int]], right: list[tuple[int, int]], bounds: tuple[int, int]
) -> None:
    assert points(union(left)) == points(left)
    assert points(intersect(left, right)) == points(left) & points(right)
    assert points(clip(left, bounds)) == points(left) & points([bounds])
    assert length(left) == len(points(left))
    share = completeness(left, right)
    if points(left):
        assert share == pytest.approx(1 - len(points(left) & points(right)) / len(points(left)))
    else:
        assert share == 1.0


def test_unknown_times_are_empty() -> None:
    assert iso(0) == ""


def test_a_time_that_no_calendar_has_is_its_last() -> None:
    assert iso(2**62) == "9999-12-31T23:59:59.999Z"


@given(INTERVALS, st.tuples(st.integers(-5, 65), st.integers(-5, 65)))
def test_spans_answer_as_clipping_does(
    intervals: list[tuple[int, int]], bounds: tuple[int, int]
) -> None:
    assert Spans(intervals).inside(bounds) == length(clip(intervals, bounds))
