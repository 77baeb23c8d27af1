"""The search for what is left finds what is there, in the files of both engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from safeguard.search import find
from tests.aggregator.support import DebianServer, Store


def test_raw_files_are_searched(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 5000 + b"marker-one" + b"y")
    (tmp_path / "b").write_bytes(b"")
    found = find([tmp_path], [b"marker-one", b"marker-two"])
    assert found == {b"marker-one": [tmp_path / "a"], b"marker-two": []}


@pytest.mark.engine
@pytest.mark.parametrize("codec", ["", "CODEC(ZSTD(1))", "CODEC(NONE)", "CODEC(Delta, ZSTD(1))"])
def test_a_marker_deep_in_a_column_is_found(
    engines: Store, codec: str, request: pytest.FixtureRequest
) -> None:
    if engines.name == "debian" and codec:
        codec = ""  # 18.16 knows LZ4 alone, without a name for it
    if "Delta" in codec:  # for numbers only: the marker is one
        kind, value = "UInt64", "toUInt64(number = 70000 ? 7521983763885061485 : number)"
    else:
        kind, value = "String", "if(number = 70000, 'marker-h', concat('host-', toString(number)))"
    engines.keeper.execute("DROP TABLE IF EXISTS residue")
    engines.keeper.execute(
        f"CREATE TABLE residue (n UInt64, s {kind} {codec}) ENGINE = MergeTree() ORDER BY n"
        " SETTINGS index_granularity = 8192"
    )
    engines.keeper.execute(f"INSERT INTO residue SELECT number, {value} FROM numbers(90000)")
    if engines.name == "bundled":
        folder = request.getfixturevalue("bundled_engine").config.data
    else:
        server: DebianServer = request.getfixturevalue("debian_server")
        folder = server.folder
    needle = b"marker-h" if kind == "String" else (7521983763885061485).to_bytes(8, "little")
    found = find([folder], [needle])[needle]
    engines.keeper.execute("DROP TABLE residue")
    if "Delta" in codec:
        assert not found  # differences, not values: numbers behind a delta cannot be searched
    else:
        assert [path.name for path in found if path.suffix == ".bin"]
