"""Anonymous demand: sums are exact, and few lines are never counted aloud."""

from __future__ import annotations

import ipaddress
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregator.ingest.columns import stored_columns
from aggregator.ingest.demand import UNASSIGNED, Areas, demand
from collector.wire.addr import pack
from collector.wire.codec import record_batch
from tests.aggregator.support import NOON, S, usage_rows

AREAS = Areas(
    {
        "north": [ipaddress.ip_network("10.0.0.0/8")],
        "harbour": [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("2001:db8::/32")],
    }
)


def usage(*addresses: str, start_ns: int = NOON, up: int = 100) -> dict[str, Any]:
    return stored_columns(record_batch("usage", usage_rows(addresses, start_ns, up=up)))


def as_rows(columns: dict[str, Any]) -> list[tuple[Any, ...]]:
    return list(zip(*(values.tolist() for values in columns.values()), strict=True))


def test_the_longest_prefix_decides() -> None:
    for address, area in {
        "10.9.0.1": "north",
        "10.1.0.1": "harbour",
        "2001:db8:1::": "harbour",
        "192.0.2.1": UNASSIGNED,
    }.items():
        assert AREAS.of(pack(address)) == area


def test_ten_lines_are_counted_nine_are_not() -> None:
    for lines, shown in ((9, (0, 0)), (10, (10, 1))):
        got = as_rows(demand(usage(*(f"10.0.0.{n}" for n in range(lines))), AREAS))
        start = NOON // 1000
        assert got == [(b"north", start, 300_000_000, 100 * lines, 1000 * lines, *shown)]


def test_a_line_split_in_two_rows_is_one_line() -> None:
    two = usage(*["10.0.0.1", "10.0.0.2"] * 5)
    assert demand(two, AREAS)["active_lines"].tolist() == [0]
    assert demand(two, AREAS, k=2)["active_lines"].tolist() == [2]


def test_a_silent_line_is_not_active() -> None:
    silent = stored_columns(
        record_batch("usage", usage_rows([f"10.0.0.{n}" for n in range(20)], up=0, down=0))
    )
    assert demand(silent, AREAS)["active_lines"].tolist() == [0]


def test_rows_are_placed_by_five_minutes() -> None:
    got = demand(usage("10.0.0.1", start_ns=NOON + 299 * S), AREAS)
    assert got["start_us"].tolist() == [NOON // 1000]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**62)), min_size=1, max_size=40))
def test_no_byte_is_lost(given_rows: list[tuple[int, int]]) -> None:
    places = ["10.0.0.1", "10.1.0.1", "192.0.2.1", "2001:db8::"]
    columns = usage(*(places[place] for place, _ in given_rows))
    columns["up_bytes"] = np.array([up % 2**57 for _, up in given_rows], np.uint64)
    got = demand(columns, AREAS)
    assert int(got["up_bytes"].sum()) == int(columns["up_bytes"].sum())
    assert int(got["down_bytes"].sum()) == 1000 * len(given_rows)
    assert as_rows(got) == sorted(as_rows(got))
