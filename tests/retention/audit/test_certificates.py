"""Certificates beside the log: each is covered by a leaf, signed, and says what the leaves say."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retention.audit import canonical, sealed
from retention.audit.canonical import Leaf, encode
from retention.audit.checkpoint import NoteError, Signer
from retention.audit.log import AuditLog, LogError
from retention.audit.report import Report
from retention.audit.verify import verify
from tests.retention.audit.story import (
    ROOT,
    SIGNER,
    START,
    certificate,
    certify,
    document,
    fill,
    heartbeats,
    story,
)
from tests.retention.audit.teller import Teller, open_at

FINAL = "certificates/p1.final.json"
PENDING = "certificates/p1.pending.json"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    fill(tmp_path / "log", list(story().values()))
    return tmp_path / "log"


def found(report: Report) -> dict[str, str]:
    """Where to what, of the findings on certificates."""
    return {each.where: each.text for each in report.findings if each.rule == "certificate"}


def told(folder: Path, data: bytes) -> Report:
    """A log whose final certificate is this file, with the leaf that says so."""
    (folder / "certificates").mkdir(parents=True)
    (folder / FINAL).write_bytes(data)
    leaves = story()
    leaves["final"] |= {"digest": hashlib.sha256(data).hexdigest()}
    fill(folder, list(leaves.values()))
    return verify(folder)


def final() -> tuple[Leaf, Leaf]:
    """The leaf of the story's final certificate, and its intent."""
    return story()["final"], story()["intent"]


def test_what_is_sealed_is_read(log: Path) -> None:
    assert verify(log).good
    data = (log / FINAL).read_bytes()
    assert data.endswith(b"}\n") and data.count(b"\n") == 1
    read = sealed.parse(data)
    read.check()
    assert read.key == SIGNER.key
    assert read.certificate["destroyed"] == 95
    shown = json.loads(data)
    assert list(shown) == ["certificate", "key", "signature"]
    assert encode(shown["certificate"]) == encode(read.certificate)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'{"certificate":1,"key":"","signature":""}',
        b'{"certificate":{},"key":"x","signature":""}',
        b'{ "certificate":{},"key":"x","signature":""}',
    ],
)
def test_what_is_no_certificate(data: bytes) -> None:
    with pytest.raises(NoteError):
        sealed.parse(data)


def test_a_missing_one_and_one_that_no_leaf_tells_of(log: Path) -> None:
    data = (log / FINAL).read_bytes()
    (log / FINAL).unlink()
    assert found(verify(log)) == {FINAL: "missing, though a leaf tells of it"}
    (log / FINAL).write_bytes(data)
    (log / "certificates/p9.final.json").write_bytes(data)
    assert found(verify(log)) == {
        "certificates/p9.final.json": "a certificate that no leaf tells of"
    }


def test_swapped_ones(log: Path) -> None:
    one, other = (log / FINAL).read_bytes(), (log / PENDING).read_bytes()
    (log / FINAL).write_bytes(other)
    (log / PENDING).write_bytes(one)
    assert found(verify(log)).keys() == {FINAL, PENDING}


def test_a_signature_of_another_key_and_none(tmp_path: Path) -> None:
    stranger = Signer.generate(SIGNER.key.name)
    text = document(*final())
    by_other = told(tmp_path / "other", sealed.seal(text, stranger))
    assert found(by_other) == {FINAL: "signed by another key than the log's"}
    good = sealed.seal(text, SIGNER)
    changed = json.loads(good) | {"certificate": text | {"operator": "f" * 64}}
    forged = told(tmp_path / "forged", canonical.encode(changed) + b"\n")
    assert "wrong signature" in found(forged)[FINAL]
    assert "not a certificate" in found(told(tmp_path / "text", b"gone, all of it\n"))[FINAL]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("purge", "p2"),
        ("policy", "f" * 64),
        ("generation", 3),
        ("rows_before", 101),
        ("preserved", 4),
        ("destroyed", True),
        ("destroyed", None),
        ("class", "call"),
        ("partition", "20260102"),
        ("store", "vault"),
        ("start", START + 1),
        ("latest", START),
        ("retain_until", START),
        ("holds", []),
        ("state", "pending"),
        ("preserved_digest", "f" * 64),
        ("backups", [{"id": "b1"}]),
    ],
)
def test_a_field_that_contradicts_the_leaves(tmp_path: Path, field: str, value: Any) -> None:
    text = document(*final()) | {field: value}
    report = told(tmp_path, sealed.seal(text, SIGNER))
    assert found(report) == {FINAL: f"contradicts the log's leaves: {field}"}


def test_a_field_left_out(tmp_path: Path) -> None:
    text = document(*final())
    del text["destroyed"]
    assert "destroyed" in found(told(tmp_path, sealed.seal(text, SIGNER)))[FINAL]


