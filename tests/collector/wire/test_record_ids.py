"""Ids of a table are those of its rows, one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.wire.record_ids import record_ids
from collector.wire.records import record_id

ROWS = st.lists(st.tuples(st.integers(0, 2**63), st.binary(max_size=16), st.text(max_size=9)))


@given(ROWS)
def test_they_are_the_ids_of_the_rows(rows: list[tuple[int, bytes, str]]) -> None:
    numbers, addresses, names = ([row[i] for row in rows] for i in range(3))
    wanted = [record_id("visit", *row) for row in rows]
    assert record_ids("visit", numbers, addresses, names) == wanted


def test_the_class_counts_and_lengths_must_agree() -> None:
    assert record_ids("visit", [1], ["a"]) != record_ids("usage", [1], ["a"])
    with pytest.raises(ValueError, match="shorter"):
        record_ids("visit", [1, 2], ["a"])
