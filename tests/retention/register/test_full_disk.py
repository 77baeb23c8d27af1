"""A disk that takes nothing: the register says so, loses nothing and goes on when there is room."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from retention.audit import disk
from retention.register import leaves
from retention.register.store import LogPending, Register, RegisterError
from tests.retention.audit.crash import Disk
from tests.retention.register.made import check_agrees, hold, item, log_leaves, opened, submitted

BEAT = leaves.heartbeat()
SMALL = 1_500_000
"""Bytes of the file system that fills up."""


def place(register: Register, number: int, items: int = 1) -> None:
    """Submit a hold, as often as it takes to hear that it is in the register."""
    one = hold(f"H-2026-{number:04d}", scope=tuple(item(n) for n in range(items)))
    register.write(holds=[one], leaves=submitted(one, register.generation))


def test_the_log_fails_at_each_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)
    pending = 0
    with opened(tmp_path) as register:
        for stop in range(100):
            machine = Disk(tmp_path / "audit", stop, "error")
            monkeypatch.setattr(disk, "os", machine)
            try:
                place(register, stop)
                assert register.is_settled
            except LogPending as error:
                pending += 1
                assert error.committed
                assert not register.is_settled
                assert "no space left" in str(error)
            monkeypatch.setattr(disk, "os", os)
            assert len(register.holds()) == register.generation == stop + 1
            register.write(leaves=[BEAT])
            assert [leaf["kind"] for leaf in log_leaves(register)[-2:]] == [
                "hold.submitted",
                "heartbeat",
            ]
            if machine.calls <= stop:
                break
        check_agrees(tmp_path, register)
    assert pending > 10
    assert stop < 99


def test_nothing_new_while_the_log_owes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as register:
        machine = Disk(tmp_path / "audit", 0, "error")
        monkeypatch.setattr(disk, "os", machine)
        with pytest.raises(LogPending) as raised:
            place(register, 1)
        assert raised.value.committed
        for _ in range(3):
            machine.stop = machine.calls
            with pytest.raises(LogPending) as raised:
                place(register, 2)
            assert not raised.value.committed
            assert [each.id for each in register.protecting()] == ["H-2026-0001"]
        machine.stop = machine.calls
        with pytest.raises(LogPending):
            register.next_id("H")
    monkeypatch.setattr(disk, "os", os)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retention.audit.log.AuditLog.extend", _full)
        with opened(tmp_path) as register:  # what is held can be asked for
            assert not register.is_settled
            assert len(register.protecting()) == 1
    with opened(tmp_path) as register:
        assert register.is_settled
        assert len(check_agrees(tmp_path, register)) == 1


def _full(*_: object) -> list[int]:
    raise OSError(28, "no space left")


def test_the_database_is_full(tmp_path: Path) -> None:
    with opened(tmp_path) as register:
        place(register, 1)
        assert register._database
        connection = register._database._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        for _ in range(2):
            with pytest.raises(RegisterError, match="full.*nothing was changed"):
                place(register, 2, 500)
        assert register.is_settled
        assert (len(register.holds()), register.generation) == (1, 1)
        connection.execute("PRAGMA max_page_count = 100000")
        place(register, 2, 500)
        check_agrees(tmp_path, register)


def test_an_error_that_leaves_open_what_was_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the sync of a commit fails: the next call reads the file to see."""
    for stored in (True, False):
        with opened(tmp_path) as register:
            number = len(register.holds()) + 1
            assert register._database
            real = register._database._connection

            class Failing:
                """A connection whose COMMIT fails after, or instead of, having its effect."""

                in_transaction = False

                def __getattr__(self, name: str) -> object:
                    return getattr(real, name)  # noqa: B023

                def execute(self, sql: str, *more: object) -> object:
                    if sql == "COMMIT":
                        real.execute("COMMIT" if stored else "ROLLBACK")  # noqa: B023
                        raise _io_error()
                    return real.execute(sql, *more)  # type: ignore[arg-type]  # noqa: B023

            monkeypatch.setattr(register._database, "_connection", Failing())
            with pytest.raises(RegisterError, match="stored or not"):
                place(register, number)
            assert len(register.holds()) == number - (not stored)
            assert register.is_settled
            check_agrees(tmp_path, register)
            place(register, number + 1)
            check_agrees(tmp_path, register)


def _io_error() -> sqlite3.Error:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    return error


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that is soon full: only the superuser can have one."""
    if os.geteuid():
        pytest.skip("mounting a small file system takes root")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL},mode=0700", "small", str(folder)]
    subprocess.run(mount, check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_file_system_that_fills_up_anywhere(small_disk: Path) -> None:
    """Ballast leaves a little less room each time, so that every step meets the end of it."""
    folder = small_disk / "register"
    known: set[str] = set()
    outcomes = set[str]()
    number = 0
    with opened(folder) as register:
        place(register, 0)
    for room in range(0, 200_000, 9_000):
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        (small_disk / "ballast").write_bytes(bytes(max(0, free - room)))
        try:
            with opened(folder) as register:
                for _ in range(3):
                    number += 1
                    one = hold(f"H-2026-{number:04d}", scope=tuple(item(n) for n in range(5)))
                    try:
                        register.write(holds=[one], leaves=submitted(one, register.generation))
                        known.add(one.id)
                        outcomes.add("written")
                    except LogPending as error:
                        outcomes.add(f"pending, committed {error.committed}")
                        if error.committed:
                            known.add(one.id)
                    except RegisterError:
                        outcomes.add("refused")
        except (RegisterError, OSError):
            outcomes.add("not opened")
        (small_disk / "ballast").unlink()
        with opened(folder) as register:
            found = {each.id for each in register.holds()}
            assert known <= found
            check_agrees(folder, register)
    assert {"written", "refused", "pending, committed True"} <= outcomes, outcomes


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """Writes past the limit fail, with another error than a full disk's; it takes no root."""
    with opened(tmp_path) as register:
        place(register, 0)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    known, outcomes = {"H-2026-0000"}, set[str]()
    try:
        for number, limit in enumerate(range(20_000, 140_000, 12_000), 1):
            one = hold(f"H-2026-{number:04d}", scope=tuple(item(n) for n in range(100)))
            with opened(tmp_path) as register:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
                try:
                    register.write(holds=[one], leaves=submitted(one, register.generation))
                    outcomes.add("written")
                    known.add(one.id)
                except RegisterError as error:
                    committed = isinstance(error, LogPending) and error.committed
                    outcomes.add("pending" if committed else "failed")
                    known |= {one.id} if committed else set()
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, old)
                assert known <= {each.id for each in register.holds()}
                register.write(leaves=[BEAT])
                check_agrees(tmp_path, register)
    finally:
        signal.signal(signal.SIGXFSZ, ignored)
    assert {"written", "failed"} <= outcomes
