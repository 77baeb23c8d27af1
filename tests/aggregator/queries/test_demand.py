"""Busy hours on both engines: exact sums, lines only where there are enough, nobody in them."""

from __future__ import annotations

import pytest

from aggregator.queries.arithmetic import parse_period
from aggregator.queries.demand import BusyHour, busy_hour
from tests.aggregator.queries.world import HOUR, MINUTE, World, at, gap, usage

pytestmark = pytest.mark.engine

DAY = "2026-11-22"


def ask(world: World, period: str = DAY, area: str = "") -> BusyHour:
    return busy_hour(world.client, parse_period(period), world.now_ns // 1000, area)


@pytest.fixture
def busy(world: World) -> World:
    """Twelve lines in the north, three elsewhere; the second hour is the busiest. Sent once."""
    world.now_ns = at("2026-11-23")
    if world.store.count("demand"):
        return world
    start = at(DAY)
    north = [f"10.0.0.{n}" for n in range(12)]
    for hour, volume in enumerate((1_000_000, 4_500_000, 2_000)):
        rows = [usage(a, start + hour * HOUR, up=volume // 10, down=volume) for a in north]
        rows += [usage(f"192.0.2.{n}", start + hour * HOUR, up=1, down=2) for n in range(3)]
        world.send("edge-1", start + hour * HOUR + 5 * MINUTE, usage=rows)
    # A second collector has the same area: its lines add up, the batches of one do not.
    other = [usage(f"10.1.0.{n}", start + HOUR, up=0, down=1) for n in range(11)]
    world.send("edge-2", start + HOUR + 5 * MINUTE, usage=other)
    world.send("edge-1", start + 6 * HOUR, usage=[usage(a, start, down=1) for a in north])
    return world


def test_sums_lines_and_the_busiest_hour(busy: World) -> None:
    got = ask(busy)
    keys = [(row["area"], (row["hour_us"] * 1000 - at(DAY)) // HOUR) for row in got.hours]
    assert keys == [(a, h) for a in ("north", "unassigned") for h in range(3)]
    north = [row for row in got.hours if row["area"] == "north"]
    assert [row["down_bytes"] for row in north] == [12_000_012, 54_000_011, 24_000]
    assert [row["lines"] for row in north] == [12, 23, 12]
    assert north[1]["down_mbps"] == pytest.approx(54_000_011 * 8 / 3600 / 1e6)
    assert got.busiest["north"] is north[1]
    assert got.totals["down_bytes"] == sum(row["down_bytes"] for row in got.hours)
    assert got.totals["up_bytes"] == sum(row["up_bytes"] for row in got.hours)


def test_few_lines_are_not_counted_aloud(busy: World) -> None:
    few = [row for row in ask(busy).hours if row["area"] == "unassigned"]
    assert [row["lines"] for row in few] == [None] * 3
    assert [row["down_bytes"] for row in few] == [6] * 3


def test_one_area_and_one_hour(busy: World) -> None:
    assert {row["area"] for row in ask(busy, area="north").hours} == {"north"}
    assert ask(busy, area="' OR 1 --").hours == []
    hour = ask(busy, f"{DAY}T01:00/{DAY}T02:00", "north").hours
    assert [row["down_bytes"] for row in hour] == [54_000_011]


def test_completeness_is_that_of_the_collectors(busy: World) -> None:
    start = at(DAY)
    # edge-1 reported for 6 of 24 hours, edge-2 for five minutes of the 23 since it began.
    expected = (6 * 60 + 5) / (24 * 60 + 23 * 60)
    assert ask(busy).completeness == pytest.approx(expected)
    assert ask(busy, "2026-10").completeness == 0.0
    lost = gap(start + 2 * HOUR, start + 3 * HOUR, "usage")
    busy.send("edge-1", start + 6 * HOUR + 5 * MINUTE, gap=[lost])
    again = ask(busy).completeness
    assert again == pytest.approx((5 * 60 + 5 + 5) / (24 * 60 + 23 * 60))


def test_there_is_no_subscriber_in_the_question_or_the_answer(busy: World) -> None:
    for row in ask(busy).hours:
        assert set(row) == {
            "area", "hour_us", "up_bytes", "down_bytes", "lines", "up_mbps", "down_mbps"
        }  # fmt: skip
