"""Closed partitions as ingest asks for them: from the table and a minute old at most, or not."""

from __future__ import annotations

import numpy as np
import pytest

from aggregator.store.client import Unavailable
from aggregator.store.closed import MAX_AGE_S, ClosedPartitions
from aggregator.store.schema import RECORD_TABLES
from aggregator.store.writer import Writer, Written
from tests.aggregator.store.test_writer import across_midnight, stored
from tests.aggregator.support import Store


def publish(store: Store, record_class: str, first_open: int, version: int) -> None:
    store.keeper.insert(
        "closed_partitions",
        {
            "record_class": [record_class],
            "first_open": np.array([first_open], dtype=np.uint32),
            "version": np.array([version], dtype=np.uint64),
        },
    )


@pytest.mark.engine
def test_the_newest_version_of_a_class_counts(engines: Store) -> None:
    closed = ClosedPartitions(engines.client, lambda: 0.0)
    assert not closed("visit", 1)
    publish(engines, "visit", 20261122, 1)
    publish(engines, "visit", 20261101, 3)
    publish(engines, "visit", 20261130, 2)
    publish(engines, "usage", 202611, 1)
    closed = ClosedPartitions(engines.client, lambda: 0.0)
    assert closed("visit", 20261031)
    assert not closed("visit", 20261101)
    assert closed("usage", 202610)
    assert not closed("usage", 202611)
    assert not closed("call", 19700101)


@pytest.mark.engine
def test_an_answer_is_used_for_a_minute(engines: Store) -> None:
    clock = [100.0]
    closed = ClosedPartitions(engines.client, lambda: clock[0])
    assert not closed("visit", 20261122)
    publish(engines, "visit", 20261123, 1)
    clock[0] += MAX_AGE_S - 0.1
    assert not closed("visit", 20261122)
    clock[0] += 0.2
    assert closed("visit", 20261122)


@pytest.mark.engine
def test_without_an_answer_nothing_is_written(engines: Store) -> None:
    """An old answer is not used any longer, as a row could come in that nobody would destroy."""
    clock = [0.0]
    closed = ClosedPartitions(engines.client, lambda: clock[0])
    assert not closed("visit", 20261122)
    clock[0] += MAX_AGE_S
    engines.keeper.execute("RENAME TABLE closed_partitions TO closed_away")
    writer = Writer(engines.client, RECORD_TABLES["visit"], closed)
    columns = stored("visit", across_midnight("visit"), "bc" * 16)
    try:
        with pytest.raises(Exception, match="answered error"):
            writer.write(columns, "bc" * 16, in_doubt=False)
    finally:
        engines.keeper.execute("RENAME TABLE closed_away TO closed_partitions")
    assert engines.count("visit") == engines.count("late_visit") == 0
    publish(engines, "visit", 20261123, 1)
    assert writer.write(columns, "bc" * 16, in_doubt=True) == Written(2, 0, 2)
    assert engines.count("late_visit", "clock_day = '2026-11-22'") == 2


def test_an_error_goes_to_whoever_asked() -> None:
    class Down:
        def query_columns(self, sql: str) -> dict[str, list[int]]:
            raise Unavailable("gone")

    with pytest.raises(Unavailable):
        ClosedPartitions(Down())("visit", 1)  # type: ignore[arg-type]
