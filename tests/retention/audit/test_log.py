"""The log on disk: what it keeps through a crash at each system call, and what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from retention.audit import disk, merkle
from retention.audit.canonical import decode
from retention.audit.checkpoint import Checkpoint, Signer, parse_proof
from retention.audit.leaf import LeafError
from retention.audit.log import AuditLog, ClockError, LogError, LogReader
from retention.audit.verify import verify
from tests.retention.audit.crash import Crash, Disk
from tests.retention.audit.story import SIGNER, START, WITNESS_SIGNER, fill, heartbeats

BEAT = {"kind": "heartbeat", "generation": 0, "holds": 0}


def opened(folder: Path) -> AuditLog:
    log = AuditLog(folder, SIGNER, lambda: (START + 10**14) * 1000)
    log.open()
    return log


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of 1, 3, 255 and 256 leaves: the last appends fill a tile and begin the next."""
    root = tmp_path_factory.mktemp("base")
    (root / "0").mkdir()
    for size in (1, 3, 255, 256):
        fill(root / str(size), heartbeats(size - 1))
    return root


def test_indexes_tail_proofs_and_consistency(tmp_path: Path) -> None:
    fill(tmp_path / "log", heartbeats(300))
    log = opened(tmp_path / "log")
    old = Checkpoint.parse(log.checkpoint().encode())
    assert log.append(BEAT) == 301
    assert log.extend([BEAT, BEAT]) == [302, 303]
    assert [(index, leaf["kind"]) for index, leaf in log.tail(2)] == [
        (302, "heartbeat"),
        (303, "heartbeat"),
    ]
    new = Checkpoint.parse(log.checkpoint().encode())
    proof = log.consistency(old.size, new.size)
    assert merkle.consistent(old.size, new.size, proof, old.root, new.root)
    index, path, note = parse_proof(log.prove(17))
    note.signed_by(SIGNER.key)
    hashed = merkle.leaf_hash(log.entry(17))
    assert merkle.included(hashed, index, note.size, path, note.root)
    assert decode(log.entry(0))["kind"] == "genesis"
    log.close()
    assert verify(tmp_path / "log").good


def test_the_folder_has_the_tiles_of_the_specification_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path, heartbeats(300))
    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {
        "checkpoint",
        "tile/entries/000",
        "tile/entries/001.p/45",
        "tile/0/000",
        "tile/0/001.p/45",
        "tile/1/000.p/1",
    }


def test_refusals(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for bad in ({"kind": "nonsense"}, BEAT | {"holds": 1.5}, BEAT | {"v": 2}):
        with pytest.raises(LeafError):
            log.append(bad)
    with pytest.raises(LogError, match="too many"):
        log.extend([BEAT] * 257)
    with pytest.raises(ClockError):
        log.append(BEAT | {"at": START})
    back = {"kind": "clock.step", "delta": 10**14, "backward": True, "trusted": False}
    log.append({**back, "reason": "stepped", "actor": None, "at": START})
    log.append(BEAT | {"at": START + 1})
    with pytest.raises(LogError, match="another process"):
        opened(tmp_path)
    for index in (-1, log.size):
        with pytest.raises(LogError, match="no leaf"):
            log.prove(index)
        with pytest.raises(LogError, match="no leaf"):
            log.entry(index)
    log.close()
    with pytest.raises(LogError, match="not open"):
        log.append(BEAT)
    with pytest.raises(LogError, match="not this key's"):
        AuditLog(tmp_path, Signer.generate("log.example/audit"), lambda: 0).open()
    assert verify(tmp_path).good


@pytest.mark.parametrize("name", ["checkpoint", "tile/0/000.p/4", "tile/entries/000.p/4"])
def test_a_damaged_log_is_not_opened_and_not_overwritten(tmp_path: Path, name: str) -> None:
    fill(tmp_path, heartbeats(3))
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[:-3] + b"???")
    with pytest.raises(LogError):
        opened(tmp_path)
    assert (tmp_path / name).read_bytes() == data[:-3] + b"???"


def test_a_lost_or_old_checkpoint_removes_no_leaves(tmp_path: Path) -> None:
    fill(tmp_path, heartbeats(3))
    fill(tmp_path / "more", heartbeats(600))
    shutil.copytree(tmp_path / "more" / "tile", tmp_path / "tile", dirs_exist_ok=True)
    for lost in (False, True):
        if lost:
            (tmp_path / "checkpoint").unlink()
        with pytest.raises(LogError, match="far beyond"):
            opened(tmp_path)
        assert (tmp_path / "tile/entries/001").exists()


