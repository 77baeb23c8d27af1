"""The record classes keep their own rules, and identities do not move."""

from __future__ import annotations

import pytest

from collector.wire.records import CLASSES, RecordClass, record_id


@pytest.mark.parametrize("record_class", CLASSES.values(), ids=lambda c: str(c.name))
def test_class_is_consistent(record_class: RecordClass) -> None:
    names = record_class.names
    assert names[:2] == ("record_id", "observed_ns")
    assert len(set(names)) == len(names)
    assert record_class.time in names
    assert set(record_class.key) <= set(names)
    assert "record_id" not in record_class.key
    assert "observed_ns" not in record_class.key, "a replay would get another identity"
    assert len(record_class.name) <= 16, "the name personalises the hash"


@pytest.mark.parametrize("record_class", CLASSES.values(), ids=lambda c: str(c.name))
def test_units_and_types_agree(record_class: RecordClass) -> None:
    for column in record_class.columns:
        assert column.doc
        if column.name.endswith("_ns"):
            assert column.type == "i64", column.name
        if column.name.endswith(("_bytes", "_octets", "_packets", "_ms")):
            assert column.type == "u64", column.name


def test_bindings_come_first() -> None:
    assert list(CLASSES) == [
        "binding", "session", "usage", "mapping", "visit", "call", "link", "gap",
        "block_count", "safeguard_ledger",
    ]  # fmt: skip


def test_record_id_does_not_move() -> None:
    """Stored rows are recognised by it: another value would double every replay."""
    assert record_id("usage", 1, b"\x02", "x").hex() == "efc0a47930899af3b786e9491f72580b"


def test_record_id_separates_parts_and_classes() -> None:
    ids = {
        record_id("usage", "ab", "c"),
        record_id("usage", "a", "bc"),
        record_id("usage", "abc"),
        record_id("visit", "ab", "c"),
    }
    assert len(ids) == 4
    assert all(len(i) == 16 for i in ids)
