"""What is searched changes meanwhile: a server merges its parts, a spool sends its batches."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from safeguard.search import below, find

MARKER = b"canary.example"


def test_what_goes_while_it_is_looked_for_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("all_1_1_0", "all_2_2_0", "all_3_3_0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "host.bin").write_bytes(MARKER)
    look, read = os.scandir, Path.read_bytes

    def merges(folder: Any) -> Any:
        if str(folder).endswith("all_2_2_0"):
            shutil.rmtree(folder)
        return look(folder)

    def merged(path: Path) -> bytes:
        if path.parent.name == "all_3_3_0":
            shutil.rmtree(path.parent)
        return read(path)

    monkeypatch.setattr(os, "scandir", merges)
    monkeypatch.setattr(Path, "read_bytes", merged)
    assert find([tmp_path], [MARKER]) == {MARKER: [tmp_path / "all_1_1_0" / "host.bin"]}


def test_files_and_what_is_below_folders_come_in_order(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("b/c/2", "b/1", "a"):
        (tmp_path / name).touch()
    found = below([tmp_path / "a", tmp_path / "b", tmp_path / "none"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "a",
        "b/1",
        "b/c/2",
    ]
