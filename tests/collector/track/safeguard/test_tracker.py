"""SafeGuard from events to rows: whole releases, once each, and nothing else."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from collector.track.safeguard.domain import Blocked, marginals, pool_size
from collector.track.safeguard.laplace import DiscreteLaplace
from collector.track.safeguard.release import released
from collector.track.safeguard.tracker import MAX_WAITING
from collector.track.trackers import Trackers, TrackersConfig
from collector.wire.addr import pack
from collector.wire.columns import record_batch
from collector.wire.releases import MAX_PENDING
from tests.collector.track.safeguard.guarding import (
    ACCESS,
    CATEGORIES,
    DAY,
    EPSILON,
    HOUR,
    MIDNIGHT,
    SECOND,
    block,
    cells,
    config,
    guard,
    randomness,
    rows,
    started,
    stream,
    walk,
)


def test_rows_come_when_an_hour_has_ended_and_not_before() -> None:
    made = started()
    made.take(0, 1, MIDNIGHT + SECOND)
    for now in range(MIDNIGHT + 5 * SECOND, MIDNIGHT + HOUR, 290 * SECOND):
        assert made.take(now - SECOND, now, now) == {}
    taken = made.take(0, 1, MIDNIGHT + HOUR)
    assert list(taken) == ["block_count", "safeguard_ledger"]
    assert [key[0] for key in cells(taken)] == ["category-hour"] * 3
    assert made.take(0, 1, MIDNIGHT + HOUR + SECOND) == {}


def test_the_whole_domain_is_released_zeros_too_and_in_its_order() -> None:
    """Nobody is blocked all day; every cell has a row of its own with noise of its own."""
    made = started()
    made.take(0, 1, MIDNIGHT + SECOND)
    walk(made, MIDNIGHT + SECOND, MIDNIGHT + DAY)
    taken = made.take(0, 1, MIDNIGHT + DAY)
    found = cells(taken)
    expected = [
        ("category-hour", MIDNIGHT + hour * HOUR, "", category)
        for hour in range(24) for category in CATEGORIES
    ]  # fmt: skip
    expected += [("region-category-day", MIDNIGHT, "north", each) for each in CATEGORIES]
    expected += [("kept-day", MIDNIGHT, "", each) for each in ("whole", "clipped")]
    assert list(found) == expected
    assert len(set(found.values())) > 10, "noise differs from cell to cell"
    for name in taken:
        assert record_batch(name, taken[name]).num_rows


def test_rows_of_a_day_with_blocks_differ_in_counts_only() -> None:
    """What is public of a release does not depend on what happened."""
    quiet, busy = started(), started()
    for made in (quiet, busy):
        walk(made, MIDNIGHT + SECOND, MIDNIGHT + HOUR // 2)
    for household in range(200):
        block(busy, household, household % 3)
    seen = []
    for made in (quiet, busy):
        walk(made, MIDNIGHT + HOUR // 2, MIDNIGHT + DAY)
        seen.append(made.take(0, 1, MIDNIGHT + DAY))
    first, second = seen
    assert first["safeguard_ledger"] == second["safeguard_ledger"]
    for name, values in first["block_count"].items():
        assert (values == second["block_count"][name]) == (name != "count")
    assert len(json.dumps(quiet.snapshot())) == len(json.dumps(busy.snapshot()))


def test_the_counts_are_true_but_for_the_noise() -> None:
    made = started(noise=False)
    for household in range(10):
        block(made, household, 0)
    block(made, 3, 2)
    walk(made, MIDNIGHT + SECOND, MIDNIGHT + HOUR)
    block(made, 3, 2)
    block(made, 4, 1)
    walk(made, MIDNIGHT + HOUR, MIDNIGHT + DAY)
    found = cells(made.take(0, 1, MIDNIGHT + DAY))
    assert found["category-hour", MIDNIGHT, "", "adult"] == 10
    assert found["category-hour", MIDNIGHT, "", "malware"] == 1
    assert found["category-hour", MIDNIGHT + HOUR, "", "malware"] == 1
    assert found["region-category-day", MIDNIGHT, "north", "gambling"] == 1
    assert found["region-category-day", MIDNIGHT, "north", "malware"] == 1
    assert found["kept-day", MIDNIGHT, "", "whole"] == 10
    assert sum(found.values()) == 10 + 1 + 1 + 1 + 12 + 10


def test_the_ledger_says_what_a_day_costs() -> None:
    made = started()
    walk(made, MIDNIGHT + SECOND, MIDNIGHT + DAY)
    taken = made.take(0, 1, MIDNIGHT + DAY)
    entries = [e for e in rows(taken, "safeguard_ledger") if e["outcome"] == "released"]
    assert len(entries) == 26
    assert sum(entry["epsilon_micro"] for entry in entries) == sum(EPSILON.values())
    assert {entry["restarts"] for entry in entries} == {0}
    counts = rows(taken, "block_count")
    for entry in entries:
        mine = [row for row in counts if row["release"] == entry["release"]]
        assert len(mine) == entry["rows"]
        for row in mine:
            for name in ("marginal", "mechanism", "start_ns", "end_ns", "observed_ns"):
                assert row[name] == entry[name]
        assert entry["observed_ns"] == entry["end_ns"]
    first = {entry["marginal"]: entry for entry in reversed(entries)}
    for entry in first.values():
        scale = Fraction(entry["scale_num"], entry["scale_den"])
        assert entry["l0"] * entry["routers"] / scale * 1_000_000 <= entry["epsilon_micro"]
    ids = [row["record_id"] for row in [*counts, *entries]]
    assert len(set(ids)) == len(ids)


def test_two_collectors_have_different_ids() -> None:
    taken = []
    for name in ("edge-1", "edge-2"):
        made = started(collector=name)
        walk(made, MIDNIGHT + SECOND, MIDNIGHT + HOUR)
        taken.append({row["record_id"] for row in rows(made.take(0, 1, 0), "block_count")})
    assert not taken[0] & taken[1]


def test_a_restart_is_silent_for_the_rest_of_the_day_and_says_so() -> None:
    made = started()
    block(made, 1, 1)
    walk(made, MIDNIGHT + SECOND, MIDNIGHT + 3 * HOUR + SECOND)
    assert len(cells(made.take(0, 1, MIDNIGHT + 3 * HOUR + SECOND))) == 9
    again = guard()
    again.restore(json.loads(json.dumps(made.snapshot())), MIDNIGHT + 3 * HOUR + 2 * SECOND)
    walk(again, MIDNIGHT + 3 * HOUR + 2 * SECOND, MIDNIGHT + DAY)
    taken = again.take(0, 1, MIDNIGHT + DAY)
    assert "block_count" not in taken
    entries = rows(taken, "safeguard_ledger")
    assert {entry["outcome"] for entry in entries} == {"silent"}
    assert {entry["epsilon_micro"] for entry in entries} == {0}
    assert {entry["rows"] for entry in entries} == {0}
    assert {entry["restarts"] for entry in entries} == {1}
    hours = [e["start_ns"] for e in entries if e["marginal"] == "category-hour"]
    assert hours == [MIDNIGHT + n * HOUR for n in range(3, 24)]
    assert len(entries) == 21 + 2
    block(again, 1, 1)
    walk(again, MIDNIGHT + DAY, MIDNIGHT + DAY + HOUR)
    assert cells(again.take(0, 1, MIDNIGHT + DAY + HOUR)), "the next day counts"


def test_what_was_made_and_not_taken_is_lost_with_the_process() -> None:
    """A crash between release and commit: no second noise for the window, ever."""
    made = started()
    saved = made.snapshot()
    walk(made, MIDNIGHT + SECOND, MIDNIGHT + HOUR + SECOND)
    again = guard()
    again.restore(saved, MIDNIGHT + HOUR + SECOND)
    walk(again, MIDNIGHT + HOUR + SECOND, MIDNIGHT + DAY)
    assert "block_count" not in again.take(0, 1, MIDNIGHT + DAY)


def test_a_snapshot_holds_public_facts_only() -> None:
    made = started()
    for household in range(50):
        block(made, household, household % 3)
    assert made.snapshot() == {
        "lengths": [HOUR, 24], "floor": -1, "days": [[19_999, 24, 1], [20_000, 0, 0]]
    }  # fmt: skip


def test_midnight_destroys_what_was_known_of_the_day() -> None:
    made = started()
    block(made, 1, 1)
    made.settle()
    households = made._households
    key, chunk = bytes(households._key), households._chunks[0]
    walk(made, MIDNIGHT + SECOND, MIDNIGHT + DAY)
    assert not households._tags
    assert not any(chunk)
    assert bytes(households._key) not in (key, bytes(32))


def test_doubt_destroys_it_at_once_and_so_does_the_end() -> None:
    for jumps in (True, False):
        made = started()
        block(made, 1, 1)
        if jumps:
            made.advance(MIDNIGHT + 2 * HOUR)
        else:
            made.wipe()
        assert not any(made._households._key)
        assert not made._households._tags
        block(made, 1, 1)
        made.settle()
        assert not made._households._tags


def test_what_waits_for_the_clock_is_overwritten_and_none_is_left_out() -> None:
    made = started(noise=False)
    for household in range(MAX_WAITING + 5):
        block(made, household, 0)
    assert made._households.kept[0] == MAX_WAITING, "no room for more"
    made.advance(MIDNIGHT + SECOND)
    assert made._households.kept[0] == MAX_WAITING + 5
    assert not any(made._waiting)
    block(made, 1, 1)
    assert any(made._waiting)
    made.wipe()
    assert not any(made._waiting)


def test_what_waits_counts_in_the_hour_it_is_of() -> None:
    made = started(noise=False)
    walk(made, MIDNIGHT + SECOND, MIDNIGHT + HOUR - SECOND)
    block(made, 1, 0)
    told = cells(made.take(0, 1, MIDNIGHT + HOUR))
    assert sum(told.values()) == 1


def test_strangers_and_silent_days_are_not_counted() -> None:
    made = started(noise=False)
    made.blocked(Blocked(0, pack("192.0.2.1"), 0))
    made.settle()
    assert not made._households._tags
    silent = guard()
    silent.advance(MIDNIGHT + HOUR)
    block(silent, 1, 1)
    silent.settle()
    assert not silent._households._tags


def test_counts_are_overwritten_even_where_noise_fails() -> None:
    """Else the next hour would count a household a second time."""
    made = started(noise=False)
    block(made, 2, 0)
    walk(made, MIDNIGHT + SECOND, MIDNIGHT + HOUR - SECOND)
    laws = made._laws
    made._laws = {}
    with pytest.raises(KeyError):
        made.advance(MIDNIGHT + HOUR)
    made._laws = laws
    walk(made, MIDNIGHT + HOUR, MIDNIGHT + 2 * HOUR)
    assert sum(cells(made.take(0, 1, 0)).values()) == 0


def test_what_waits_for_a_batch_is_bounded() -> None:
    made = started()
    walk(made, MIDNIGHT + SECOND, MIDNIGHT + 33 * DAY)
    assert len(made._pending) == MAX_PENDING


def test_a_release_takes_no_other_counts_or_noise() -> None:
    hourly = marginals(config(), pool_size(ACCESS, 64))[0]
    right, wrong = DiscreteLaplace(hourly.scale), DiscreteLaplace(hourly.scale / 2)
    for counts, law in (([0] * 2, right), ([0] * 3, wrong)):
        with pytest.raises(ValueError, match="not those of the marginal"):
            released("edge", hourly, (0, HOUR), counts, law, stream(), epsilon_micro=0)


def test_the_trackers_carry_it_where_it_is_configured() -> None:
    with_it = TrackersConfig(access=ACCESS, window_ns=300 * SECOND, safeguard=config())
    without = TrackersConfig(access=ACCESS, window_ns=300 * SECOND)
    with pytest.raises(ValueError, match="random"):
        Trackers(with_it, MIDNIGHT)
    plain = Trackers(without, MIDNIGHT)
    plain.observed(Blocked(0, pack("10.0.0.1"), 0))
    assert "safeguard" not in plain.snapshot()
    made = Trackers(with_it, MIDNIGHT, randomness())
    stages = made.stages()
    made.tick(MIDNIGHT - SECOND)
    made.tick(MIDNIGHT)
    made.observed(Blocked(0, pack("10.0.0.1"), 0))
    assert made.safeguard is not None
    made.safeguard.settle()
    assert sum(made.safeguard._households.kept) == 1
    assert made.stages() == stages, "no count of it can be scraped"
    for now in range(MIDNIGHT, MIDNIGHT + HOUR, 240 * SECOND):
        made.tick(now)
    taken = made.take(MIDNIGHT, MIDNIGHT + HOUR, MIDNIGHT + HOUR)
    assert any("block_count" in each for each in taken)
    state = json.loads(json.dumps(made.snapshot()))
    again = Trackers(with_it, MIDNIGHT, randomness())
    assert again.restore(state, MIDNIGHT + HOUR) == []
    assert again.safeguard is not None
    assert again.safeguard.snapshot() == made.safeguard.snapshot()
    state["safeguard"] = {"days": 1}
    assert Trackers(with_it, MIDNIGHT, randomness()).restore(state, MIDNIGHT) == ["safeguard"]
    assert plain.restore(state, MIDNIGHT) == []
    del state["safeguard"]
    assert Trackers(with_it, MIDNIGHT, randomness()).restore(state, MIDNIGHT) == []
