"""The journal: state and events as of exactly the batches that are committed, through any crash."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from collector.framing import frame, frames
from collector.journal import Journal, JournalError, JournalFullError
from collector.journal_state import state_path
from collector.spool import Spool, SpoolConfig, SpoolError
from collector.wire import codec
from tests.collector.faults import Crash, Faults, faults
from tests.collector.samples import WINDOW, columns

REPO = Path(__file__).parents[2]
NOW = 1_700_000_000_000_000_000


def journal(folder: Path, **options: Any) -> Journal:
    return Journal(folder / "journal", now=lambda: time.time_ns(), **options)


def loaded(folder: Path, last: int = 0, **options: Any) -> Journal:
    one = journal(folder, **options)
    one.load(last)
    return one


def append(one: Journal, *numbers: int) -> None:
    for number in numbers:
        one.append("event", {"n": number})


def numbers(events: list[tuple[str, dict[str, Any]]]) -> list[int]:
    return [payload["n"] for _, payload in events]


def files(one: Journal) -> list[str]:
    return sorted(path.name for path in one._folder.iterdir())


# -- the ordinary life


def test_the_first_start_has_no_state_and_no_loss(tmp_path: Path) -> None:
    one = journal(tmp_path)
    assert one.load(0) == (None, [])
    assert one.losses == []
    assert one._folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in one._folder.iterdir())


def test_synced_events_are_replayed_in_order(tmp_path: Path) -> None:
    one = loaded(tmp_path)
    append(one, 1, 2)
    one.sync()
    append(one, 3)  # never synced: the process is killed
    again = journal(tmp_path)
    assert again.load(0) == (None, [("event", {"n": 1}), ("event", {"n": 2})])
    append(again, 4)
    again.sync()
    assert numbers(journal(tmp_path).load(0)[1]) == [1, 2, 4]


def test_a_committed_state_replaces_what_came_before(tmp_path: Path) -> None:
    one = loaded(tmp_path)
    append(one, 1)
    one.rotate(1, {"sum": 1})
    append(one, 2)
    one.committed(1)
    append(one, 3)
    one.sync()
    assert files(one) == [f"events-{1:020d}.log", f"state-{1:020d}.json"]
    snapshot, events = journal(tmp_path).load(1)
    assert (snapshot, numbers(events)) == ({"sum": 1}, [2, 3])


def test_a_batch_committed_without_its_journal(tmp_path: Path) -> None:
    """SIGKILL between the spool's commit and `committed`."""
    one = loaded(tmp_path)
    append(one, 1)
    one.rotate(1, {"sum": 1})
    append(one, 2)
    one.sync()
    again = journal(tmp_path)
    snapshot, events = again.load(1)
    assert (snapshot, numbers(events), again.losses) == ({"sum": 1}, [2], [])


def test_a_state_whose_batch_was_not_committed(tmp_path: Path) -> None:
    """SIGKILL between `rotate` and the spool's commit; then the same sequence once more."""
    one = loaded(tmp_path)
    append(one, 1)
    one.rotate(1, {"sum": 1})
    append(one, 2)
    one.sync()
    again = journal(tmp_path)
    snapshot, events = again.load(0)
    assert (snapshot, numbers(events), again.losses) == (None, [1, 2], [])
    append(again, 3)
    again.rotate(1, {"sum": 6})
    append(again, 4)
    again.sync()
    snapshot, events = journal(tmp_path).load(1)
    assert (snapshot, numbers(events)) == ({"sum": 6}, [4])


def test_a_failed_commit_may_be_tried_again(tmp_path: Path) -> None:
    one = loaded(tmp_path)
    append(one, 1)
    one.rotate(1, {"sum": 1})
    append(one, 2)
    one.rotate(1, {"sum": 3})
    one.committed(1)
    assert journal(tmp_path).load(1) == ({"sum": 3}, [])


