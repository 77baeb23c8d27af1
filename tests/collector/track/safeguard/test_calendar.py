"""Hours and days by the collector's clock: each told once, and none that is in doubt."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.track.safeguard.calendar import (
    DAY_NS,
    HOUR_NS,
    MAX_DAYS,
    MAX_STEP_NS,
    SECOND_NS,
    Calendar,
    Ended,
)

MIDNIGHT = 20_000 * DAY_NS
STEP = 240 * SECOND_NS


def walk(calendar: Calendar, start: int, end: int) -> list[Ended]:
    ended = [calendar.advance(now) for now in [*range(start, end, STEP), end]]
    return [each for each in ended if each]


def counting(start: int = MIDNIGHT) -> Calendar:
    calendar = Calendar()
    calendar.advance(start - SECOND_NS)
    calendar.advance(start)
    assert calendar.is_counting
    return calendar


def test_a_start_is_silent_until_midnight() -> None:
    calendar = Calendar()
    ended = walk(calendar, MIDNIGHT + 10 * HOUR_NS + 1, MIDNIGHT + 26 * HOUR_NS)
    hours = [each.start_ns // HOUR_NS % 24 for each in ended]
    assert hours == [*range(10, 24), 0, 1]
    assert [each.is_counted for each in ended] == [False] * 14 + [True] * 2
    assert [each.restarts for each in ended] == [1] * 14 + [0] * 2
    assert [each.ends_day for each in ended].index(True) == 13


def test_a_start_right_at_midnight_is_silent_too() -> None:
    calendar = Calendar()
    calendar.advance(MIDNIGHT)
    assert not calendar.is_counting


def test_a_day_has_24_hours_that_are_told() -> None:
    calendar = counting()
    ended = walk(calendar, MIDNIGHT, MIDNIGHT + DAY_NS)
    assert [each.start_ns for each in ended] == [MIDNIGHT + n * HOUR_NS for n in range(24)]
    assert all(each.is_counted for each in ended)
    assert [each.is_first for each in ended] == [True] + [False] * 23
    assert calendar.is_counting


@pytest.mark.parametrize("step", [-2 * DAY_NS, -2 * HOUR_NS, -301 * SECOND_NS, 301 * SECOND_NS,
                                  3 * HOUR_NS, DAY_NS, 400 * DAY_NS])  # fmt: skip
def test_a_clock_that_jumps_makes_the_day_silent(step: int) -> None:
    calendar = counting()
    at = MIDNIGHT + 5 * HOUR_NS + 2000 * SECOND_NS
    walk(calendar, MIDNIGHT, at)
    assert calendar.advance(at + step) is None
    assert not calendar.is_counting
    end = (at + step) // DAY_NS * DAY_NS + DAY_NS
    assert not any(each.is_counted for each in walk(calendar, at + step, end))


def test_a_clock_set_back_a_little_over_a_boundary_tells_no_hour_twice() -> None:
    calendar = counting()
    walk(calendar, MIDNIGHT, MIDNIGHT + HOUR_NS - SECOND_NS)
    assert calendar.advance(MIDNIGHT + HOUR_NS)
    assert calendar.advance(MIDNIGHT + HOUR_NS - 200 * SECOND_NS) is None
    assert calendar.hour_of_day == 1
    assert calendar.advance(MIDNIGHT + HOUR_NS + 1) is None
    assert calendar.is_counting


def test_midnight_passed_by_a_wrong_clock_splits_no_day() -> None:
    """Back by less than a doubt: it stays the new day. By more: both days are silent."""
    calendar = counting()
    walk(calendar, MIDNIGHT, MIDNIGHT + DAY_NS)
    calendar.advance(MIDNIGHT + DAY_NS - MAX_STEP_NS)
    assert calendar.is_counting
    assert calendar.hour_of_day == 0
    calendar.advance(MIDNIGHT + DAY_NS - MAX_STEP_NS - 1)
    assert not calendar.is_counting
    walk(calendar, MIDNIGHT + DAY_NS - MAX_STEP_NS, MIDNIGHT + DAY_NS + HOUR_NS)
    assert not calendar.is_counting, "the day was begun before"


def test_a_day_once_begun_is_silent_after_a_restart_and_a_clock_set_back() -> None:
    calendar = counting()
    walk(calendar, MIDNIGHT, MIDNIGHT + 2 * HOUR_NS)
    again = Calendar()
    again.restore(json.loads(json.dumps(calendar.snapshot())))
    ended = walk(again, MIDNIGHT - 600 * SECOND_NS, MIDNIGHT + 4 * HOUR_NS)
    # Hours 0 and 1 are told already, and so is the last of the day before.
    assert [each.start_ns - MIDNIGHT for each in ended] == [2 * HOUR_NS, 3 * HOUR_NS]
    assert not any(each.is_counted for each in ended)


def test_an_excursion_into_the_future_costs_only_the_days_it_touched() -> None:
    calendar = counting()
    calendar.advance(MIDNIGHT + 5_000 * DAY_NS)
    calendar.advance(MIDNIGHT + HOUR_NS)
    walk(calendar, MIDNIGHT + HOUR_NS, MIDNIGHT + DAY_NS)
    assert calendar.is_counting


def test_what_is_remembered_is_bounded_and_what_is_forgotten_stays_silent() -> None:
    calendar = counting()
    walk(calendar, MIDNIGHT, MIDNIGHT + (MAX_DAYS + 3) * DAY_NS)
    assert len(calendar.snapshot()["days"]) == MAX_DAYS  # type: ignore[arg-type]
    calendar.advance(MIDNIGHT - SECOND_NS)
    assert walk(calendar, MIDNIGHT - SECOND_NS, MIDNIGHT + HOUR_NS) == []
    assert not calendar.is_counting


@pytest.mark.parametrize("wrong", [{}, {"floor": 1}, {"floor": "x", "days": []},
                                   {"floor": 1, "days": [[1, 2]]},
                                   {"floor": 1, "days": [[1, 2, "3"]]},
                                   {"floor": 1, "days": [[1, 2, 3]] * 401}])  # fmt: skip
def test_another_snapshot_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Calendar().restore(wrong)


MOVES = st.one_of(
    st.integers(0, 299), st.integers(-299, -1), st.integers(-200_000, 200_000), st.just("restart")
)


@given(st.lists(MOVES, min_size=5, max_size=80), st.integers(0, 86_400))
@settings(max_examples=150, deadline=None)
def test_whatever_the_clock_does_no_hour_is_told_twice(moves: list[Any], offset: int) -> None:
    now = MIDNIGHT + offset * SECOND_NS
    calendar, told = Calendar(), []
    for move in [*moves, *[290] * 320]:
        if move == "restart":
            saved = json.loads(json.dumps(calendar.snapshot()))
            calendar = Calendar()
            calendar.restore(saved)
        else:
            now += move * SECOND_NS
        ended = calendar.advance(now)
        if ended:
            told.append(ended)
            assert ended.start_ns % HOUR_NS == 0
    starts = [each.start_ns for each in told]
    assert len(set(starts)) == len(starts)
    for day in {start // DAY_NS for start in starts}:
        hours = [each for each in told if each.start_ns // DAY_NS == day]
        flags = [each.is_counted for each in hours]
        assert flags == sorted(flags, reverse=True), "silence has no end within a day"
        if any(flags):
            assert hours[0].is_first
