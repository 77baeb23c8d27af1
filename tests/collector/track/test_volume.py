"""Cumulative counters into rows: every byte once, in the interval in which it was counted."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.track.boundary import settle
from collector.track.volume import Fill, Reading, Sample, Volume, VolumeConfig
from collector.wire import addr
from collector.wire.columns import record_batch
from collector.wire.loss import Loss
from collector.wire.records import USAGE_ACROSS_RESTART, USAGE_COUNTER_RESET, record_id

WINDOW = 300_000_000_000
SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND - 1_700_000_000 * SECOND % WINDOW
A, B, C = (addr.pack(text) for text in ("10.0.0.0", "10.0.0.2", "2001:db8:0:a::"))
Counters = tuple[int, int, int, int]


def reading(
    ts_ns: int,
    counters: Mapping[bytes, Counters],
    generation: str = "g1",
    began_ns: int | None = None,
    uncounted: int = 0,
) -> Reading:
    return Reading(
        began_ns=ts_ns - 1 if began_ns is None else began_ns,
        ts_ns=ts_ns,
        generation=generation,
        addresses=np.frombuffer(b"".join(counters), "V16"),
        prefix_len=np.array([64 if key == C else 128 for key in counters], np.uint8),
        counters=np.array(list(counters.values()), np.uint64).reshape(-1, 4),
        fill=(Fill("up4", len(counters), 8),),
        uncounted_bytes=uncounted,
    )


def sample(ts_ns: int, key: bytes, values: Counters, generation: str = "g1") -> Sample:
    return Sample(ts_ns, generation, key, 64 if key == C else 128, *values)


def begun(ts_ns: int = T0) -> Volume:
    volume = Volume(VolumeConfig())
    volume.begin("g1", ts_ns)
    return volume


def rows(volume: Volume, end_ns: int, **more: Any) -> list[dict[str, Any]]:
    """Rows as dictionaries, after the check every batch goes through."""
    columns = volume.take(end_ns - WINDOW, end_ns, end_ns + 5, **more)["usage"]
    found: list[dict[str, Any]] = record_batch("usage", columns).to_pylist()
    for row in found:
        key = (row["start_ns"], row["end_ns"], row["address"], row["prefix_len"])
        assert row["record_id"] == record_id("usage", *key)
        assert row["start_ns"] < row["end_ns"] and row["observed_ns"] == end_ns + 5
    return found


def brief(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    names = ("address", "start_ns", "end_ns", "up_bytes", "down_bytes", "up_packets", "flags")
    return sorted(tuple(row[name] for name in names) for row in found)


def test_a_window_is_the_difference_of_two_readings_on_its_edges() -> None:
    volume = begun()
    volume.observe(reading(T0 + WINDOW + SECOND // 3, {A: (100, 50, 1, 2), C: (7, 0, 1, 0)}))
    assert brief(rows(volume, T0 + WINDOW)) == [
        (A, T0, T0 + WINDOW, 100, 50, 1, 0),
        (C, T0, T0 + WINDOW, 7, 0, 1, 0),
    ]
    volume.observe(reading(T0 + 2 * WINDOW + SECOND, {A: (160, 50, 3, 2), C: (7, 0, 1, 0)}))
    assert brief(rows(volume, T0 + 2 * WINDOW)) == [(A, T0 + WINDOW, T0 + 2 * WINDOW, 60, 0, 2, 0)]
    assert rows(volume, T0 + 3 * WINDOW) == []
    assert volume.fill == (Fill("up4", 2, 8),)


def test_a_late_reading_keeps_its_own_time() -> None:
    assert settle(T0 + 5, WINDOW, 5) == T0 and settle(T0 + 6, WINDOW, 5) == T0 + 6
    volume, late = begun(), T0 + WINDOW + 40 * SECOND
    volume.observe(reading(late, {A: (9, 0, 1, 0)}))
    assert brief(rows(volume, T0 + WINDOW)) == [(A, T0, late, 9, 0, 1, 0)]


def test_counters_found_by_the_first_reading_are_a_baseline() -> None:
    volume = Volume(VolumeConfig())
    volume.observe(reading(T0, {A: (1_000, 500, 3, 3)}, uncounted=77))
    assert rows(volume, T0) == []
    assert volume.take_losses() == [
        Loss(T0 - WINDOW, T0, "volume", "baseline", 1_500, "bytes", ("usage",))
    ]
    volume.observe(reading(T0 + WINDOW, {A: (1_001, 500, 4, 3), B: (8, 0, 1, 0)}, uncounted=77))
    assert brief(rows(volume, T0 + WINDOW)) == [
        (A, T0, T0 + WINDOW, 1, 0, 1, 0),
        (B, T0, T0 + WINDOW, 8, 0, 1, 0),
    ]
    assert volume.take_losses() == []
    assert (volume.counts["ignored"], volume.counts["recorded"]) == (1_500, 9)
    assert volume.counts["metered"] == 9


def test_a_split_gives_each_side_of_a_binding_change_its_own_row() -> None:
    volume, t1 = begun(), T0 + 100 * SECOND + 7
    assert volume.split(sample(t1, A, (30, 0, 3, 0)))
    assert volume.split(sample(t1, C, (0, 0, 0, 0)))  # nothing yet, but its interval opens here
    volume.observe(reading(T0 + WINDOW, {A: (100, 5, 9, 1), C: (4, 0, 1, 0)}))
    assert brief(rows(volume, T0 + WINDOW)) == [
        (A, T0, t1, 30, 0, 3, 0),
        (A, t1, T0 + WINDOW, 70, 5, 6, 0),
        (C, t1, T0 + WINDOW, 4, 0, 1, 0),
    ]
    t2 = T0 + WINDOW + 20
    assert volume.split(sample(t2, A, (101, 5, 10, 1)))
    assert brief(rows(volume, T0 + 2 * WINDOW)) == [(A, T0 + WINDOW, t2, 1, 0, 1, 0)]


def test_a_row_that_begins_after_the_window_waits_for_its_own() -> None:
    volume, late = begun(), T0 + WINDOW + SECOND
    volume.observe(reading(T0 + WINDOW // 2, {A: (1, 0, 1, 0)}))
    volume.split(sample(late - 5, A, (2, 0, 2, 0)))
    volume.split(sample(late - 4, A, (3, 0, 3, 0)))
    volume.observe(reading(late, {A: (7, 0, 5, 0)}))
    assert brief(rows(volume, T0 + WINDOW)) == [(A, T0, late - 5, 2, 0, 2, 0)]
    volume.observe(reading(T0 + 2 * WINDOW, {A: (8, 0, 6, 0)}))
    assert brief(rows(volume, T0 + 2 * WINDOW)) == [
        (A, late - 5, late - 4, 1, 0, 1, 0),
        (A, late - 4, T0 + 2 * WINDOW, 5, 0, 3, 0),
    ]


def test_a_wide_binding_splits_every_prefix_inside_it_and_no_other() -> None:
    volume, t1 = begun(), T0 + WINDOW + SECOND
    inside = [addr.pack(f"2001:db8:0:{n:x}::") for n in (0x100, 0x1FF)]
    outside = [addr.pack(f"2001:db8:0:{n:x}::") for n in (0xFF, 0x200)]
    values: dict[bytes, Counters] = dict.fromkeys([*inside, *outside], (10, 0, 1, 0))
    assert volume.split_prefix(reading(t1, values), inside[1], 56)
    volume.observe(reading(T0 + 2 * WINDOW, dict.fromkeys(values, (11, 0, 2, 0))))
    found = brief(rows(volume, T0 + 2 * WINDOW))
    end = T0 + 2 * WINDOW
    assert found == sorted(
        [(key, T0, t1, 10, 0, 1, 0) for key in inside]
        + [(key, t1, end, 1, 0, 1, 0) for key in inside]
        + [(key, T0, end, 11, 0, 2, 0) for key in outside]
    )


def test_splits_beyond_the_limit_are_refused_and_lose_nothing() -> None:
    volume = Volume(VolumeConfig(max_splits=2))
    assert not volume.split(sample(T0 + 1, A, (1, 0, 1, 0)))  # nothing read yet
    volume.begin("g1", T0)
    assert volume.split(sample(T0 + 1, A, (1, 0, 1, 0)))
    assert not volume.split(sample(T0 + 2, A, (2, 0, 2, 0)))
    assert not volume.split(sample(T0 + 2, A, (2, 0, 2, 0), generation="other"))
    volume.observe(reading(T0 + WINDOW, {A: (5, 0, 5, 0)}))
    assert sum(row["up_bytes"] for row in rows(volume, T0 + WINDOW)) == 5
    assert volume.counts["splits_refused"] == 3


def test_a_counter_that_went_down_is_usage_since_then_and_a_loss() -> None:
    volume, end = begun(), T0 + 2 * WINDOW
    volume.observe(reading(T0 + WINDOW, {A: (100, 100, 5, 5), B: (50, 0, 1, 0)}))
    rows(volume, T0 + WINDOW)
    volume.observe(reading(end, {A: (30, 120, 2, 6), B: (50, 0, 1, 0)}))
    assert brief(rows(volume, end)) == [(A, T0 + WINDOW, end, 30, 20, 2, USAGE_COUNTER_RESET)]
    assert volume.take_losses() == [
        Loss(T0 + WINDOW, end, "volume", "counter-reset", -1, "bytes", ("usage",))
    ]
    volume.split(sample(end + 9, B, (1, 0, 1, 0)))
    assert brief(rows(volume, end + WINDOW)) == [(B, end, end + 9, 1, 0, 1, USAGE_COUNTER_RESET)]
    assert [loss.reason for loss in volume.take_losses()] == ["counter-reset"]


def test_another_generation_counts_from_zero_even_where_it_is_larger() -> None:
    volume, end = begun(), T0 + 2 * WINDOW
    volume.observe(reading(T0 + WINDOW, {A: (100, 0, 5, 0), B: (1, 0, 1, 0)}, uncounted=50))
    rows(volume, T0 + WINDOW)
    volume.take_losses()
    volume.observe(reading(end, {A: (130, 0, 6, 0)}, "g2", uncounted=20))
    assert brief(rows(volume, end)) == [(A, T0 + WINDOW, end, 130, 0, 6, USAGE_COUNTER_RESET)]
    assert [(x.reason, x.amount) for x in volume.take_losses()] == [
        ("counter-reset", -1),
        ("set-full", 20),
    ]
    volume.observe(reading(end + WINDOW, {A: (131, 0, 7, 0), B: (2, 0, 1, 0)}, "g2", uncounted=20))
    assert brief(rows(volume, end + WINDOW)) == [
        (A, end, end + WINDOW, 1, 0, 1, 0),
        (B, end, end + WINDOW, 2, 0, 1, 0),
    ]


def test_a_table_we_replaced_keeps_what_its_last_reading_said() -> None:
    volume, swap = begun(), T0 + 10 * SECOND
    volume.observe(reading(swap, {A: (10, 0, 1, 0)}))
    volume.begin("g2", swap + 5)
    volume.observe(reading(T0 + WINDOW, {A: (3, 0, 1, 0)}, "g2"))
    assert brief(rows(volume, T0 + WINDOW)) == [
        (A, T0, swap, 10, 0, 1, 0),
        (A, swap + 5, T0 + WINDOW, 3, 0, 1, 0),
    ]
    (loss,) = volume.take_losses()
    assert (loss.start_ns, loss.end_ns, loss.reason) == (swap, swap + 5, "counter-reset")


def test_an_address_missing_from_a_reading_has_no_news() -> None:
    volume, end = begun(), T0 + 2 * WINDOW
    volume.observe(reading(T0 + WINDOW, {A: (10, 0, 1, 0), B: (10, 0, 1, 0)}))
    rows(volume, T0 + WINDOW)
    volume.observe(reading(end, {B: (11, 0, 2, 0)}))
    assert brief(rows(volume, end)) == [(B, T0 + WINDOW, end, 1, 0, 1, 0)]
    volume.observe(reading(end + WINDOW, {A: (15, 0, 2, 0), B: (11, 0, 2, 0)}))
    assert brief(rows(volume, end + WINDOW)) == [(A, T0 + WINDOW, end + WINDOW, 5, 0, 1, 0)]


def test_a_sample_newer_than_the_dump_it_came_during_is_no_reset() -> None:
    volume, end = begun(), T0 + WINDOW
    volume.split(sample(end + 50, A, (20, 0, 2, 0)))
    volume.observe(reading(end + 90, {A: (19, 0, 1, 0)}, began_ns=end + 10))
    assert volume.take_losses() == []
    volume.observe(reading(end + WINDOW, {A: (25, 0, 3, 0)}))
    assert brief(rows(volume, end + WINDOW)) == [
        (A, T0, end + 50, 20, 0, 2, 0),
        (A, end + 50, end + WINDOW, 5, 0, 1, 0),
    ]


def test_a_clock_set_back_loses_no_bytes_and_makes_no_empty_interval() -> None:
    volume, wrong = begun(), T0 + 10 * WINDOW
    volume.observe(reading(wrong, {A: (10, 0, 1, 0)}))
    rows(volume, wrong)
    volume.observe(reading(T0 + WINDOW, {A: (15, 0, 2, 0)}))
    (row,) = rows(volume, T0 + WINDOW)
    assert (row["start_ns"], row["end_ns"], row["up_bytes"]) == (T0 + WINDOW - 1, T0 + WINDOW, 5)
    volume.split(sample(T0 + 5, A, (17, 0, 3, 0)))
    volume.observe(reading(T0 + 2 * WINDOW, {A: (18, 0, 4, 0)}))
    assert [row["up_bytes"] for row in rows(volume, T0 + 2 * WINDOW)] == [2, 1]


def test_the_first_interval_after_a_restart_begins_at_the_journalled_reading() -> None:
    volume, end = begun(), T0 + 2 * WINDOW
    volume.observe(reading(T0 + WINDOW, {A: (10, 0, 1, 0)}))
    rows(volume, T0 + WINDOW)
    stored = json.dumps(volume.snapshot())
    back, much_later = Volume(VolumeConfig()), T0 + 9 * WINDOW
    back.restore(json.loads(stored), much_later)
    assert back.generation == "g1"
    back.observe(reading(much_later, {A: (17, 0, 2, 0), B: (3, 0, 1, 0)}))
    assert brief(rows(back, much_later)) == [
        (A, T0 + WINDOW, much_later, 7, 0, 1, USAGE_ACROSS_RESTART),
        (B, T0 + WINDOW, much_later, 3, 0, 1, USAGE_ACROSS_RESTART),
    ]
    back.observe(reading(much_later + WINDOW, {A: (18, 0, 3, 0), B: (3, 0, 1, 0)}))
    assert [row["flags"] for row in rows(back, much_later + WINDOW)] == [0]
    volume.observe(reading(end, {A: (11, 0, 2, 0)}), restart=True)
    assert [row["flags"] for row in rows(volume, end)] == [USAGE_ACROSS_RESTART]


@pytest.mark.parametrize("damage", ["short", "order", "base64", "zlib", "rows"])
def test_a_damaged_snapshot_is_refused(damage: str) -> None:
    volume = begun()
    volume.observe(reading(T0 + 1, {A: (1, 0, 1, 0), B: (1, 0, 1, 0)}))
    stored: dict[str, Any] = json.loads(json.dumps(volume.snapshot()))
    table = stored["table"]
    if damage == "short":
        table["rows"] = 3
    elif damage == "rows":
        table["rows"] = -1
    elif damage == "base64":
        table["columns"] = "!" + table["columns"]
    elif damage == "zlib":
        table["columns"] = "QUJD"
    else:
        volume._table.keys = volume._table.keys[::-1].copy()
        stored = json.loads(json.dumps(volume.snapshot()))
    with pytest.raises(ValueError):
        Volume(VolumeConfig()).restore(stored, T0)


def test_flows_go_to_the_last_row_of_their_address() -> None:
    volume = begun()
    volume.split(sample(T0 + 9, A, (1, 0, 1, 0)))
    volume.observe(reading(T0 + WINDOW, {A: (3, 0, 2, 0), C: (1, 0, 1, 0)}))
    found = rows(
        volume, T0 + WINDOW, flow_counts={(A, 128): 4, (C, 64): 2, (C, 63): 5, (B, 128): 9}
    )
    assert [(row["start_ns"], row["flows"]) for row in found] == [(T0, 0), (T0 + 9, 4), (T0, 2)]
    assert volume.counts["flows_unplaced"] == 14
    assert rows(volume, T0 + 2 * WINDOW, flow_counts={(A, 128): 3}) == []
    assert volume.counts["flows_unplaced"] == 17


VALUES = st.integers(0, 5)
ACTIONS = st.one_of(
    st.tuples(st.just("traffic"), st.sampled_from((A, B, C)), VALUES, VALUES),
    st.tuples(st.just("read"), st.sets(st.sampled_from((A, B, C)), max_size=1)),
    st.tuples(st.just("split"), st.sampled_from((A, B, C))),
    st.tuples(st.just("restart")),
    st.tuples(st.just("recreate")),
    st.tuples(st.just("replace")),
    st.tuples(st.just("reset"), st.sampled_from((A, B, C))),
    st.tuples(st.just("wait"), st.integers(0, 400 * SECOND)),
    st.tuples(st.just("back"), st.integers(1, 900 * SECOND)),
    st.tuples(st.just("take")),
)


class Kernel:
    """Counters as the kernel has them, and what a careful clerk with a book would bill."""

    def __init__(self) -> None:
        self.counters: dict[bytes, list[int]] = {}
        self.last: dict[bytes, list[int]] = defaultdict(lambda: [0] * 4)
        self.billed: dict[bytes, list[int]] = defaultdict(lambda: [0] * 4)
        self.generation = 1

    def traffic(self, key: bytes, up: int, down: int) -> None:
        if up or down:
            entry = self.counters.setdefault(key, [0] * 4)
            for i, more in enumerate((up * 100, down * 100, up, down)):
                entry[i] += more

    def bill(self, key: bytes) -> Counters:
        now, last = self.counters.get(key, [0] * 4), self.last[key]
        for way in (0, 1):
            fell = any(now[i] < last[i] for i in (way, way + 2))
            for i in (way, way + 2):
                self.billed[key][i] += now[i] - (0 if fell else last[i])
        self.last[key] = list(now)
        return now[0], now[1], now[2], now[3]

    def renew(self) -> None:
        self.counters.clear()
        self.last.clear()
        self.generation += 1


@settings(max_examples=200, deadline=None)
@given(st.lists(ACTIONS, max_size=40))
def test_rows_add_up_to_what_the_counters_counted(script: list[tuple[Any, ...]]) -> None:
    kernel, clock = Kernel(), T0
    volume = Volume(VolumeConfig())
    volume.begin("1", clock)
    found: list[dict[str, Any]] = []
    backwards = False

    def count() -> None:
        assert volume.counts["seen"] == sum(
            volume.counts[name] for name in ("recorded", "ignored", "lost", "open")
        )

    for action, *more in [*script, ("read", set()), ("wait", WINDOW), ("read", set()), ("take",)]:
        clock += 1
        name = str(kernel.generation)
        if action == "traffic":
            kernel.traffic(*more)
        elif action == "read":
            seen = {key: kernel.bill(key) for key in kernel.counters if key not in more[0]}
            volume.observe(reading(clock, seen, name))
        elif action == "split":
            values = kernel.counters.get(more[0], [0] * 4)
            if volume.split(sample(clock, more[0], (*values,), name)):  # type: ignore[arg-type]
                kernel.bill(more[0])
        elif action == "restart":
            stored = json.loads(json.dumps(volume.snapshot()))
            volume = Volume(VolumeConfig())
            volume.restore(stored, clock)
        elif action == "recreate":
            kernel.renew()
        elif action == "replace":
            if volume.generation == name:
                volume.observe(reading(clock, {k: kernel.bill(k) for k in kernel.counters}, name))
            kernel.renew()
            volume.begin(str(kernel.generation), clock)
        elif action == "reset":
            kernel.counters.pop(more[0], None)
        elif action == "wait":
            clock += more[0]
        elif action == "back":
            clock, backwards = clock - more[0], True
        else:
            end = clock - clock % WINDOW
            found += rows(volume, end)
        count()
    clock += WINDOW
    found += rows(volume, clock)
    names = ("up_bytes", "down_bytes", "up_packets", "down_packets")
    totals: dict[bytes, list[int]] = defaultdict(lambda: [0] * 4)
    for row in found:
        totals[row["address"]] = [
            old + row[each] for old, each in zip(totals[row["address"]], names, strict=True)
        ]
    assert totals == {key: sums for key, sums in kernel.billed.items() if any(sums)}
    assert len({row["record_id"] for row in found}) == len(found)
    assert volume.counts["open"] == 0
    if not backwards:
        for key in (A, B, C):
            spans = sorted((r["start_ns"], r["end_ns"]) for r in found if r["address"] == key)
            assert all(one[1] <= two[0] for one, two in zip(spans, spans[1:], strict=False))
