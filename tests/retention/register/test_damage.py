"""A register that cannot be trusted: it is refused, says what to do, and is left as it was."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from retention.audit.checkpoint import Signer
from retention.audit.log import AuditLog
from retention.model import Step
from retention.register import leaves
from retention.register.store import Register, RegisterError
from tests.retention.audit.story import SIGNER
from tests.retention.register.made import (
    Clock,
    check_agrees,
    hold,
    log_leaves,
    opened,
    purge,
    submitted,
)

BEAT = leaves.heartbeat()
NAME = "register.sqlite"


def fill(folder: Path, holds: int = 3) -> None:
    """Write through many transactions, close, so that all is in the main file."""
    with opened(folder) as register:
        for _ in range(holds):
            one = hold(register.next_id("H"))
            register.write(holds=[one], leaves=submitted(one, register.generation))
        register.write(purges=[purge(step=Step.FINAL)], notes={"a": "1", "b": "2"})


def killed(folder: Path, target: Path) -> None:
    """As `fill`, and copied while open: the last transactions are in the write-ahead log."""
    fill(folder)
    with opened(folder) as register:
        one = hold(register.next_id("H"))
        register.write(holds=[one], leaves=submitted(one, register.generation))
        shutil.copytree(folder, target)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "register"
    fill(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that has bytes, but SQLite's shared memory, which holds nothing of its own."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    return {p.name: p.read_bytes() for p in files if not p.name.endswith("-shm")}


def refused(folder: Path, text: str) -> None:
    """Opening raises, says what to do, and changes no byte."""
    with AuditLog(folder / "audit", SIGNER, Clock()) as log:
        before = contents(folder)
        with pytest.raises(RegisterError, match=text) as raised:
            Register(folder, log, Clock()).open()
        assert "restore" in str(raised.value)
        assert "subscriber" not in str(raised.value)
        assert contents(folder) == before


def answers(folder: Path) -> object:
    with opened(folder) as register:
        found = register.holds(), register.purges(), register.notes(), register.generation
        # What lookups by index say must be what all rows say.
        assert register.purges(step=Step.FINAL) == found[1]
        return (*found, register.secret)


def test_flipped_bits_are_found_or_change_nothing(base: Path, tmp_path: Path) -> None:
    data = (base / NAME).read_bytes()
    folder = tmp_path / "copy"
    shutil.copytree(base, folder)
    expected, found = answers(folder), 0
    used = [at for at in range(len(data)) if data[at]]
    for at in [*range(0, 100, 3), *used[50 :: len(used) // 150]]:
        spoilt = bytearray(data)
        spoilt[at] ^= 1 << at % 8
        for path in folder.glob(f"{NAME}*"):
            path.unlink()
        (folder / NAME).write_bytes(spoilt)
        with AuditLog(folder / "audit", SIGNER, Clock()) as log:
            register = Register(folder, log, Clock())
            try:
                register.open()
                register.close()
            except RegisterError as error:
                found += 1
                assert "nothing will be destroyed" in str(error) or "newer" in str(error)
                assert (folder / NAME).read_bytes() == spoilt
                continue
        assert answers(folder) == expected, f"byte {at}"
    assert found > 100  # the others are counters, and room that is not in use


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 5000, 12_288])
def test_a_truncated_file(base: Path, tmp_path: Path, size: int) -> None:
    shutil.copytree(base, tmp_path / "copy")
    path = tmp_path / "copy" / NAME
    path.write_bytes(path.read_bytes()[:size])
    refused(tmp_path / "copy", "damaged")


def test_a_file_of_zeros(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "copy")
    path = tmp_path / "copy" / NAME
    path.write_bytes(bytes(path.stat().st_size))
    refused(tmp_path / "copy", "damaged")


def test_a_write_ahead_log_that_is_missing_or_spoilt(tmp_path: Path) -> None:
    killed(tmp_path / "live", tmp_path / "killed")
    wal = f"{NAME}-wal"
    with opened(tmp_path / "live") as register:
        expected = register.holds()
    shutil.copytree(tmp_path / "killed", tmp_path / "good")
    with opened(tmp_path / "good") as register:
        assert register.holds() == expected
        check_agrees(tmp_path / "good", register)
    ways: dict[str, Callable[[Path], object]] = {
        "missing": Path.unlink,
        "empty": lambda path: path.write_bytes(b""),
        "cut": lambda path: path.write_bytes(path.read_bytes()[:-5000]),
        "flipped": lambda path: path.write_bytes(
            path.read_bytes()[:40] + b"\xff" + path.read_bytes()[41:]
        ),
    }
    for name, spoil in ways.items():
        shutil.copytree(tmp_path / "killed", tmp_path / name)
        spoil(tmp_path / name / wal)
        refused(tmp_path / name, "do not belong together")
    shutil.copytree(tmp_path / "killed", tmp_path / "alone")
    (tmp_path / "alone" / NAME).unlink()
    refused(tmp_path / "alone", "its file is missing")


def _sql(statement: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        with closing(sqlite3.connect(folder / NAME)) as connection, connection:
            connection.execute(statement)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (_sql("PRAGMA user_version = 2"), "newer"),
        (_sql("PRAGMA user_version = 0"), "schema number"),
        (_sql("PRAGMA application_id = 7"), "not a register"),
        (_sql("UPDATE holds SET state = 'Expired'"), "not as it was written"),
        (_sql("UPDATE notes SET body = replace(body, '2', '3')"), "not as it was written"),
        (_sql("UPDATE state SET generation = 1"), "not as it was written"),
        (_sql("DROP TABLE notes"), "no such table"),
        (lambda folder: (folder / "secret").unlink(), "secret"),
        (lambda folder: (folder / "secret").write_bytes(bytes(32)), "secret"),
        (lambda folder: (folder / NAME).unlink(), "not here"),
    ],
)
def test_what_only_the_rows_themselves_show(
    base: Path, tmp_path: Path, spoil: Callable[[Path], None], text: str
) -> None:
    shutil.copytree(base, tmp_path / "copy")
    spoil(tmp_path / "copy")
    refused(tmp_path / "copy", text)


@pytest.mark.parametrize(
    ("table", "key"), [("holds", "id"), ("purges", "id"), ("notes", "slot"), ("state", "one")]
)
def test_a_row_that_is_gone(base: Path, tmp_path: Path, table: str, key: str) -> None:
    shutil.copytree(base, tmp_path / "copy")
    first = f"(SELECT min({key}) FROM {table})"
    _sql(f"DELETE FROM {table} WHERE {key} = {first}")(tmp_path / "copy")
    refused(tmp_path / "copy", "missing")


def test_an_old_copy_of_register_or_log(tmp_path: Path) -> None:
    folder = tmp_path / "live"
    fill(folder)
    shutil.copytree(folder, tmp_path / "old")
    with opened(folder) as register:
        one = hold(register.next_id("H"))
        register.write(holds=[one], leaves=submitted(one, register.generation))
    shutil.copytree(folder, tmp_path / "old-register")
    for name in (NAME, "secret"):
        shutil.copy(tmp_path / "old" / name, tmp_path / "old-register" / name)
    refused(tmp_path / "old-register", "did not write")
    shutil.copytree(folder, tmp_path / "old-log")
    shutil.rmtree(tmp_path / "old-log" / "audit")
    shutil.copytree(tmp_path / "old" / "audit", tmp_path / "old-log" / "audit")
    # The last leaf is still queued in the register, so it can be given to the log again.
    with opened(tmp_path / "old-log") as register:
        check_agrees(tmp_path / "old-log", register)
        register.write(leaves=[BEAT])
        register.write(leaves=[BEAT])
    shutil.rmtree(tmp_path / "old-log" / "audit")
    shutil.copytree(tmp_path / "old" / "audit", tmp_path / "old-log" / "audit")
    refused(tmp_path / "old-log", "fewer leaves")


def test_the_log_of_another_service(base: Path, tmp_path: Path) -> None:
    for name, signer in (("forked", SIGNER), ("other", Signer.generate("other.example/log"))):
        folder = tmp_path / name
        shutil.copytree(base, folder)
        shutil.rmtree(folder / "audit")
        with AuditLog(folder / "audit", signer, Clock()) as log:
            for _ in range(3):
                log.append({"kind": "heartbeat", "generation": 0, "holds": 0})
            with pytest.raises(RegisterError, match="do not belong together"):
                Register(folder, log, Clock()).open()


def test_a_leaf_that_somebody_else_appended(tmp_path: Path) -> None:
    clock = Clock()
    with AuditLog(tmp_path / "audit", SIGNER, clock) as log:
        with Register(tmp_path, log, clock) as register:
            register.write(leaves=[BEAT])
            log.append({"kind": "heartbeat", "generation": 0, "holds": 0})
            with pytest.raises(RegisterError, match="do not belong together"):
                register.write(holds=[hold()], leaves=submitted(hold(), 0))
            assert not register.is_settled
            with pytest.raises(RegisterError, match="do not belong together"):
                register.write(notes={"a": "1"})
        with pytest.raises(RegisterError, match="do not belong together"):
            register.open()


def test_what_goes_bad_while_it_is_open_is_not_answered(tmp_path: Path) -> None:
    with opened(tmp_path) as register:
        register.write(holds=[hold()], leaves=submitted(hold(), 0))
        _sql("UPDATE holds SET expires_us = 1")(tmp_path)
        with pytest.raises(RegisterError, match="not as it was written"):
            register.protecting()
        assert len(log_leaves(register)) == 1
