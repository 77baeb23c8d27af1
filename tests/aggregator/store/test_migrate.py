"""Migrations on both engines: idempotent, dry, never over a newer database; drift is found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.store.migrate import Migration, Migrator, load, statements
from aggregator.store.schema import LATE_TABLES, TABLES, SchemaError, check
from tests.aggregator.support import Store


@pytest.fixture
def empty(engines: Store) -> Iterator[Store]:
    """The engine without the database; whatever the test leaves is removed."""
    engines.keeper.execute("DROP DATABASE tallyhold")
    yield engines
    engines.keeper.outside("DROP DATABASE IF EXISTS tallyhold")


def migrator(store: Store, migrations: list[Migration] | None = None) -> Migrator:
    return Migrator(store.client, lambda: 7, migrations=migrations)


@pytest.mark.engine
def test_an_empty_engine_gets_every_table_once(empty: Store) -> None:
    planned = migrator(empty).run(dry_run=True)
    assert [step.migration.number for step in planned] == [1, 2, 3, 4, 5, 6, 7]
    names = "SELECT name FROM system.databases"
    assert "tallyhold" not in empty.client.outside(names)["name"]  # dry
    assert migrator(empty).run() == planned
    assert migrator(empty).run() == []
    found = empty.client.query_columns(
        "SELECT name, engine FROM system.tables WHERE database = 'tallyhold'"
    )
    assert set(found["name"]) == {*TABLES, "schema_migrations"}
    for name, table in TABLES.items():
        engine = found["engine"][found["name"].index(name)]
        assert engine == ("ReplacingMergeTree" if table.replacing else "MergeTree"), name


@pytest.mark.engine
def test_no_table_has_a_ttl_and_parts_go_after_a_second(engines: Store) -> None:
    for name in TABLES:
        shown = engines.keeper.query_columns(f"SHOW CREATE TABLE {name}")
        text = next(iter(shown.values()))[0]
        assert " TTL " not in text, name
        assert "old_parts_lifetime = 1" in text, name


@pytest.mark.engine
def test_late_rows_are_partitioned_by_arrival(engines: Store) -> None:
    found = engines.keeper.query_columns(
        "SELECT name, partition_key, sorting_key FROM system.tables WHERE database = 'tallyhold'"
    )
    tables = dict(
        zip(
            found["name"],
            zip(found["partition_key"], found["sorting_key"], strict=True),
            strict=True,
        )
    )
    for name in LATE_TABLES:
        partition, order = tables[name]
        assert partition.replace(" ", "") == "intDiv(toUnixTimestamp(arrived),300)"
        assert order == tables[name.removeprefix("late_")][1]


@pytest.mark.engine
def test_a_migration_that_was_cut_short_is_run_again(empty: Store) -> None:
    first = load()[0]
    steps = migrator(empty).plan()
    empty.client.outside("CREATE DATABASE tallyhold")
    for statement in steps[0].statements[:5]:
        empty.client.execute(statement)
    assert [step.migration for step in migrator(empty).run()][0] == first
    check(empty.client, "tallyhold")


@pytest.mark.engine
def test_columns_that_were_added_are_not_added_again(empty: Store) -> None:
    *earlier, calls = load()[:5]
    with pytest.raises(SchemaError):
        migrator(empty, earlier).run()  # and so has not what this version writes
    (step,) = migrator(empty, [*earlier, calls]).plan()
    empty.client.execute(step.statements[0])
    migrator(empty).run()
    check(empty.client, "tallyhold")


@pytest.mark.engine
def test_a_newer_database_is_refused(engines: Store) -> None:
    with pytest.raises(SchemaError, match="newer"):
        migrator(engines, load()[:1]).run()


@pytest.mark.engine
def test_a_changed_migration_is_refused(engines: Store) -> None:
    first, *others = load()
    with pytest.raises(SchemaError, match="differs"):
        migrator(engines, [replace(first, text=first.text + "\n"), *others]).run()


@pytest.mark.engine
def test_drift_names_the_column(empty: Store) -> None:
    migrator(empty).run()
    empty.keeper.execute("ALTER TABLE usage DROP COLUMN flows")
    empty.keeper.execute("ALTER TABLE visit ADD COLUMN url String")
    empty.keeper.execute("ALTER TABLE gap MODIFY COLUMN amount UInt64")
    with pytest.raises(SchemaError) as caught:
        check(empty.client, "tallyhold")
    for words in ("usage.flows is missing", "visit.url is not known", "gap.amount is UInt64"):
        assert words in str(caught.value)


@pytest.mark.engine
def test_a_missing_table_is_drift(empty: Store) -> None:
    migrator(empty).run()
    empty.keeper.execute("DROP TABLE late_call")
    with pytest.raises(SchemaError, match="late_call is missing"):
        check(empty.client, "tallyhold")


@pytest.mark.engine
def test_newer_servers_get_codecs(engines: Store) -> None:
    if engines.name != "bundled":
        assert all("CODEC" not in s for step in _fresh_plan((18, 16)) for s in step)
        return
    shown = engines.keeper.query_columns("SHOW CREATE TABLE usage")
    text = next(iter(shown.values()))[0]
    assert "DoubleDelta" in text
    assert "fsync_after_insert = 1" in text
    assert "non_replicated_deduplication_window = 1000" in text


def _fresh_plan(version: tuple[int, int]) -> list[tuple[str, ...]]:
    return [statements(each.text, version, "tallyhold") for each in load()]


def test_a_cluster_gets_replicated_tables() -> None:
    created = statements(load()[0].text, (26, 9), "tallyhold", "metro")
    tables = [text for text in created if text.startswith("CREATE")]
    assert tables
    for text in created:
        assert " ON CLUSTER metro" in text
    assert (
        "ENGINE = ReplicatedReplacingMergeTree("
        "'/clickhouse/tables/{shard}/tallyhold/session', '{replica}', observed_us)"
    ) in "".join(tables)


def test_names_from_the_configuration_cannot_carry_sql() -> None:
    with pytest.raises(SchemaError, match="not a name"):
        statements("SELECT 1;", (26, 9), "a; DROP TABLE b")


def test_since_lines_follow_the_version() -> None:
    text = "A;\n-- since 20.3: B\n--     c;\n-- a remark\nD;\n"
    assert statements(text, (20, 2), "d") == ("A", "D")
    assert statements(text, (20, 3), "d") == ("A", "B\nc", "D")


def test_numbers_without_a_gap(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("SELECT 1;")
    (tmp_path / "0003_b.sql").write_text("SELECT 1;")
    with pytest.raises(SchemaError, match="without a gap"):
        load(tmp_path)
    (tmp_path / "0002-c.sql").write_text("SELECT 1;")
    with pytest.raises(SchemaError, match="NNNN"):
        load(tmp_path)