def test_several_pieces_take_several_sequences(tmp_path: Path) -> None:
    one = loaded(tmp_path)
    one.rotate(3, {"sum": 0})
    one.committed(3)
    append(one, 1)
    one.sync()
    assert numbers(journal(tmp_path).load(3)[1]) == [1]


# -- limits


def test_a_full_log_asks_for_an_early_close_and_then_refuses(tmp_path: Path) -> None:
    one = loaded(tmp_path, max_log_bytes=1_000)
    count = 0
    while not one.is_full:
        append(one, count)
        count += 1
    assert 1_000 <= one.log_bytes < 1_100
    with pytest.raises(JournalFullError):
        for _ in range(10_000):
            append(one, count)
            count += 1
    one.sync()
    assert numbers(journal(tmp_path).load(0)[1]) == list(range(count))
    one.rotate(1, {})
    one.committed(1)
    assert (one.is_full, one.log_bytes) == (False, 0)
    append(one, 7)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [("event", {"n": "x" * 70_000}), ("event", {"n": b""}), ("event", {"n": float("nan")}),
     ("rotate", {})],
)  # fmt: skip
def test_events_that_cannot_be_written(tmp_path: Path, kind: str, payload: dict[str, Any]) -> None:
    one = loaded(tmp_path)
    with pytest.raises(JournalError):
        one.append(kind, payload)
    append(one, 1)
    one.sync()
    assert numbers(journal(tmp_path).load(0)[1]) == [1]


def test_a_state_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = loaded(tmp_path)
    with pytest.raises(JournalError, match="not JSON"):
        one.rotate(1, {"x": {1, 2}})
    monkeypatch.setattr("collector.journal_state.MAX_SNAPSHOT_BYTES", 100)
    with pytest.raises(JournalError, match="more than 100 bytes"):
        one.rotate(1, {"x": "y" * 100})
    with pytest.raises(JournalError, match="no state"):
        one.committed(1)


def test_nothing_is_written_before_load_and_after_close(tmp_path: Path) -> None:
    one = journal(tmp_path)
    assert not (tmp_path / "journal").exists()
    for _ in range(2):
        with pytest.raises(JournalError, match="not loaded"):
            append(one, 1)
        one.load(0)
        one.close()
        one.close()


def test_a_full_disk_loses_no_event_that_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = loaded(tmp_path)
    append(one, 1)
    one.sync()
    append(one, 2)
    real = os.write

    def full(descriptor: int, data: Any) -> int:
        if len(data) < 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(JournalFullError, match="disk is full"):
            one.sync()
    append(one, 3)
    one.sync()
    assert numbers(journal(tmp_path).load(0)[1]) == [1, 2, 3]


