"""The spool: committed is durable, visible is whole, and whatever goes is told."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from collector.spool import Spool, SpoolConfig, SpoolError, SpoolFullError
from collector.wire import codec
from collector.wire.batch import Header
from collector.wire.gaps import losses_of
from collector.wire.loss import Loss
from collector.wire.records import CLASSES
from tests.collector.faults import Crash, Faults, faults
from tests.collector.samples import WINDOW, columns

REPO = Path(__file__).parents[2]
LENGTH = WINDOW["window_end_ns"] - WINDOW["window_start_ns"]
LOST = tuple(CLASSES)


def config(folder: Path, **changes: Any) -> SpoolConfig:
    return SpoolConfig(folder / "spool", "lns1", **changes)


@pytest.fixture
def spool(tmp_path: Path) -> Any:
    spool = Spool(config(tmp_path), "boot1")
    spool.start()
    yield spool
    spool.stop()


def window(number: int) -> dict[str, int]:
    start = WINDOW["window_start_ns"] + number * LENGTH
    return {
        "window_start_ns": start,
        "window_end_ns": start + LENGTH,
        "created_ns": start + LENGTH + 1,
    }


def commit(spool: Spool, number: int, rows: int = 5) -> Header:
    return spool.commit(**window(number), columns={"link": columns("link", rows, number)})


def restart(spool: Spool) -> Spool:
    spool.stop()
    again = Spool(spool.config, "boot2")
    again.start()
    return again


def names(spool: Spool) -> list[str]:
    found = [p for p in spool.config.folder.rglob("*") if p.is_file()]
    return sorted(str(p.relative_to(spool.config.folder)) for p in found)


def check(spool: Spool) -> None:
    """What must hold at every moment."""
    c = spool.counts
    for suffix in ("", "_rows"):
        assert c[f"committed{suffix}"] == sum(
            c[f"{name}{suffix}"] for name in ("acknowledged", "pending", "dropped", "dead")
        )
    on_disk = [p for p in spool.config.folder.iterdir() if p.suffix == ".batch"]
    assert len(on_disk) == spool.pending_batches
    assert sum(p.stat().st_size for p in on_disk) == spool.pending_bytes
    for path in on_disk:
        codec.decode(path.read_bytes())


def gaps(spool: Spool) -> list[Loss]:
    """The losses in all batches that wait."""
    found = []
    for path in sorted(spool.config.folder.glob("*.batch")):
        _, batches = codec.decode(path.read_bytes())
        found += losses_of(batches["gap"]) if "gap" in batches else []
    return found


# -- the ordinary life of a batch


def test_a_committed_batch_is_there_after_a_restart(spool: Spool) -> None:
    header = commit(spool, 1)
    assert (header.sequence, header.collector, header.boot) == (1, "lns1", "boot1")
    again = restart(spool)
    found = again.oldest()
    assert found is not None
    assert found[0] == header
    assert codec.decode(found[1].read_bytes())[0] == header
    assert (again.pending_batches, again.pending_rows) == (1, 5)
    assert again.epoch == header.epoch
    check(again)


def test_batches_leave_in_order_and_the_sequence_is_never_used_again(spool: Spool) -> None:
    headers = [commit(spool, i) for i in range(3)]
    for header in headers:
        found = spool.oldest()
        assert found is not None
        assert found[0] == header
        assert spool.acknowledge(header.batch)
        assert not spool.acknowledge(header.batch)
        check(spool)
    assert spool.oldest() is None
    assert [n for n in names(spool) if n.endswith("acked")] == [f"{3:020d}.acked"]
    assert (spool.config.folder / f"{3:020d}.acked").stat().st_size == 0
    again = restart(spool)
    assert again.last_sequence == 3
    assert commit(again, 4).sequence == 4


def test_modes_keep_others_out(spool: Spool) -> None:
    commit(spool, 1)
    spool.acknowledge(commit(spool, 2).batch)
    spool.reject(commit(spool, 3).batch, "schema")
    folder = spool.config.folder
    for path in (folder, *folder.rglob("*")):
        expected = 0o700 if path.is_dir() else 0o600
        assert path.stat().st_mode & 0o777 == expected, path.name


def test_one_owner(spool: Spool) -> None:
    other = Spool(spool.config, "boot2")
    with pytest.raises(SpoolError, match="another collector owns this spool"):
        other.start()
    spool.stop()
    other.start()
    other.stop()


def test_nothing_is_done_before_start_and_after_stop(tmp_path: Path) -> None:
    spool = Spool(config(tmp_path), "boot1")
    assert not (tmp_path / "spool").exists()
    with pytest.raises(SpoolError, match="not started"):
        commit(spool, 1)
    spool.start()
    spool.stop()
    spool.stop()
    with pytest.raises(SpoolError, match="not started"):
        spool.oldest()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(SpoolError, match="cannot be used"):
        Spool(config(tmp_path), "boot1").start()


def test_columns_that_do_not_fit_leave_nothing_behind(spool: Spool) -> None:
    before = names(spool)
    with pytest.raises(ValueError, match="flows"):
        spool.commit(**WINDOW, columns={"usage": columns("usage", 2) | {"flows": [-1, 1]}})
    assert names(spool) == before
    assert spool.counts["errors"] == 1
    assert commit(spool, 1).sequence == 1


def test_pieces_of_one_window_get_successive_sequences(spool: Spool) -> None:
    pieces = [{"link": columns("link", 2, i)} for i in range(3)]
    headers = spool.commit_all(**WINDOW, pieces=pieces)
    assert [h.sequence for h in headers] == [1, 2, 3]
    check(restart(spool))


def test_refused_batches_are_kept_and_told(spool: Spool) -> None:
    header = commit(spool, 1)
    commit(spool, 2)
    assert spool.reject(header.batch, "schema")
    assert not spool.reject(header.batch, "schema")
    assert f"dead/{1:020d}.batch" in names(spool)
    check(spool)
    commit(spool, 3)
    span = (header.window_start_ns, header.window_end_ns - 1)
    assert gaps(spool) == [Loss(*span, "uplink", "rejected-schema", 5, "rows", ("link",))]
    assert restart(spool).counts["dead"] == 0  # counts are of this run


def test_the_reason_of_a_refusal_is_not_believed(spool: Spool) -> None:
    spool.reject(commit(spool, 1).batch, "../../x\n" * 99)
    commit(spool, 2)
    assert gaps(spool)[0].reason == "rejected-unspecified"


# -- a full spool


def small(tmp_path: Path, batches: int) -> Spool:
    """A spool with room for so many batches of five rows, each with some gap rows."""
    probe = Spool(SpoolConfig(tmp_path / "probe", "lns1"), "boot1")
    probe.start()
    gap = {"link": columns("link", 5), "gap": columns("gap", 2)}
    size = probe.commit(**WINDOW, columns=gap)
    probe.stop()
    one = sum(section.size for section in size.sections) + 1024
    spool = Spool(config(tmp_path, max_bytes=one * batches, floor_batches=1), "boot1")
    spool.start()
    return spool


def test_the_oldest_goes_when_the_spool_is_full_and_is_told_exactly(tmp_path: Path) -> None:
    spool = small(tmp_path, 4)
    headers = [commit(spool, i) for i in range(12)]
    check(spool)
    assert spool.alarm == "spool-full"
    assert 0.5 < spool.fill_ratio <= 1
    kept = [h for h in headers if (spool.config.folder / f"{h.sequence:020d}.batch").exists()]
    gone = headers[: -len(kept)]
    assert [h.sequence for h in kept] == list(range(len(gone) + 1, 13))
    # The batches that told of the first ones are gone too, and yet every loss is still told.
    told = gaps(spool) + list(spool._books.ledger.waiting)
    assert sorted(told, key=lambda loss: loss.start_ns) == [
        Loss(
            h.window_start_ns,
            h.window_end_ns - h.sequence,
            "spool",
            "spool-full",
            5,
            "rows",
            ("link",),
        )
        for h in gone
    ]
    assert spool.counts["dropped_rows"] == 5 * len(gone)
    spool.stop()


def test_a_loss_waits_through_restarts_and_is_told_once(tmp_path: Path) -> None:
    spool = small(tmp_path, 3)
    while not spool.counts["dropped"]:
        commit(spool, spool.last_sequence)
    spool = restart(restart(spool))
    while (found := spool.oldest()) is not None:
        spool.acknowledge(found[0].batch)
    commit(spool, 50)
    commit(spool, 51)
    spool = restart(spool)
    commit(spool, 52)
    assert [(one.reason, one.amount) for one in gaps(spool)] == [("spool-full", 5)]
    spool.stop()


def test_the_batch_that_may_be_under_way_is_dropped_last(tmp_path: Path) -> None:
    spool = small(tmp_path, 3)
    first = commit(spool, 0)
    assert spool.oldest() is not None
    for i in range(1, 8):
        commit(spool, i)
    found = spool.oldest()
    assert found is not None
    assert found[0] == first
    assert spool.acknowledge(first.batch)
    check(spool)
    spool.stop()


def test_refused_batches_go_before_waiting_ones(tmp_path: Path) -> None:
    spool = small(tmp_path, 3)
    spool.reject(commit(spool, 0).batch, "schema")
    spool.reject(commit(spool, 1).batch, "schema")
    sequence = [commit(spool, i).sequence for i in (2, 3)]
    assert spool.counts["dropped"] == 0
    assert [int(p.stem) for p in sorted(spool.config.folder.glob("*.batch"))] == sequence
    again = restart(spool)
    assert again.last_sequence == 4
    again.stop()


def test_the_last_sequence_is_known_though_every_file_is_gone(tmp_path: Path) -> None:
    spool = small(tmp_path, 3)
    for i in range(3):
        spool.reject(commit(spool, i).batch, "schema")
    for path in (spool.config.folder / "dead").iterdir():
        path.unlink()
    assert restart(spool).last_sequence == 3


def test_a_window_larger_than_the_spool_drops_nothing(tmp_path: Path) -> None:
    spool = small(tmp_path, 3)
    commit(spool, 0)
    with pytest.raises(SpoolFullError, match="larger than the whole spool"):
        commit(spool, 1, rows=1_000)
    assert spool.pending_batches == 1
    check(spool)
    spool.stop()


def test_the_alarm_rises_before_the_spool_is_full(tmp_path: Path) -> None:
    spool = small(tmp_path, 10)
    seen = [spool.alarm]
    while spool.alarm != "spool-full":
        commit(spool, spool.last_sequence)
        seen += [spool.alarm] if spool.alarm != seen[-1] else []
    assert seen == ["", "filling", "spool-full"]
    spool.stop()


# -- a full disk


class FullDisk:
    """write() fails once the files of the spool have so many bytes."""

    def __init__(self, folder: Path, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.room = folder, room
        self.real = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, descriptor: int, data: Any) -> int:
        used = sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())
        if used + len(data) > self.room:
            self.real(descriptor, memoryview(data)[: max(self.room - used, 0) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.real(descriptor, data)


def disk_use(spool: Spool) -> int:
    return sum(p.stat().st_size for p in spool.config.folder.rglob("*") if p.is_file())


def test_on_a_full_disk_the_oldest_goes_down_to_a_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(config(tmp_path, floor_batches=3), "boot1")
    spool.start()
    for i in range(6):
        commit(spool, i)
    disk = FullDisk(spool.config.folder, disk_use(spool) + 100, monkeypatch)
    header = commit(spool, 6)
    assert spool.alarm == "disk-full"
    check(spool)
    assert spool.pending_batches < 7
    dropped = spool.counts["dropped"]
    assert dropped >= 1
    disk.room = 0  # nothing helps: somebody else fills the disk
    with pytest.raises(SpoolFullError, match="the disk is full"):
        for i in range(7, 20):
            commit(spool, i)
    assert spool.pending_batches >= 3
    check(spool)
    assert not [n for n in names(spool) if n.endswith((".tmp", ".part"))]
    disk.room = 2**40
    last = commit(spool, 30)
    assert last.sequence == header.sequence + 1
    reasons = {loss.reason for loss in gaps(spool)}
    assert reasons == {"disk-full"}
    assert sum(loss.amount for loss in gaps(spool)) == 5 * spool.counts["dropped"]
    spool.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 6 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m,mode=700", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.lab
def test_a_loss_can_be_written_on_a_full_disk(small_disk: Path) -> None:
    """On a file system that is really full: the reserve is what makes room for the ledger."""
    spool = Spool(config(small_disk, floor_batches=2), "boot1")
    spool.start()
    for i in range(40):
        commit(spool, i, rows=2_500)
    check(spool)
    assert spool.alarm == "disk-full"
    told = sum(loss.amount for loss in [*gaps(spool), *spool._books.ledger.waiting])
    assert told == 2_500 * spool.counts["dropped"] > 0
    again = restart(spool)
    check(again)
    assert again.last_sequence == 40
    again.stop()


# -- what a crash or a bad disk leaves


def test_leftovers_of_a_crash_are_removed(spool: Spool) -> None:
    commit(spool, 1)
    folder = spool.config.folder
    (folder / f"{2:020d}.tmp").write_bytes(b"half")
    (folder / f"{2:020d}.part").write_bytes(b"half")
    (folder / "lost.json.tmp").write_bytes(b"half")
    (folder / "README").write_text("of somebody else")
    again = restart(spool)
    assert not [n for n in names(again) if n.endswith((".tmp", ".part"))]
    assert "README" in names(again)
    assert again.last_sequence == 1
    check(again)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "swap", "huge", "link"])
def test_a_corrupt_batch_is_set_aside_and_told(spool: Spool, damage: str) -> None:
    first = commit(spool, 1)
    commit(spool, 2)
    commit(spool, 3)
    path = spool.config.folder / f"{2:020d}.batch"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    if damage == "link":
        path.unlink()
        path.symlink_to("/etc/hostname")
    elif damage == "huge":
        os.truncate(path, 2**30)
    else:
        other = (spool.config.folder / f"{3:020d}.batch").read_bytes()
        path.write_bytes(
            {"flip": bytes(data), "cut": bytes(data[:99]), "empty": b"", "swap": other}[damage]
        )
    again = restart(spool)
    assert again.pending_batches == 2
    assert again.counts["dead"] == 1
    if damage not in ("link", "huge"):
        check(again)
    commit(again, 4)
    (loss,) = gaps(again)
    assert loss.stage == "spool"
    assert loss.reason.startswith("corrupt-")
    assert (loss.amount, loss.unit, loss.classes) == (1, "batches", LOST)
    assert loss.start_ns == first.window_end_ns
    third = restart(again)
    assert third.pending_batches == 3, "told once, set aside once"
    third.stop()


def test_a_corrupt_ledger_is_told(spool: Spool) -> None:
    spool.reject(commit(spool, 1).batch, "schema")
    (spool.config.folder / "lost.json").write_text('{"last": 1, "carrier"')
    again = restart(spool)
    commit(again, 2)
    assert [loss.reason for loss in gaps(again)] == ["ledger-corrupt"]
    again.stop()


def test_a_lost_epoch_is_that_of_the_batches(spool: Spool) -> None:
    header = commit(spool, 1)
    (spool.config.folder / "epoch").write_text("rubbish")
    assert restart(spool).epoch == header.epoch


# -- faults at every system call


def scenario(spool: Spool, done: list[str]) -> None:
    """Commits, receipts, a refusal, a window of pieces, and drops; notes what was promised."""
    for number in range(3):
        commit(spool, number)
        done.append("commit")
    assert (oldest := spool.oldest()) is not None
    spool.acknowledge(oldest[0].batch)
    done.append("acknowledge")
    assert (oldest := spool.oldest()) is not None
    spool.reject(oldest[0].batch, "schema")
    done.append("reject")
    pieces = [{"link": columns("link", 5, 10 + i)} for i in range(3)]
    spool.commit_all(**window(3), pieces=pieces)
    done.append("pieces")
    for number in range(4, 8):
        commit(spool, number)
        done.append("commit")


def verify_after(spool: Spool, done: list[str]) -> None:
    """After recovery every row that was promised is in the spool, received, or told as lost."""
    check(spool)
    promised = 5 * (done.count("commit") + 3 * done.count("pieces"))
    begun_rows = {0, 5, 15}  # what was under way may have been committed or not
    waiting = spool._books.ledger.waiting
    told = sum(loss.amount for loss in [*gaps(spool), *waiting] if loss.unit == "rows")
    here = 0
    sequences = []
    for path in spool.config.folder.glob("*.batch"):
        header, _ = codec.decode(path.read_bytes())
        here += sum(s.rows for s in header.sections if s.record_class == "link")
        sequences.append(header.sequence)
    acknowledged = 5 * len(list(spool.config.folder.glob("*.acked")))
    extra = here + told + acknowledged - promised
    if "gaps-unreadable" not in {loss.reason for loss in [*gaps(spool), *waiting]}:
        assert extra in begun_rows, (done, here, told, acknowledged)
    assert not sequences or spool.last_sequence >= max(sequences)
    pieces = [s for s in sequences if s in (4, 5, 6)]
    if "spool-full" not in {loss.reason for loss in [*gaps(spool), *waiting]}:
        assert len(pieces) in (0, 3), "a window is there as a whole or not at all"


def run(folder: Path, plan: Faults, size: int) -> list[str]:
    done: list[str] = []
    spool = Spool(SpoolConfig(folder, "lns1", max_bytes=size, floor_batches=1), "boot1")
    try:
        spool.start()
        scenario(spool, done)
    except (Crash, SpoolError):
        pass
    finally:
        plan.off()
        if spool._owner is not None:  # the death of a process gives its locks back
            os.close(spool._owner)
            spool._owner = None
    return done


@pytest.mark.parametrize("kind", ["crash", "error", "no-space"])
def test_a_fault_at_every_system_call(tmp_path: Path, kind: str) -> None:
    probe = Spool(SpoolConfig(tmp_path / "probe", "lns1"), "boot1")
    probe.start()
    size = 6 * sum(s.size for s in commit(probe, 0).sections)
    probe.stop()
    with faults() as plan:
        run(tmp_path / "whole", plan, size)
        calls = plan.count
        assert {"write", "fsync", "rename", "unlink", "truncate"} <= set(plan.calls)
        for number in range(calls):
            if kind == "crash":
                plan.crash_at(number)
            else:
                plan.fail_at(number, errno.EIO if kind == "error" else errno.ENOSPC)
            folder = tmp_path / f"at-{number}"
            done = run(folder, plan, size)
            again = Spool(SpoolConfig(folder, "lns1", max_bytes=size, floor_batches=1), "boot2")
            again.start()
            verify_after(again, done)
            before = again.last_sequence
            assert commit(again, 20).sequence == before + 1
            check(again)
            again.stop()
    assert calls > 100


KILLED = """
import sys
from pathlib import Path
from collector.spool import Spool, SpoolConfig
from tests.collector.test_spool import commit
spool = Spool(SpoolConfig(Path(sys.argv[1]), "lns1", max_bytes=60_000, floor_batches=1), "boot")
spool.start()
print(spool.last_sequence, flush=True)
while True:
    number = spool.last_sequence
    commit(spool, number)
    print(spool.last_sequence, flush=True)
    if number % 3 == 0:
        spool.acknowledge(spool.oldest()[0].batch)
