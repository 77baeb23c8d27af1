"""Proofs of a leaf and of a purge, as `tallyhold audit prove` gives them, hold without the log."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from retention.audit import proofs, sealed
from retention.audit.checkpoint import NoteError, Signer
from retention.audit.log import LogError, LogReader
from retention.cli import audit
from tests.retention.audit.story import SIGNER, fill, heartbeats, story


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The story, in a log of more than one bundle."""
    fill(tmp_path / "log", list(story().values())[:-1] + later(300))
    return tmp_path / "log"


def later(count: int) -> list[dict[str, object]]:
    end = story()["last"]
    return [end | {"at": end["at"] + n} for n, _ in enumerate(heartbeats(count))]


def reader(folder: Path) -> LogReader:
    log = LogReader(folder)
    log.load()
    return log


def run(*args: object) -> Result:
    return CliRunner().invoke(audit, [str(arg) for arg in args])


def test_a_purge_is_proved_without_its_log(folder: Path) -> None:
    shown = json.loads(run("prove", folder, "--purge", "p1", "--json").stdout)
    assert [each["kind"] for each in shown["leaves"]] == [
        "purge.dropped",
        "purge.certificate-pending",
        "purge.certificate-final",
    ]
    for each in shown["leaves"]:
        assert proofs.holds(each, SIGNER.key)
        assert not proofs.holds(each | {"leaf": each["leaf"].replace("p1", "p2")}, SIGNER.key)
        with pytest.raises(NoteError):
            proofs.holds(each, Signer.generate(SIGNER.key.name).key)
    final = shown["certificates"]["final"].encode()
    stated = json.loads(shown["leaves"][2]["leaf"])
    assert hashlib.sha256(final).hexdigest() == stated["digest"]
    sealed.parse(final).check()
    assert sealed.parse(final).certificate["destroyed"] == 95


def test_one_that_was_never_pending(folder: Path) -> None:
    proved = proofs.of_purge(reader(folder), "p2")
    assert [each["kind"] for each in proved["leaves"]][1:] == ["purge.certificate-final"]
    assert list(proved["certificates"]) == ["final"]


def test_as_text(folder: Path) -> None:
    text = run("prove", folder, "--purge", "p1").stdout
    assert text.count("c2sp.org/tlog-proof@v1\n") == 3
    assert text.count("# certificate, ") == 2


def test_what_cannot_be_proved(folder: Path) -> None:
    log = reader(folder)
    for name in ("p9", "p", 'p1","x":"'):
        with pytest.raises(LogError, match="no leaf says"):
            proofs.of_purge(log, name)
    path = folder / "certificates/p1.final.json"
    path.write_bytes(path.read_bytes().replace(b"95", b"94"))
    with pytest.raises(LogError, match="not the certificate"):
        proofs.of_purge(log, "p1")
    path.unlink()
    failing: list[tuple[str, ...]] = [("--purge", "p1"), ("--purge", "p9"), ("999",)]
    for args in failing:
        assert run("prove", folder, *args).exit_code == 1
    wrong: list[tuple[str, ...]] = [(), ("3", "--purge", "p1")]
    for args in wrong:
        assert run("prove", folder, *args).exit_code == 2