def test_after_a_failed_fsync_nothing_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a failed fsync left in the page cache is unknown: another fsync would lie."""
    one = loaded(tmp_path)
    append(one, 1)

    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(JournalError, match="restart"):
            one.sync()
    with pytest.raises(JournalError, match="restart"):
        append(one, 2)


# -- damage


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_tail_is_cut(tmp_path: Path, cut: int) -> None:
    one = loaded(tmp_path)
    append(one, 1, 2, 3)
    one.sync()
    path = one._path
    os.truncate(path, path.stat().st_size - cut)
    again = journal(tmp_path)
    events = numbers(again.load(0)[1])
    assert events == [1, 2, 3][: 2 if cut < 45 else 1]
    assert again.losses == [], "what was never synced is not lost"
    append(again, 9)
    again.sync()
    assert numbers(journal(tmp_path).load(0)[1]) == [*events, 9]


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"0000000f ", b"ffffffff 00000000 {}\n", b"\xff"])
def test_rubbish_at_the_end_is_cut(tmp_path: Path, tail: bytes) -> None:
    one = loaded(tmp_path)
    append(one, 1)
    one.sync()
    with open(one._path, "ab") as file:
        file.write(tail)
    again = journal(tmp_path)
    assert numbers(again.load(0)[1]) == [1]
    assert again.losses == []


def test_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    one = loaded(tmp_path)
    append(one, *range(10))
    one.sync()
    data = bytearray(one._path.read_bytes())
    data[len(data) * 3 // 10 + 25] ^= 1
    one._path.write_bytes(bytes(data))
    again = journal(tmp_path)
    assert numbers(again.load(0)[1]) == [0, 1, 2]
    (loss,) = again.losses
    assert (loss.reason, loss.amount, loss.unit) == ("events-corrupt", 6, "events")
    assert loss.start_ns < loss.end_ns


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "nonsense", "gone", "other"])
def test_a_corrupt_state_is_told_and_its_events_are_kept(tmp_path: Path, damage: str) -> None:
    one = loaded(tmp_path)
    append(one, 1)
    one.rotate(1, {"sum": 1})
    append(one, 2)
    one.committed(1)
    append(one, 3)
    one.sync()
    path = state_path(one._folder, 1)
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    broken = {"flip": bytes(data), "cut": bytes(data[:-9]), "empty": b"", "nonsense": b"[]\n[]\n",
              "other": path.read_bytes().replace(b'"sequence":1', b'"sequence":2')}  # fmt: skip
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(broken[damage])
    again = journal(tmp_path)
    snapshot, events = again.load(1)
    assert (snapshot, numbers(events)) == (None, [2, 3])
    (loss,) = again.losses
    assert loss.reason == ("state-missing" if damage == "gone" else "state-corrupt")
    assert (loss.amount, loss.unit, loss.stage) == (-1, "events", "track")
    assert loss.start_ns < loss.end_ns
    third = journal(tmp_path)
    third.load(1)
    append(third, 4)
    third.rotate(2, {"sum": 4})
    third.committed(2)
    fourth = journal(tmp_path)
    assert fourth.load(2) == ({"sum": 4}, [])
    assert fourth.losses == []


def test_a_corrupt_state_of_an_unfinished_rotation(tmp_path: Path) -> None:
    one = loaded(tmp_path)
    append(one, 1)
    one.rotate(1, {"sum": 1})
    append(one, 2)
    one.sync()
    state_path(one._folder, 1).write_bytes(b"rubbish")
    again = journal(tmp_path)
    assert numbers(again.load(1)[1]) == [2]
    assert [loss.reason for loss in again.losses] == ["state-corrupt"]


def test_a_spool_that_was_replaced_is_told(tmp_path: Path) -> None:
    one = loaded(tmp_path)
    one.rotate(500, {"sum": 1})
    one.committed(500)
    again = journal(tmp_path)
    assert again.load(0) == (None, [])
    assert [loss.reason for loss in again.losses] == ["state-missing"]
    assert files(again) == [f"events-{0:020d}.log"]


def test_frames_are_as_documented() -> None:
    line = frame({"k": "event", "p": {"n": 1}})
    assert line == b'00000019 cf526c1c {"k":"event","p":{"n":1}}\n'
    assert frames(line * 2) == [("event", {"n": 1}, len(line)), ("event", {"n": 1}, 2 * len(line))]


# -- journal and spool together, through crashes


class Service:
    """The smallest service: its state is the sum of all events; each batch tells its part.

    Whatever happens, parts of all committed batches + the state's pending part + events replayed
    must be every event synced, once.
    """

    def __init__(self, folder: Path) -> None:
        self.spool = Spool(SpoolConfig(folder / "spool", "lns1"), "boot")
        self.journal = Journal(folder / "journal", max_log_bytes=4_000)
        self.seen: list[int] = []
        self.total = 0

    def start(self) -> None:
        self.spool.start()
        snapshot, events = self.journal.load(self.spool.last_sequence)
        assert self.journal.losses == []
        self.total = snapshot["total"] if snapshot else 0
        assert (snapshot is None) == (self.spool.last_sequence == 0)
        self.seen = []
        for _, payload in events:
            self.apply(payload["n"])

    def apply(self, number: int) -> None:
        assert number == self.total, f"event {number} after {self.total} events"
        self.seen.append(number)
        self.total += 1

    def take(self, count: int) -> None:
        for number in range(self.total, self.total + count):
            self.journal.append("event", {"n": number})
            self.apply(number)
        self.journal.sync()

    def close_window(self, pieces: int = 1) -> None:
        last = self.spool.last_sequence + pieces
        rows = columns("link", 1) | {"rx_bytes": [len(self.seen)]}
        zero = columns("link", 1) | {"rx_bytes": [0]}
        parts = [{"link": zero}] * (pieces - 1) + [{"link": rows}]
        self.journal.rotate(last, {"total": self.total})
        headers = self.spool.commit_all(**WINDOW, pieces=parts)
        assert headers[-1].sequence == last
        self.seen = []
        self.journal.committed(last)

    def reported(self) -> int:
        """Events in all batches."""
        total = 0
        for path in self.spool.config.folder.glob("*.batch"):
            _, batches = codec.decode(path.read_bytes())
            total += sum(row["rx_bytes"] for row in batches["link"].to_pylist())
        return total

    def check(self) -> None:
        assert self.reported() + len(self.seen) == self.total

    def die(self) -> None:
        """What the kernel does for a dead process."""
        if self.spool._owner is not None:
            os.close(self.spool._owner)
            self.spool._owner = None
        if self.journal._descriptor is not None:
            os.close(self.journal._descriptor)
            self.journal._descriptor = None


def work(service: Service, promised: list[int]) -> None:
    service.start()
    for pieces in (1, 1, 3):
        service.take(3)
        promised.append(service.total)
        service.close_window(pieces)
        service.take(2)
        promised.append(service.total)


@pytest.mark.parametrize("kind", ["crash", "error", "no-space"])
def test_a_fault_at_every_system_call(tmp_path: Path, kind: str) -> None:
    def attempt(folder: Path, plan: Faults) -> list[int]:
        promised = [0]
        service = Service(folder)
        try:
            work(service, promised)
        except (Crash, SpoolError, JournalError):
            pass
        finally:
            plan.off()
            service.die()
        return promised

    with faults() as plan:
        attempt(tmp_path / "whole", plan)
        calls = plan.count
        for number in range(calls):
            if kind == "crash":
                plan.crash_at(number)
            else:
                plan.fail_at(number, errno.EIO if kind == "error" else errno.ENOSPC)
            promised = attempt(tmp_path / f"at-{number}", plan)
            again = Service(tmp_path / f"at-{number}")
            again.start()
            again.check()
            assert again.total >= promised[-1], f"a synced event is lost at call {number}"
            again.take(1)
            again.close_window()
            again.check()
            again.die()
    assert calls > 150


KILLED = """
import random, sys
from pathlib import Path
from tests.collector.test_journal import Service
service = Service(Path(sys.argv[1]))
service.start()
service.check()
print(service.total, flush=True)
source = random.Random(sys.argv[2])
while True:
    service.take(source.randrange(1, 6))
    print(service.total, flush=True)
    if source.random() < 0.5 or service.journal.is_full:
        service.close_window(source.choice((1, 1, 2)))
"""


def test_kills_at_random_moments(tmp_path: Path) -> None:
    source = random.Random(4)
    promised = 0
    for attempt in range(14):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, tmp_path, str(attempt)],
            stdout=subprocess.PIPE, cwd=REPO, text=True,
        )  # fmt: skip
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(source.randrange(2, 9))]
        time.sleep(source.random() / 50)
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.read().splitlines()
        child.stdout.close()
        child.wait()
        assert child.returncode == -signal.SIGKILL, "the child found an invariant broken"
        totals = [int(line) for line in lines if line.strip()]
        assert totals[0] >= promised, "a synced event is lost"
        promised = totals[-1]
    service = Service(tmp_path)
    service.start()
    service.check()
    assert service.total >= promised
    assert service.spool.last_sequence > 10
    service.die()
    assert json.dumps(service.journal.counts)