def test_two_pending_certificates(tmp_path: Path) -> None:
    leaves = list(story().values())
    at = next(n for n, leaf in enumerate(leaves) if leaf["kind"] == "purge.certificate-pending")
    fill(tmp_path, [*leaves[: at + 1], leaves[at], *leaves[at + 1 :]])
    assert any("second pending" in each.text for each in verify(tmp_path).findings)


def test_the_log_keeps_a_certificate_before_its_leaf(tmp_path: Path) -> None:
    fill(tmp_path, heartbeats(1))
    with AuditLog(tmp_path, SIGNER, lambda: (START + 10**14) * 1000) as log:
        data = log.seal(certificate())
        digest = log.keep_certificate("p1", "purge.certificate-final", data)
        assert digest == hashlib.sha256((tmp_path / FINAL).read_bytes()).hexdigest()
        assert found(verify(tmp_path)) == {FINAL: "a certificate that no leaf tells of"}
        with pytest.raises(LogError, match="purge id"):
            log.keep_certificate("../p1", "purge.certificate-final", data)
    (tmp_path / "certificates/p2.final.json.new").write_bytes(b"a crash left this")
    with AuditLog(tmp_path, SIGNER, lambda: (START + 10**14) * 1000):
        assert not (tmp_path / "certificates/p2.final.json.new").exists()
    with pytest.raises(NoteError, match="more than"):
        sealed.seal({"text": "x" * sealed.MAX_CERTIFICATE}, SIGNER)


_WRITER = """
import sys, time
from pathlib import Path
from retention.audit.checkpoint import Signer
from retention.audit.log import AuditLog
from tests.retention.audit.story import START
from tests.retention.audit.teller import FIRST, Teller, open_at

teller = Teller({"visit": (1, 0)})
teller.seen("visit", FIRST)
teller.until(open_at(teller))
with AuditLog(Path(sys.argv[1]), Signer.parse(sys.argv[2]), lambda: START * 1000) as log:
    print("begun", flush=True)
    for each in teller.leaves:
        log.append(each)
    told = 0
    for number in range(40):
        if number % 4 == 0:
            sys.stdin.readline()  # the reader is about to look: write while it does
        teller.leaves.clear()
        day = f"202601{number % 20 + 1:02d}" if number else FIRST
        if number >= 20:
            teller.tell("heartbeat", generation=0, holds=0)
        else:
            if number:
                teller.seen("visit", day)
                teller.until(open_at(teller, "visit", day))
            teller.purge(f"p{number}", "visit", day, 10)
        for each in teller.leaves:
            if each["kind"] == "purge.certificate-final":
                text = {n: v for n, v in each.items() if n not in ("kind", "at", "backups")}
                data = log.seal(text | {"class": "visit", "partition": day})
                each["digest"] = log.keep_certificate(each["purge"], each["kind"], data)
                time.sleep(0.01)
            log.append(each)
"""


def test_each_look_meets_another_certificate_before_its_leaf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often that happens: only one that stays without its leaf is wrong."""
    folder = tmp_path / "log"

    def write() -> Iterator[None]:
        teller = Teller({"visit": (1, 0)})
        for number in range(12):
            teller.seen("visit", day := f"202601{number + 1:02d}")
            teller.until(open_at(teller, "visit", day))
            teller.purge(f"p{number}", "visit", day, 10)
        leaves = certify(tmp_path / "made", teller.leaves)
        with AuditLog(folder, SIGNER, lambda: START * 1000) as log:
            for each in leaves:
                name = sealed.path_of(each.get("purge", ""), each["kind"])
                if (tmp_path / "made" / name).exists():
                    data = (tmp_path / "made" / name).read_bytes()
                    log.keep_certificate(each["purge"], each["kind"], data)
                    signed = (folder / "checkpoint").stat().st_mtime_ns
                    os.utime(folder / name, ns=(signed, signed))  # one tick of the clock
                    yield
                log.append(each)
        while True:
            yield

    writer = write()
    monkeypatch.setattr("time.sleep", lambda seconds: next(writer))
    next(writer)
    report = verify(folder)
    assert report.good, report.findings


@pytest.mark.usefixtures("patient")
def test_it_verifies_while_purges_are_told(tmp_path: Path) -> None:
    """Leaves, tiles and certificates come and go while the folder is read: never a false word.

    The writer goes on a little for each look, so that looks and writes meet on any machine.
    """
    command = [sys.executable, "-c", _WRITER, str(tmp_path), SIGNER.secret()]
    sizes = list[int]()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdin and writer.stdout
        writer.stdout.readline()
        for _ in range(10):
            writer.stdin.write(b"on\n")
            writer.stdin.flush()
            report = verify(tmp_path)
            assert report.good, report.findings
            sizes.append(report.size)
    assert writer.returncode == 0
    report = verify(tmp_path)
    assert report.good, report.findings
    assert sizes == sorted(sizes)
    assert sizes[0] < report.size
    assert len(list((tmp_path / "certificates").iterdir())) == 20


def test_the_placeholder_of_the_story_is_replaced() -> None:
    assert {leaf["digest"] for leaf in story().values() if "certificate" in leaf["kind"]} == {ROOT}
