"""The record of look-ups: durable, complete, and without a subscriber in it."""

from __future__ import annotations

import json
import os
import pwd
import stat
import threading
from pathlib import Path

import pytest

from aggregator.queries.audit import AuditFile, commitment

NAME = "sub-0001"


def lines(folder: Path) -> list[dict[str, str]]:
    text = (folder / "lookups.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_names_who_and_what_and_hides_whom(tmp_path: Path) -> None:
    audit = AuditFile(tmp_path / "audit")
    audit.looked_up("billing usage 2026-11", NAME, "ticket 7")
    audit.looked_up("billing export 2026-11", "", "run\n11")
    one, other = lines(tmp_path / "audit")
    assert one["who"] == f"{pwd.getpwuid(os.getuid()).pw_name}({os.getuid()})"
    assert (one["what"], one["reference"]) == ("billing usage 2026-11", "ticket 7")
    assert (other["subject"], other["reference"]) == ("all", "run\n11")
    assert NAME not in (tmp_path / "audit" / "lookups.jsonl").read_text()
    key = (tmp_path / "audit" / "commitment.key").read_bytes()
    assert one["subject"] == commitment(key, NAME) != commitment(key, "sub-0002")
    assert one["subject"] != commitment(b"other", NAME)


def test_the_environment_cannot_say_who_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    AuditFile(tmp_path).looked_up("x", "", "")
    assert "somebody-else" not in (tmp_path / "lookups.jsonl").read_text()


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    AuditFile(tmp_path / "audit").looked_up("x", NAME, "")
    folder = tmp_path / "audit"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}
    assert sorted(each.name for each in folder.iterdir()) == ["commitment.key", "lookups.jsonl"]


def test_many_at_once_share_one_key_and_lose_no_line(tmp_path: Path) -> None:
    def ask() -> None:
        for _ in range(5):
            AuditFile(tmp_path).looked_up("x", NAME, "")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(tmp_path)) == 40
    assert len({line["subject"] for line in lines(tmp_path)}) == 1


def test_what_cannot_be_recorded_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        AuditFile(tmp_path / "file").looked_up("x", NAME, "")
    (tmp_path / "commitment.key").write_bytes(b"")
    with pytest.raises(OSError, match="damaged"):
        AuditFile(tmp_path).looked_up("x", NAME, "")
    assert not (tmp_path / "lookups.jsonl").exists()
