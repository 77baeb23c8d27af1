"""Windows: aligned, without holes, never backwards; and pieces that fit a batch."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.window import Piece, Window
from collector.wire import codec
from collector.wire.batch import MAX_BATCH_BYTES, BatchError
from collector.wire.gaps import (
    MAX_LOSSES,
    gap_columns,
    loss_from_json,
    loss_to_json,
    losses_of,
    merge,
)
from collector.wire.loss import Loss
from collector.wire.records import CLASSES
from tests.collector.samples import HEADER, all_classes, columns

S = 1_000_000_000
LENGTH = 300 * S
T0 = 1_700_000_100 * S  # aligned: a multiple of 300 s


def opened(now_ns: int = T0 + 7, **options: Any) -> Window:
    window = Window(LENGTH, "lns1", **options)
    window.open(now_ns)
    return window


def close(window: Window, now_ns: int, *taken: Any, losses: Any = ()) -> list[Piece]:
    start, end = window.bounds(now_ns)
    return window.close(start, end, now_ns, taken, losses)


def loss(start: int = 5, end: int = 9, amount: int = 3, **changes: Any) -> Loss:
    fields: dict[str, Any] = {
        "stage": "capture", "reason": "kernel-drop", "unit": "packets",
        "classes": ("visit", "call"), "scope": "collector",
    }  # fmt: skip
    return Loss(start, end, amount=amount, **(fields | changes))


# -- intervals


def test_windows_are_aligned_and_follow_one_another() -> None:
    window = opened(T0 + 123)
    assert not window.due(T0 + LENGTH - 1)
    assert window.due(T0 + LENGTH)
    assert window.bounds(T0 + LENGTH + 5) == (T0, T0 + LENGTH)
    close(window, T0 + LENGTH + 5)
    assert (window.start_ns, window.end_ns) == (T0 + LENGTH, T0 + 2 * LENGTH)
    assert not window.due(T0 + LENGTH + 6)


def test_a_window_closed_late_covers_all_the_time() -> None:
    window = opened()
    assert window.bounds(T0 + 3 * LENGTH + 9) == (T0, T0 + 3 * LENGTH)


def test_a_window_closed_early_ends_now_and_the_next_at_the_boundary() -> None:
    window = opened()
    close(window, T0 + 100 * S)
    assert (window.start_ns, window.end_ns) == (T0 + 100 * S, T0 + LENGTH)


def test_a_restart_goes_on_where_it_ended() -> None:
    window = opened()
    close(window, T0 + 100 * S)
    again = Window(LENGTH, "lns1")
    again.restore(window.snapshot(), T0 + 110 * S)
    assert (again.start_ns, again.end_ns) == (T0 + 100 * S, T0 + LENGTH)
    late = Window(LENGTH, "lns1")
    late.restore(window.snapshot(), T0 + 10 * LENGTH + 1)
    assert late.start_ns == T0 + 10 * LENGTH, "nobody watched between: a restart gap says so"


@pytest.mark.parametrize("length", [0, S - 1, 7 * S, 25 * 3600 * S])
def test_lengths_that_do_not_divide_the_day(length: int) -> None:
    with pytest.raises(ValueError, match="divide"):
        Window(length, "lns1")


def test_misuse_is_refused() -> None:
    window = Window(LENGTH, "lns1")
    with pytest.raises(ValueError, match="opened"):
        window.due(T0)
    window.open(T0)
    with pytest.raises(ValueError, match="bounds"):
        window.close(T0 + 1, T0 + LENGTH, T0 + LENGTH, [], [])
    with pytest.raises(ValueError, match="snapshot"):
        window.restore({"last_end_ns": "x"}, T0)


# -- clocks


def test_slow_drift_is_no_step() -> None:
    window = opened()
    for second in range(0, 100_000, 100):  # 500 ppm over a day is 43 s
        assert window.clock(T0 + second * S + second * 500_000, second * S) is None


@pytest.mark.parametrize("step", [-30 * S, 30 * S, 2 * S, -86400 * S])
def test_a_step_is_a_loss_once(step: int) -> None:
    window = opened()
    window.clock(T0, 50 * S)
    found = window.clock(T0 + S + step, 51 * S)
    assert found is not None
    span = sorted((T0 + S, T0 + S + step))
    assert (found.start_ns, found.end_ns) == tuple(span)
    assert (found.stage, found.reason, found.unit) == ("clock", "clock-step", "ns")
    assert found.amount == abs(step)
    assert found.classes == tuple(CLASSES)
    assert window.clock(T0 + 2 * S + step, 52 * S) is None


def test_many_small_steps_add_up() -> None:
    window = opened()
    found = [window.clock(T0 + i * S + i * S // 2, i * S) for i in range(10)]
    assert len([f for f in found if f]) >= 3


def test_a_small_step_back_makes_the_window_longer() -> None:
    window = opened()
    window.clock(T0 + 7, 0)
    close(window, T0 + LENGTH)
    window.clock(T0 + LENGTH, LENGTH)
    window.clock(T0 + LENGTH - 20 * S, LENGTH)
    window.clock(T0 + 2 * LENGTH - 20 * S, 2 * LENGTH)
    assert not window.due(T0 + 2 * LENGTH - 20 * S)
    assert window.due(T0 + 2 * LENGTH)


def test_a_large_step_back_does_not_stop_the_windows() -> None:
    window = opened()
    window.clock(T0, 0)
    close(window, T0 + LENGTH)
    day_ago = T0 - 86400 * S
    ends = []
    for tick in range(1, 40):
        monotonic = LENGTH + tick * 60 * S
        window.clock(day_ago + tick * 60 * S, monotonic)
        if window.due(day_ago + tick * 60 * S):
            ends.append(window.bounds(day_ago + tick * 60 * S)[1])
            close(window, day_ago + tick * 60 * S)
    assert ends == [T0 + 2 * LENGTH, T0 + 3 * LENGTH, T0 + 4 * LENGTH]


def test_a_first_clock_of_1970_does_not_make_a_window_of_fifty_years() -> None:
    window = Window(LENGTH, "lns1")
    window.open(60 * S)
    window.clock(60 * S, 60 * S)
    assert window.clock(T0 + 100 * S, 160 * S) is not None
    start, end = window.bounds(T0 + LENGTH)
    assert (end, end - start <= 2 * LENGTH) == (T0 + LENGTH, True)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(-(10**6), 10**6)), max_size=60))
def test_windows_never_go_backwards(ticks: list[tuple[int, int]]) -> None:
    window = opened()
    now = T0 + 7
    monotonic, last_end = 0, 0
    for elapsed, step in ticks:
        monotonic += elapsed * S
        now = max(now + (elapsed + (step if step % 3 == 0 else 0)) * S, 0)
        window.clock(now, monotonic)
        if window.due(now) or step % 7 == 0:
            start, end = window.bounds(now)
            assert start >= last_end
            assert end > start
            assert window.due(now) <= (end % LENGTH == 0)
            window.close(start, end, now, [], [])
            last_end = end
            assert window.end_ns > end


# -- rows


def test_rows_of_several_trackers_are_joined() -> None:
    window = opened()
    usage = columns("usage", 3)
    arrays = {n: np.array(v, "V16" if isinstance(v[0], bytes) else None) for n, v in usage.items()
              if n not in ("up_bytes", "down_bytes", "up_packets", "down_packets")}  # fmt: skip
    rest = {n: usage[n] for n in usage.keys() - arrays.keys()}
    typed = {"observed_ns": np.array(usage["observed_ns"], np.int64)}
    (piece,) = close(
        window,
        T0 + LENGTH,
        {"usage": usage, "link": columns("link", 1)},
        {"usage": arrays | rest | typed},
    )
    assert list(piece.columns) == ["usage", "link"]
    expected = {name: values * 2 for name, values in usage.items()}
    assert piece.columns["usage"].to_pydict() == expected
    assert window.counts["seen"] == window.counts["recorded"] == piece.rows == 7


def test_losses_become_gap_rows_beside_those_of_trackers() -> None:
    window = opened()
    (piece,) = close(window, T0 + LENGTH, {"gap": columns("gap", 1)}, losses=[loss()])
    batch = piece.columns["gap"]
    assert batch.num_rows == 2
    row = batch.slice(1).to_pylist()[0]
    assert row["record_id"] == gap_columns([loss()], 0)["record_id"][0]
    assert row | {"record_id": b""} == {
        "record_id": b"", "observed_ns": T0 + LENGTH, "start_ns": 5, "end_ns": 9,
        "stage": "capture", "reason": "kernel-drop", "amount": 3, "unit": "packets",
        "classes": "visit,call", "scope": "collector",
    }  # fmt: skip


def test_an_empty_window_is_one_empty_piece() -> None:
    (piece,) = close(opened(), T0 + LENGTH)
    assert piece.columns == {}


def test_a_row_that_does_not_fit_is_lost_and_told_and_no_other() -> None:
    window = opened()
    calls = columns("call", 50)
    calls["a_raw"][17] = "1" * 60_000  # what a hostile INVITE may hold
    calls["flags"][30] = -1
    (piece,) = close(window, T0 + LENGTH, {"call": calls, "usage": columns("usage", 4)})
    kept = [i for i in range(50) if i not in (17, 30)]
    expected = {name: [values[i] for i in kept] for name, values in calls.items()}
    assert piece.columns["call"].to_pydict() == expected
    (told,) = losses_of(piece.columns["gap"])
    assert told == Loss(T0, T0 + LENGTH, "track", "bad-value", 2, "rows", ("call",))
    counts = window.counts
    assert (counts["seen"], counts["recorded"], counts["lost"]) == (54, 52, 2)


def test_a_bad_row_among_numpy_columns() -> None:
    rows: dict[str, Any] = columns("visit", 5)
    rows["server"] = np.array(rows["server"], "S16")
    rows["host"][0] = "x" * 513
    (piece,) = close(opened(), T0 + LENGTH, {"visit": rows})
    assert piece.columns["visit"]["server"].to_pylist() == columns("visit", 5)["server"][1:]


def test_columns_of_another_shape_are_a_fault_of_the_program() -> None:
    wrong: list[dict[str, Any]] = [{"usage": {}}, {"other": columns("usage", 1)}]
    for taken in wrong:
        with pytest.raises(BatchError):
            close(opened(), T0 + LENGTH, taken)


@pytest.mark.parametrize("limit", [{"max_rows": 7}, {"max_bytes": 900}, {"max_bytes": 1}])
def test_a_large_window_is_cut_and_nothing_is_lost_or_doubled(limit: dict[str, int]) -> None:
    rows = all_classes(10)
    pieces = close(opened(**limit), T0 + LENGTH, rows)
    assert len(pieces) > 1
    joined: dict[str, dict[str, list[Any]]] = {}
    for piece in pieces:
        assert 0 < piece.rows <= limit.get("max_rows", 100)
        assert list(piece.columns) == [name for name in CLASSES if name in piece.columns]
        for name, batch in piece.columns.items():
            for column, values in batch.to_pydict().items():
                joined.setdefault(name, {}).setdefault(column, []).extend(values)
    assert joined == rows


def test_pieces_of_the_largest_size_fit_a_batch() -> None:
    """The estimate of bytes must never be under what Arrow writes."""
    source = random.Random(3)
    rows = columns("visit", 40_000)
    rows["host"] = ["h" * source.randrange(254) for _ in rows["host"]]
    pieces = close(opened(max_bytes=1_000_000), T0 + LENGTH, {"visit": rows})
    sizes = [len(codec.encode(**HEADER, columns=piece.columns)) for piece in pieces]
    assert len(sizes) > 5
    assert max(sizes) < 1_000_000 + 8 * 1024
    assert min(sizes[:-1]) > 900_000
    assert MAX_BATCH_BYTES > 1_000_000


# -- losses


def test_equal_losses_are_added() -> None:
    merged = merge([loss(amount=3), loss(amount=4, classes=("gap",)), loss(6, amount=1)])
    assert merged == [loss(amount=7, classes=("visit", "call", "gap")), loss(6, amount=1)]
    assert merge([loss(amount=3), loss(amount=-1)])[0].amount == -1


def test_losses_that_differ_in_unit_keep_apart() -> None:
    merged = merge([loss(unit="packets"), loss(unit="bytes")])
    ids = gap_columns(merged, 0)["record_id"]
    assert len(merged) == len(set(ids)) == 2


def test_an_instant_and_nonsense_become_writable() -> None:
    odd = [
        loss(5, 5),
        loss(-5, -9, reason="ü" * 999),
        loss(2**70, 2**71, amount=2**70, classes=("visit", "bogus")),
    ]
    batch = codec.record_batch("gap", gap_columns(odd, 1))
    assert all(0 <= row["start_ns"] < row["end_ns"] for row in batch.to_pylist())


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 99), st.integers(0, 5)), max_size=90))
def test_merging_is_bounded_and_keeps_the_sum(limit: int, items: list[tuple[int, int]]) -> None:
    losses = [loss(s, s + 9, 2, reason=f"r{kind}", scope="x") for s, kind in items]
    merged = merge(losses, limit)
    assert len(merged) <= limit
    if all(one.amount >= 0 for one in merged):
        assert sum(one.amount for one in merged) == 2 * len(losses)
    for one in losses:
        assert any(m.start_ns <= one.start_ns and one.end_ns <= m.end_ns for m in merged)
    assert merge(merged, limit) == merged


def test_merging_many_is_quick_and_spares_the_rare() -> None:
    many = [loss(i, i + 1, reason="common") for i in range(50_000)]
    merged = merge([*many, loss(7, 8, reason="rare")])
    assert len(merged) <= MAX_LOSSES
    assert loss(7, 8, reason="rare") in merged


def test_losses_survive_their_journeys() -> None:
    one = loss(reason="overrun", scope="interface:eth0")
    batch = codec.record_batch("gap", gap_columns([one], 1))
    assert losses_of(batch) == [one]
    assert loss_from_json(loss_to_json(one)) == one
    for broken in ({}, {"stage": 1}, loss_to_json(one) | {"amount": "1"}):
        with pytest.raises(ValueError, match="not a loss"):
            loss_from_json(broken)


def test_a_release_is_not_cut_in_two() -> None:
    """The aggregator takes the rows of a release and its ledger entry together or not at all."""
    visits, counts, entries = (
        columns("visit", 5),
        columns("block_count", 4),
        columns("safeguard_ledger", 1),
    )
    taken = {"visit": visits, "block_count": counts, "safeguard_ledger": entries}
    pieces = close(opened(max_rows=7), T0 + LENGTH, taken)
    assert [{name: b.num_rows for name, b in piece.columns.items()} for piece in pieces] == [
        {"visit": 5},
        {"block_count": 4, "safeguard_ledger": 1},
    ]
    assert len(close(opened(max_rows=10), T0 + LENGTH, taken)) == 1
