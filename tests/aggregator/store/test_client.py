"""The client against both engines: round trips, limits, errors by who must act."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.store.client import (
    MAX_BLOCK_ROWS,
    Client,
    Endpoint,
    Misused,
    Refused,
    Unavailable,
    read_password,
)
from tests.aggregator.support import Store
from tests.ports import free_port

pytestmark = pytest.mark.engine

LEDGER: dict[str, Any] = {
    "collector": ["ä'\\%(x)s", ""],
    "epoch": ["e", "e"],
    "sequence": np.array([2**63, 1], np.uint64),
    "batch": [bytes(range(240, 256)), b"\0" * 16],
    "sha256": ["a", "b"],
    "rows": [1, 2],
    "window_start_us": [-1, 2**62],
    "window_end_us": [0, 0],
    "received_us": [1_795_348_800_000_000, 0],
    "verdict": ["accept", "gap"],
    "lag_us": [5, -5],
}


def test_columns_come_back_as_they_went_in(engines: Store) -> None:
    assert engines.client.insert("ingest_ledger", LEDGER, "id-1") == 2
    back = engines.client.query_columns("SELECT * FROM ingest_ledger ORDER BY collector DESC")
    assert set(back) == set(LEDGER)
    for name, values in LEDGER.items():
        assert back[name] == list(values), name


def test_no_rows_still_name_their_columns(engines: Store) -> None:
    found = engines.client.query_columns("SELECT batch, rows FROM ingest_ledger")
    assert found == {"batch": [], "rows": []}


def test_a_column_of_zeros_keeps_its_width(engines: Store) -> None:
    """Newer servers send such columns sparse, and the driver fills them with empty bytes."""
    zeros = {**LEDGER, "batch": [b"\0" * 16] * 2}
    engines.client.insert("ingest_ledger", zeros, "id-2")
    found = engines.client.query_columns("SELECT batch FROM ingest_ledger")
    assert found["batch"] == [b"\0" * 16] * 2


def test_parameters_are_escaped_and_bytes_refused(engines: Store) -> None:
    engines.client.insert("ingest_ledger", LEDGER, "id-3")
    sql = "SELECT rows FROM ingest_ledger WHERE collector = %(name)s"
    assert engines.client.query_columns(sql, {"name": "ä'\\%(x)s"})["rows"] == [1]
    assert engines.client.query_columns(sql, {"name": "' OR 1 = 1 --"})["rows"] == []
    with pytest.raises(Misused, match="hex"):
        engines.client.query_columns(sql, {"name": b"x"})


def test_blocks_have_a_limit_and_one_length(engines: Store) -> None:
    with pytest.raises(Misused, match="at most"):
        engines.client.insert("x", {"a": np.zeros(MAX_BLOCK_ROWS + 1)})
    with pytest.raises(Misused, match="different lengths"):
        engines.client.insert("x", {"a": [1], "b": [1, 2]})


def test_errors_say_who_must_act_and_never_repeat_values(engines: Store) -> None:
    endpoint = engines.client.endpoint
    with pytest.raises(Refused, match="password"):
        Client(replace(endpoint, password="wrong")).ping()
    with pytest.raises(Unavailable, match="does not answer"):
        Client(replace(endpoint, port=free_port())).ping()
    with pytest.raises(Misused) as caught:
        engines.client.query_columns("SELECT toUInt8(%(s)s) AS n", {"s": "line-4711"})
    assert "4711" not in str(caught.value)
    # And the connection is good again at once.
    engines.client.ping()


def test_the_capability_table_knows_the_version(engines: Store) -> None:
    can = engines.client.capabilities()
    assert can.version == ((26, 9) if engines.name == "bundled" else (18, 16))
    assert can.deduplication_token == can.codecs == (engines.name == "bundled")


def test_a_missing_password_file_says_which(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"nowhere\.password"):
        read_password(tmp_path / "nowhere.password")


def test_a_password_is_not_in_the_endpoints_repr() -> None:
    assert "secret" not in repr(Endpoint("h", 1, "u", "secret"))