def _survives(folder: Path, size: int, done: bool) -> None:
    """Open what a crash left: nothing that was given an index is lost, and the log is whole."""
    log = opened(folder)
    allowed = (size + 1,) if done else (max(size, 1), size + 1)
    assert log.size in allowed
    log.append(BEAT)
    log.close()
    report = verify(folder)
    assert report.good, report.findings


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No true fsync: `Disk` keeps account of what is synced, and the power stays on."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


# What is left after one call is what is left before the next, so "before" covers both.
@pytest.mark.parametrize(
    ("size", "how"),
    [(0, "before"), (1, "before"), (3, "before"), (255, "before"), (256, "before"), (255, "half")],
)
@pytest.mark.usefixtures("quick")
def test_a_crash_at_each_system_call(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, how: str
) -> None:
    stop = 0
    while True:
        live = tmp_path / f"live-{stop}"
        shutil.copytree(base / str(size), live)
        log = AuditLog(live, SIGNER, lambda: (START + 10**14) * 1000)
        machine = Disk(live, stop, how)
        monkeypatch.setattr(disk, "os", machine)
        done = False
        try:
            log.open()
            if size:
                log.append(BEAT)
            done = True
        except Crash:
            pass
        finally:
            monkeypatch.setattr(disk, "os", os)
            log.close()
        cut = machine.after_power_cut(tmp_path / f"cut-{stop}")
        _survives(live, size, done)
        _survives(cut, size, done)
        for folder in (live, cut):
            shutil.rmtree(folder)
        if done:
            assert stop > 15  # the append ended before the call that was to fail
            return
        stop += 1


@pytest.mark.parametrize("size", [3, 255, 256])
@pytest.mark.usefixtures("quick")
def test_a_full_disk_at_each_system_call(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    for stop in range(100):
        live = tmp_path / f"live-{stop}"
        shutil.copytree(base / str(size), live)
        log = opened(live)
        machine = Disk(live, stop, "error")
        monkeypatch.setattr(disk, "os", machine)
        failed = False
        try:
            log.append(BEAT)
        except OSError:
            failed = True
        monkeypatch.setattr(disk, "os", os)
        assert log.append(BEAT) in ((size, size + 1) if failed else (size + 1,))
        log.close()
        report = verify(live)
        assert report.good, report.findings
        if machine.calls <= stop:
            assert stop > 15
            return
    pytest.fail("an append of more than a hundred system calls")


_WRITER = """
import sys, time
from pathlib import Path
from retention.audit.checkpoint import Signer
from retention.audit.log import AuditLog
with AuditLog(Path(sys.argv[1]), Signer.parse(sys.argv[2]), time.time_ns) as log:
    while True:
        index = log.append({"kind": "heartbeat", "generation": 0, "holds": 0})
        print(index, flush=True)
"""


def test_sigkill_loses_nothing_that_was_given_an_index(tmp_path: Path) -> None:
    last = 0
    for lines in (1, 7, 40, 90, 200):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), SIGNER.secret()],
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout
            for _ in range(lines):
                last = int(writer.stdout.readline())
            writer.kill()
            rest = writer.stdout.read().splitlines(keepends=True)
            last = max([last, *(int(line) for line in rest if line.endswith("\n"))])
        with AuditLog(tmp_path, SIGNER, lambda: 4 * 10**18) as log:
            assert log.size > last
        report = verify(tmp_path)
        assert report.good, report.findings


def test_a_witnesss_checkpoint_is_kept_and_told_of(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append({"kind": "witness.enrolled", "key": str(WITNESS_SIGNER.key), "actor": "a" * 64})
    text = log.checkpoint().partition("\n\n")[0] + "\n"
    cosigned = log.checkpoint() + WITNESS_SIGNER.sign(text, 2 * 10**9)
    index = log.add_cosigned(cosigned, WITNESS_SIGNER.key)
    assert log.tail(1)[0][0] == index
    other = Signer.generate("other.example/log")
    forged = text.replace(SIGNER.key.name, other.key.name)
    with pytest.raises(ValueError, match="not signed by"):
        log.add_cosigned(f"{forged}\n{other.sign(forged)}", WITNESS_SIGNER.key)
    log.close()
    report = verify(tmp_path)
    assert report.good, report.findings
    assert report.witnesses == {"w.example/1": {"size": 2, "seconds": 2 * 10**9}}


def test_a_reader_needs_no_key_and_writes_nothing(tmp_path: Path) -> None:
    fill(tmp_path, heartbeats(5))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    log = LogReader(tmp_path)
    log.load()
    log.tail(3)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
