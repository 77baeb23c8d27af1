"""Ids of a table are those of its rows, one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.wire.record_ids import id_column, record_ids
from collector.wire.records import record_id

ROWS = st.lists(st.tuples(st.integers(0, 2**63), st.binary(max_size=16), st.text(max_size=9)))


@given(ROWS)
def test_they_are_the_ids_of_the_rows(rows: list[tuple[int, bytes, str]]) -> None:
    numbers, addresses, names = ([row[i] for row in rows] for i in range(3))
    wanted = [record_id("visit", *row) for row in rows]
    assert record_ids("visit", numbers, addresses, names) == wanted


@pytest.mark.parametrize("times", [1, 5])
def test_long_values_and_those_that_come_again(times: int) -> None:
    names = ["a" * size for size in (0, 63, 64, 65, 512)] * times
    numbers = [0, 9, 10, 2**63, 10**18] * times
    wanted = [record_id("visit", *row) for row in zip(numbers, names, strict=True)]
    assert record_ids("visit", numbers, names) == wanted
    assert record_ids("visit", [], []) == []


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 3000])
def test_a_column_is_made_in_pieces(size: int) -> None:
    numbers, names = np.arange(size), [f"n{number % 7}" for number in range(size)]
    found = id_column("visit", [numbers, names])
    assert found.tolist() == record_ids("visit", numbers.tolist(), names)


def test_the_class_counts_and_lengths_must_agree() -> None:
    assert record_ids("visit", [1], ["a"]) != record_ids("usage", [1], ["a"])
    with pytest.raises(ValueError, match="shorter"):
        record_ids("visit", [1, 2], ["a"])
