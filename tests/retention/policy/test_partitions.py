"""Spans, places and retain-until against the calendar and against the audit log's replay."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from retention.audit.replay_places import days as days_named
from retention.audit.replay_purges import _after
from retention.model import DAY_US, GRACE_US, OPEN_US, Place
from retention.policy.model import CLOCKS
from retention.policy.partitions import (
    Period,
    after,
    first_open,
    outlasts,
    place_of,
    retain_until,
    span,
)
from tests.retention.policy.support import us

EPOCH = dt.date(1970, 1, 1)
MONTHS = st.integers(0, 300)
DAYS = st.integers(0, 9000)
CLASSES = st.sampled_from(sorted(CLOCKS))
TIMES = st.integers(0, us("2090-01-01"))


def period(months: int, days: int) -> Period:
    return Period(months, days, "faults", "communication", "why")


PERIODS = st.builds(period, MONTHS, DAYS).filter(lambda p: p.months + p.days > 0)
SHORT = st.builds(period, st.integers(0, 13), st.integers(0, 40)).filter(
    lambda p: p.months + p.days > 0
)


@given(st.integers(-us("2020-01-01"), us("2099-12-31")), st.integers(0, 1300), DAYS)
@example(us("2024-02-29"), 12, 0)
@example(us("2023-12-31T23:59:59"), 2, 0)
def test_after_counts_as_the_replay_does(at_us: int, months: int, days: int) -> None:
    assert after(at_us, months, days) == _after(at_us, months, days)


@pytest.mark.parametrize(
    ("day", "months", "days", "then"),
    [
        ("2026-11-22", 12, 0, "2027-11-22"),
        ("2024-02-29", 12, 0, "2025-02-28"),
        ("2023-02-28", 12, 0, "2024-02-28"),
        ("2026-01-31", 1, 0, "2026-02-28"),
        ("2026-12-31", 2, 1, "2027-03-01"),
        ("2026-11-22", 0, 90, "2027-02-20"),
        ("2027-12-15", 0, 90, "2028-03-14"),
    ],
)
def test_months_and_days_by_hand(day: str, months: int, days: int, then: str) -> None:
    assert after(us(day), months, days) == us(then)


def test_spans_by_hand() -> None:
    assert span(Place("visit", 20240229)) == (us("2024-02-29"), us("2024-03-01"))
    assert span(Place("visit", 20261231)) == (us("2026-12-31"), us("2027-01-01"))
    assert span(Place("usage", 202402)) == (us("2024-02-01"), us("2024-03-01"))
    assert span(Place("usage", 202612)) == (us("2026-12-01"), us("2027-01-01"))


@pytest.mark.parametrize(
    "place",
    [
        Place("visit", 20260229),
        Place("visit", 202611),
        Place("visit", 0),
        Place("visit", 19691231),
        Place("visit", 100000101),
        Place("usage", 202613),
        Place("usage", 202600),
        Place("usage", 20261122),
        Place("usage", -202611),
        Place("nothing", 20261122),
    ],
)
def test_what_is_no_partition_is_refused(place: Place) -> None:
    with pytest.raises(ValueError, match=r"no partition|no table"):
        span(place)


def test_a_row_of_before_1970_has_no_place() -> None:
    with pytest.raises(ValueError, match="1970"):
        place_of("visit", -1)


@given(CLASSES, TIMES)
def test_a_row_lies_within_the_span_of_its_place(record_class: str, at_us: int) -> None:
    place = place_of(record_class, at_us)
    start, end = span(place)
    assert start <= at_us < end
    assert place_of(record_class, start) == place_of(record_class, end - 1) == place
    assert place_of(record_class, end).number > place.number
    assert start == end - DAY_US or record_class == "usage"
    assert days_named(place.name) == (start, end)  # as the replay reads a partition's name


@given(CLASSES, TIMES, PERIODS)
def test_retain_until_is_what_the_replay_takes(record_class: str, at_us: int, kept: Period) -> None:
    place = place_of(record_class, at_us)
    until = retain_until(place, kept)
    first, last = (_after(side, kept.months, kept.days) for side in span(place))
    assert first <= until <= last


@given(CLASSES, TIMES, PERIODS)
def test_no_row_leaves_before_its_own_period(record_class: str, at_us: int, kept: Period) -> None:
    own_day = at_us // DAY_US * DAY_US
    until = retain_until(place_of(record_class, at_us), kept)
    minimum = after(own_day, kept.months, kept.days)
    if record_class == "usage":
        assert minimum <= until <= minimum + 31 * DAY_US
    else:
        assert minimum == until


@pytest.mark.parametrize("length", [(12, 0), (0, 90), (0, 1), (1, 0), (1, 15), (72, 0), (2, 29)])
@pytest.mark.parametrize("record_class", ["visit", "usage"])
def test_first_open_is_the_border_on_every_day_of_nine_years(
    record_class: str, length: tuple[int, int]
) -> None:
    kept = period(*length)
    places: list[Place] = []
    day = us("2023-01-01")
    while day < us("2032-01-01"):
        place = place_of(record_class, day)
        places += [place] if not places or places[-1] != place else []
        day += DAY_US
    untils = [retain_until(place, kept) for place in places]
    assert untils == sorted(untils)
    for place, until in zip(places, untils, strict=True):
        assert first_open(record_class, kept, until) > place.number  # closed at its retain-until
        assert first_open(record_class, kept, until - 1) <= place.number  # open just before


@given(CLASSES, PERIODS, TIMES, TIMES)
def test_first_open_splits_closed_from_open(
    record_class: str, kept: Period, now_us: int, row_us: int
) -> None:
    place = place_of(record_class, row_us)
    closed = retain_until(place, kept) <= now_us
    assert closed == (place.number < first_open(record_class, kept, now_us))


@given(CLASSES, PERIODS, TIMES, TIMES)
def test_first_open_never_goes_back_in_time(
    record_class: str, kept: Period, one_us: int, other_us: int
) -> None:
    early, late = sorted((one_us, other_us))
    assert first_open(record_class, kept, early) <= first_open(record_class, kept, late)


def test_first_open_before_anything_was_stored() -> None:
    assert first_open("visit", period(12, 0), 0) == 19700101
    assert first_open("visit", period(12, 0), -1) == 19700101
    assert first_open("usage", period(0, 90), 0) == 197001
    assert first_open("visit", period(0, 1), us("2026-11-22")) == 20261122
    assert first_open("visit", period(0, 0), us("2026-11-22")) == 20261123
    assert first_open("usage", period(0, 0), us("2026-12-31")) == 202701


@given(PERIODS, PERIODS, st.integers(0, (dt.date(2070, 1, 1) - EPOCH).days))
@example(period(12, 0), period(0, 365), 0)
def test_what_outlasts_is_never_over_first(one: Period, other: Period, day: int) -> None:
    if outlasts(one.length, other.length):
        assert after(day * DAY_US, *one.length) >= after(day * DAY_US, *other.length)


def test_which_lengths_can_be_compared() -> None:
    assert outlasts((12, 0), (0, 365))
    assert not outlasts((0, 365), (12, 0))
    assert outlasts((0, 366), (12, 0))
    assert not outlasts((12, 0), (0, 366))
    assert not outlasts((3, 0), (0, 90))
    assert not outlasts((0, 90), (3, 0))
    assert outlasts((3, 0), (0, 89))


@settings(max_examples=25, deadline=None)  # each is a simulation of up to two years
@given(
    st.sampled_from(["visit", "usage"]),
    SHORT,
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 60)), min_size=1, max_size=20),
    st.integers(0, 1500),
)
def test_rows_are_gone_in_time_and_never_too_early(
    record_class: str, kept: Period, rows: list[tuple[int, int]], start: int
) -> None:
    """Invariant 2 in small: ingest and a keeper that comes once a day at a quarter past noon.

    Each row is (day of its clock, days until it arrives).
    """
    begin = us("2023-11-01") + start * DAY_US
    stored: dict[Place, list[int]] = {}
    gone: set[Place] = set()
    last = max(clock + late for clock, late in rows) + 31 * kept.months + kept.days + 90
    for day in range(last):
        now = begin + day * DAY_US + DAY_US // 2
        border = first_open(record_class, kept, now)
        for clock, late in rows:
            place = place_of(record_class, begin + clock * DAY_US)
            if clock + late == day and place.number >= border:
                assert place not in gone  # else a row would come back after its partition went
                stored.setdefault(place, []).append(begin + clock * DAY_US)
        now += DAY_US // 96
        for place in [p for p in stored if now >= retain_until(p, kept) + OPEN_US]:
            gone.add(place)
            for clock_us in stored.pop(place):
                own_end = after(clock_us, kept.months, kept.days)
                assert own_end + OPEN_US <= now
                assert now < retain_until(place, kept) + GRACE_US
    assert not stored
