"""Blocks on both engines: partitions cut where the engine cuts them, and written once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from aggregator.ingest.columns import provenance, stored_columns, text_column
from aggregator.store import writer as module
from aggregator.store.blocks import constant
from aggregator.store.client import Corrupt, Misused, Values
from aggregator.store.schema import RECORD_TABLES, TABLES
from aggregator.store.writer import BadTimes, Writer, Written, clock_days, partitions, query_id
from collector.wire.codec import decode, record_batch
from tests.aggregator.support import DAY, NOON, S, Spool, Store, binding_row, rows, usage_rows

MIDNIGHT = NOON + DAY // 2


def stored(name: str, columns: Mapping[str, Any], batch: str) -> dict[str, Any]:
    """Columns as the pipeline hands them to the writer, attributed to nobody."""
    header, _ = decode(Spool().batch({name: columns}))
    result = stored_columns(record_batch(name, columns))
    count = len(result["record_id"])
    if name in ("usage", "visit", "call"):
        result |= {"subscriber": text_column([""] * count), "reason": text_column([""] * count)}
    result |= provenance(header, count)
    result["batch"] = constant(bytes.fromhex(batch), count)
    return result


def across_midnight(name: str) -> dict[str, Any]:
    """Rows of one class on both sides of a midnight that also ends a month nowhere near."""
    time = RECORD_TABLES[name].time.removesuffix("_us") + "_ns"
    times = [MIDNIGHT - 1, MIDNIGHT, MIDNIGHT - S, MIDNIGHT + S]
    given = [{time: at, "end_ns": at + S, "interface": str(at)} for at in times]
    return rows(name, *({k: v for k, v in row.items() if k in _names(name)} for row in given))


def _names(name: str) -> set[str]:
    from collector.wire.records import CLASSES

    return set(CLASSES[name].names)


@pytest.mark.engine
@pytest.mark.parametrize("name", sorted(RECORD_TABLES))
def test_partitions_agree_with_the_engine(engines: Store, name: str) -> None:
    """What numpy computes is what the engine materialises, in a server zone that is not UTC."""
    columns = stored(name, across_midnight(name), "ab" * 16)
    Writer(engines.client, RECORD_TABLES[name]).write(columns, "ab" * 16, in_doubt=False)
    period = "toYYYYMMDD" if RECORD_TABLES[name].period == "day" else "toYYYYMM"
    found = engines.client.query_columns(
        f"SELECT {period}(clock_day) AS p, count() AS n FROM {name} GROUP BY p ORDER BY p"
    )
    mine = {part.number: part.count for part in partitions(RECORD_TABLES[name], columns)}
    assert dict(zip(found["p"], found["n"], strict=True)) == mine
    parts = engines.keeper.query_columns(
        "SELECT DISTINCT partition FROM system.parts WHERE database = 'tallyhold'"
        " AND table = %(table)s AND active AND rows > 0",
        {"table": name},
    )
    assert sorted(map(int, parts["partition"])) == sorted(mine)


@pytest.mark.engine
def test_each_partition_is_one_insert_with_a_fixed_id(
    engines: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids: list[str | None] = []
    insert = engines.client.insert

    def spy(table: str, columns: Mapping[str, Values], query_id: str | None = None) -> int:
        ids.append(query_id)
        return insert(table, columns, query_id)

    monkeypatch.setattr(engines.client, "insert", spy)
    columns = stored("visit", across_midnight("visit"), "cd" * 16)
    done = Writer(engines.client, RECORD_TABLES["visit"]).write(columns, "cd" * 16, in_doubt=False)
    assert done == Written(inserted=4, present=0, late=0)
    assert ids == [f"ingest-visit-{day}-{'cd' * 16}" for day in (20261122, 20261123)]


@pytest.mark.engine
def test_in_doubt_only_what_is_absent_goes_in(
    engines: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three blocks of four rows; the second attempt finds one, two or all of them."""
    monkeypatch.setattr(module, "MAX_BLOCK_ROWS", 4)
    table = RECORD_TABLES["usage"]
    columns = stored("usage", usage_rows([f"10.0.0.{n}" for n in range(10)]), "ef" * 16)
    for whole in range(4):
        engines.keeper.execute("TRUNCATE TABLE usage")
        for block in range(whole):
            rows_of = slice(block * 4, block * 4 + 4)
            part = {name: values[rows_of] for name, values in columns.items()}
            engines.client.insert("usage", part, query_id("usage", 202611, "ef" * 16, block))
        done = Writer(engines.client, table).write(columns, "ef" * 16, in_doubt=True)
        present = min(whole * 4, 10)
        assert done == Written(inserted=10 - present, present=present, late=0)
        assert engines.count("usage") == 10
        found = engines.client.query_columns("SELECT uniqExact(record_id) AS n FROM usage")
        assert found["n"] == [10]


