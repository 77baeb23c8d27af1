"""SafeGuard's rows as a collector makes them, and with every fault that a row can have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aggregator.ingest.columns import stored_columns
from aggregator.ingest.releases import MAX_ENTRIES, Entry, checked, overspent
from collector.wire.batch import BatchError
from collector.wire.columns import record_batch
from collector.wire.releases import MICRO, release_id
from tests.aggregator.ingest.guarded import DAY, HOUR, MIDNIGHT, day_of_releases

Columns = dict[str, dict[str, Any]]


def check(columns: Columns, collector: str = "edge-1") -> list[Entry]:
    stored = {n: stored_columns(record_batch(n, each)) for n, each in columns.items()}
    return checked(collector, stored.get("block_count"), stored.get("safeguard_ledger"))


def reason(columns: Columns, collector: str = "edge-1") -> str:
    with pytest.raises(BatchError) as caught:
        check(columns, collector)
    assert caught.value.reason == "safeguard"
    assert "nothing of the batch is stored" in str(caught.value)
    return str(caught.value)


def test_a_day_as_it_is_made_is_taken() -> None:
    entries = check(day_of_releases())
    assert len(entries) == 26
    assert sum(entry.epsilon_micro for entry in entries) == MICRO
    overspent(entries, [], MICRO)
    with pytest.raises(
        BatchError, match=r"epsilon of 1, the aggregator's .* is 0.999999"
    ) as caught:
        overspent(entries, [], MICRO - 1)
    assert caught.value.reason == "safeguard-budget"


def test_nothing_and_silence_are_taken() -> None:
    assert checked("edge-1", None, None) == []
    quiet = day_of_releases(is_counted=False)
    assert "block_count" not in quiet
    entries = check(quiet)
    assert {entry.outcome for entry in entries} == {"silent"}
    overspent(entries, entries, 0)


def drop(name: str) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        del columns[name]

    return change


def put(name: str, column: str, value: Any, row: int = 0) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        columns[name][column][row] = value

    return change


def cut(name: str, row: int = 0) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        for values in columns[name].values():
            del values[row]

    return change


def repeat(name: str) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        for values in columns[name].values():
            values.append(values[0])

    return change


COUNT, LEDGER = "block_count", "safeguard_ledger"
_FIRST_KEPT = 24 * 3 + 3
FAULTS = [
    (drop(LEDGER), "counts without the ledger entry"),
    (drop(COUNT), "another number of counts"),
    (cut(LEDGER), "a count without the ledger entry"),
    (cut(LEDGER, 24), "a count without the ledger entry"),
    (cut(COUNT), "another number of counts"),
    (repeat(COUNT), "two counts of one cell"),
    (repeat(LEDGER), "two ledger entries of one release"),
    (put(COUNT, "release", b"x" * 16), "a count without the ledger entry"),
    (put(COUNT, "start_ns", MIDNIGHT + HOUR), "not of its ledger entry's window"),
    (put(COUNT, "end_ns", MIDNIGHT + 2 * HOUR), "not of its ledger entry's window"),
    (put(COUNT, "mechanism", b"m" * 16), "not of its ledger entry's window and mechanism"),
    (put(COUNT, "marginal", "kept-day"), "not of its ledger entry's window"),
    (put(COUNT, "observed_ns", MIDNIGHT + 1000), "a time that is not its window's end"),
    (put(COUNT, "region", "north"), "outside of any public domain"),
    (put(COUNT, "category", "bad.example"), "outside of any public domain"),
    (put(COUNT, "category", "192.0.2.7"), "outside of any public domain"),
    (put(COUNT, "category", "2001:db8::7"), "outside of any public domain"),
    (put(COUNT, "category", ""), "outside of any public domain"),
    (put(COUNT, "region", "", 72), "outside of any public domain"),
    (put(COUNT, "region", "south", 72), "of one region"),
    (put(COUNT, "category", "gambling", _FIRST_KEPT), "two other cells"),
    (put(LEDGER, "observed_ns", MIDNIGHT), "a time that is not its window's end"),
    (put(LEDGER, "epsilon_micro", 0), "states another charge"),
    (put(LEDGER, "epsilon_micro", 1, 1), "states another charge"),
    (put(LEDGER, "l0", 1), "states another charge"),
    (put(LEDGER, "l0", 0), "without a mechanism"),
    (put(LEDGER, "routers", 0), "without a mechanism"),
    (put(LEDGER, "scale_den", 0), "without a mechanism"),
    (put(LEDGER, "scale_num", 0), "without a mechanism"),
    (put(LEDGER, "rows", 4), "another number of counts"),
    (put(LEDGER, "outcome", "silent"), "whose id is not of what it says"),
    (put(LEDGER, "outcome", "maybe"), "unknown outcome"),
    (put(LEDGER, "marginal", "most-blocked"), "unknown marginal"),
    (put(LEDGER, "release", b"y" * 16), "whose id is not of what it says"),
    (put(LEDGER, "end_ns", MIDNIGHT), "of no window"),
    (put(LEDGER, "end_ns", MIDNIGHT + 7 * HOUR), "no part of its day"),
    (put(LEDGER, "start_ns", MIDNIGHT - HOUR // 2), "no part of its day"),
    (put(LEDGER, "end_ns", MIDNIGHT + DAY // 2, 24), "over another window"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "says"), FAULTS)
def test_a_row_that_does_not_tie_is_refused(change: Callable[[Columns], None], says: str) -> None:
    columns = day_of_releases()
    change(columns)
    assert says in reason(columns)


def test_a_release_of_another_collector_is_refused() -> None:
    assert "whose id is not of what it says" in reason(day_of_releases(), "edge-2")


def test_a_flood_is_refused_before_it_is_looked_at() -> None:
    columns = day_of_releases()
    for values in columns[LEDGER].values():
        values[:] = values[:1] * (MAX_ENTRIES + 1)
    assert "more ledger entries" in reason(columns)
    columns = day_of_releases()
    for values in columns[COUNT].values():
        values[:] = values[:1] * (MAX_ENTRIES * 64 + 1)
    assert "more counts" in reason(columns)


def test_no_message_has_a_value_of_a_row() -> None:
    columns = day_of_releases()
    columns[COUNT]["category"][0] = "secret.example"
    assert "secret" not in reason(columns)


def test_a_release_is_taken_once() -> None:
    entries = check(day_of_releases())
    with pytest.raises(BatchError, match="comes again in another batch") as caught:
        overspent(entries[3:4], entries, MICRO)
    assert caught.value.reason == "safeguard-repeated"


def test_the_hours_of_a_day_share_one_charge_whatever_batch_they_come_in() -> None:
    entries = check(day_of_releases())
    for number, entry in enumerate(entries):
        overspent([entry], entries[:number], MICRO)


def test_a_second_mechanism_on_a_day_is_a_second_charge() -> None:
    entries = check(day_of_releases())
    later = check(day_of_releases(categories=("gambling", "malware")))[:-1]  # kept-day is the same
    assert {each.release for each in entries}.isdisjoint(each.release for each in later)
    for entry in later:
        with pytest.raises(BatchError, match="would cost a household"):
            overspent([entry], entries, MICRO)
    overspent(later, entries, 2 * MICRO)
    overspent(later, check(day_of_releases(start_ns=MIDNIGHT - DAY)), MICRO)


def test_a_charge_cannot_be_hidden_in_the_hours_after_the_first() -> None:
    """Ten hours of ten mechanisms state no charge; each costs what its parameters say."""
    columns = day_of_releases()
    for row in range(1, 11):
        mechanism = bytes([row]) * 16
        start = columns[LEDGER]["start_ns"][row]
        release = release_id("edge-1", mechanism, "category-hour", start, "released")
        columns[LEDGER]["mechanism"][row] = mechanism
        columns[LEDGER]["release"][row] = release
        for at in range(3 * row, 3 * row + 3):
            columns[COUNT]["mechanism"][at] = mechanism
            columns[COUNT]["release"][at] = release
    entries = check(columns)
    with pytest.raises(BatchError, match="would cost a household"):
        overspent(entries, [], 5 * MICRO)
    overspent(entries, [], 6 * MICRO)
