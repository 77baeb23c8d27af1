"""Tables follow the record classes."""

from __future__ import annotations

import re

from aggregator.store.migrate import load
from aggregator.store.schema import LATE_TABLES, RECORD_TABLES, TABLES, stored_name
from collector.wire.records import CLASSES


def test_every_column_of_every_class_is_stored() -> None:
    for name, record_class in CLASSES.items():
        wanted = [stored_name(column) for column in record_class.names]
        assert list(RECORD_TABLES[name].names[: len(wanted)]) == wanted


def test_nanoseconds_become_microseconds() -> None:
    assert stored_name("valid_from_ns") == "valid_from_us"
    assert stored_name("ns_like") == "ns_like"
    assert not [n for table in TABLES.values() for n in table.names if n.endswith("_ns")]


def test_every_personal_class_has_a_table_for_late_rows() -> None:
    personal = {name for name, table in RECORD_TABLES.items() if table.personal}
    assert {f"late_{name}" for name in personal} == set(LATE_TABLES)
    assert personal == set(CLASSES) - {"link", "gap", "block_count", "safeguard_ledger"}


def test_no_migration_deletes_by_age_or_row() -> None:
    for migration in load():
        sql = "\n".join(
            line for line in migration.text.splitlines() if not re.match(r"-- (?!since|  )", line)
        )
        assert not re.search(r"\bTTL\b|\bDELETE\b|\bDROP\b", sql)