@pytest.mark.engine
def test_half_a_block_is_corruption(engines: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BLOCK_ROWS", 4)
    columns = stored("usage", usage_rows([f"10.0.0.{n}" for n in range(10)]), "0a" * 16)
    part = {name: values[:3] for name, values in columns.items()}
    engines.client.insert("usage", part, "some-other-id")
    with pytest.raises(Corrupt, match="part of a block"):
        Writer(engines.client, RECORD_TABLES["usage"]).write(columns, "0a" * 16, in_doubt=True)


@pytest.mark.engine
def test_the_newest_version_of_a_slice_wins(engines: Store) -> None:
    """Also where the doubt makes the same version be written again."""
    writer = Writer(engines.client, RECORD_TABLES["binding"])
    opened = rows("binding", binding_row("10.0.0.1", "line-1", NOON))
    closed = rows("binding", binding_row("10.0.0.1", "line-1", NOON, NOON + 60 * S))
    closed["observed_ns"] = [NOON + 61 * S]
    assert opened["record_id"] == closed["record_id"]
    writer.write(stored("binding", closed, "02" * 16), "02" * 16, in_doubt=False)
    writer.write(stored("binding", opened, "01" * 16), "01" * 16, in_doubt=False)
    writer.write(stored("binding", closed, "02" * 16), "02" * 16, in_doubt=True)
    found = engines.client.query_columns("SELECT valid_to_us FROM binding FINAL")
    assert found["valid_to_us"] == [(NOON + 60 * S) // 1000]


@pytest.mark.engine
def test_rows_of_a_closed_partition_are_put_aside(engines: Store) -> None:
    def closed(table: str, partition: int) -> bool:
        return (table, partition) == ("visit", 20261122)

    columns = stored("visit", across_midnight("visit"), "bc" * 16)
    writer = Writer(engines.client, RECORD_TABLES["visit"], closed)
    assert writer.write(columns, "bc" * 16, in_doubt=False) == Written(2, 0, 2)
    assert writer.write(columns, "bc" * 16, in_doubt=True) == Written(0, 2, 2)
    assert engines.count("visit") == 2
    assert engines.count("late_visit") == 2
    assert engines.count("visit", "clock_day = '2026-11-22'") == 0


@pytest.mark.engine
def test_what_was_stored_before_its_partition_closed_stays_there(engines: Store) -> None:
    columns = stored("visit", across_midnight("visit"), "bd" * 16)
    Writer(engines.client, RECORD_TABLES["visit"]).write(columns, "bd" * 16, in_doubt=False)
    late = Writer(engines.client, RECORD_TABLES["visit"], lambda table, partition: True)
    assert late.write(columns, "bd" * 16, in_doubt=True) == Written(0, 4, 0)
    assert engines.count("late_visit") == 0


@pytest.mark.engine
def test_unknown_columns_are_refused(engines: Store) -> None:
    writer = Writer(engines.client, RECORD_TABLES["gap"])
    with pytest.raises(Misused, match="unknown columns"):
        writer.write({"x": np.zeros(1)}, "00" * 16, in_doubt=False)


def test_a_mappings_clock_starts_when_it_ends() -> None:
    given = rows(
        "mapping",
        {"start_ns": NOON, "end_ns": MIDNIGHT},
        {"start_ns": NOON, "end_ns": MIDNIGHT + S},
        {"start_ns": NOON, "end_ns": 0},
    )
    columns = stored_columns(record_batch("mapping", given))
    today = NOON // DAY
    assert clock_days(TABLES["mapping"], columns).tolist() == [today, today + 1, today]


@pytest.mark.parametrize("bad", [-S, 5 * 10**18])
def test_impossible_times_are_the_peers_fault(bad: int) -> None:
    columns = {"start_us": np.array([NOON // 1000, bad // 1000])}
    with pytest.raises(BadTimes):
        partitions(RECORD_TABLES["usage"], columns)


def test_a_batch_touches_a_bounded_number_of_partitions() -> None:
    days = np.arange(module.MAX_PARTITIONS + 1) * module.DAY_US
    with pytest.raises(BadTimes, match="partitions"):
        partitions(RECORD_TABLES["visit"], {"start_us": days})
    assert len(partitions(RECORD_TABLES["usage"], {"start_us": days})) == 14