"""


def test_kills_at_random_moments(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    promised = 0
    for attempt in range(10):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, folder], stdout=subprocess.PIPE, cwd=REPO, text=True
        )
        assert child.stdout is not None
        began = int(child.stdout.readline())
        assert began >= promised, "a sequence that was promised is not there"
        lines = [child.stdout.readline() for _ in range(2 + attempt % 3)]
        time.sleep(0.0017 * attempt)
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.read().split()
        child.stdout.close()
        child.wait()
        promised = max(began, *(int(line) for line in lines if line), promised)
    spool = Spool(SpoolConfig(folder, "lns1", max_bytes=60_000, floor_batches=1), "boot")
    spool.start()
    assert spool.last_sequence in (promised, promised + 1)
    assert spool.last_sequence > 20
    check(spool)
    assert spool.counts["dead"] == 0, "a kill never leaves a corrupt batch"
    spool.stop()


# -- threads


def test_commits_and_receipts_in_threads(tmp_path: Path) -> None:
    spool = small(tmp_path, 8)
    errors: list[BaseException] = []
    finished = threading.Event()

    def receive() -> None:
        try:
            while not finished.is_set() or spool.pending_batches:
                found = spool.oldest()
                if found is not None:
                    if found[0].sequence % 5:
                        spool.acknowledge(found[0].batch)
                    else:
                        spool.reject(found[0].batch, "schema")
                assert spool.fill_ratio <= 1
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=receive)
    thread.start()
    for number in range(60):
        commit(spool, number)
    finished.set()
    thread.join(30)
    assert not thread.is_alive()
    assert not errors
    check(spool)
    counts = spool.counts
    assert counts["committed"] == 60 + 0 * counts["errors"]
    assert json.dumps(counts)
    spool.stop()
