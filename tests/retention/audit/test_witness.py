"""A witness signs what extends what it saw, and nothing else, whatever the log's key signs."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from retention.audit.checkpoint import Checkpoint, Key, Signer, checkpoint_text
from retention.audit.log import AuditLog
from retention.audit.verify import verify
from retention.audit.witness import Witness, WitnessError
from tests.retention.audit.story import DAY, SIGNER, START, fill, heartbeats

NOW = (START + 30 * DAY) // 10**6


def witness(state: Path, seconds: int = NOW) -> Witness:
    return Witness(state, "w.example/1", lambda: seconds)


def test_it_signs_follows_and_is_believed(tmp_path: Path) -> None:
    fill(tmp_path / "log", heartbeats(5))
    first = Checkpoint.parse(witness(tmp_path / "w").cosign(tmp_path / "log", SIGNER.key).encode())
    key = witness(tmp_path / "w").signer().key
    assert first.signed_by(key).seconds == NOW
    with AuditLog(tmp_path / "log", SIGNER, lambda: (START + DAY) * 1000) as log:
        log.append({"kind": "witness.enrolled", "key": str(key), "actor": "a" * 64})
        note = witness(tmp_path / "w", NOW + 60).cosign(tmp_path / "log", SIGNER.key)
        log.add_cosigned(note, key)
    seen = witness(tmp_path / "w").seen(SIGNER.key)
    assert seen and seen.size == 7
    report = verify(tmp_path / "log", SIGNER.key, [key], note.encode())
    assert report.good, report.findings
    assert report.witnesses == {"w.example/1": {"size": 7, "seconds": NOW + 60}}
    mode = (tmp_path / "w/witness.key").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.parametrize(("leaves", "words"), [(4, "were seen here"), (5, "fork"), (300, "fork")])
def test_a_log_cut_back_or_forked_is_refused(tmp_path: Path, leaves: int, words: str) -> None:
    fill(tmp_path / "log", heartbeats(5))
    last = witness(tmp_path / "w").cosign(tmp_path / "log", SIGNER.key)
    other = [leaf | {"holds": 1} for leaf in heartbeats(leaves)]
    fill(tmp_path / "other", heartbeats(leaves) if leaves < 5 else other)
    with pytest.raises(WitnessError, match=words):
        witness(tmp_path / "w").cosign(tmp_path / "other", SIGNER.key)
    seen = witness(tmp_path / "w").seen(SIGNER.key)
    assert seen and seen.text == Checkpoint.parse(last.encode()).text
    assert witness(tmp_path / "w").cosign(tmp_path / "log", SIGNER.key)


def test_what_else_it_refuses(tmp_path: Path) -> None:
    fill(tmp_path / "log", heartbeats(5))
    stranger = Signer.generate("log.example/audit").key
    with pytest.raises(WitnessError, match="not signed by"):
        witness(tmp_path / "w").cosign(tmp_path / "log", stranger)
    witness(tmp_path / "w").cosign(tmp_path / "log", SIGNER.key)
    with pytest.raises(WitnessError, match="clock"):
        witness(tmp_path / "w", NOW - 1).cosign(tmp_path / "log", SIGNER.key)
    with pytest.raises(WitnessError, match="not one of"):
        Witness(tmp_path / "w", "w.example/2", lambda: NOW).signer()
    text = checkpoint_text(SIGNER.key.name, 6, bytes(32))
    (tmp_path / "log/checkpoint").write_text(f"{text}\n{SIGNER.sign(text)}")
    with pytest.raises(WitnessError, match="root"):
        witness(tmp_path / "w").cosign(tmp_path / "log", SIGNER.key)


def test_two_logs_do_not_mix(tmp_path: Path) -> None:
    second = Signer.generate("other.example/audit")
    fill(tmp_path / "a", heartbeats(5))
    fill(tmp_path / "b", heartbeats(2), second)
    witness(tmp_path / "w").cosign(tmp_path / "a", SIGNER.key)
    witness(tmp_path / "w").cosign(tmp_path / "b", second.key)
    keys: list[Key] = [SIGNER.key, second.key]
    seen = [witness(tmp_path / "w").seen(key) for key in keys]
    assert [found.size for found in seen if found] == [6, 3]
