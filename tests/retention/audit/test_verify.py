"""Every flipped, lost, added and moved byte is found; forks and cuts, by whoever saw more."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from retention.audit import merkle
from retention.audit.checkpoint import Checkpoint, Signer, checkpoint_text
from retention.audit.log import AuditLog
from retention.audit.report import Report
from retention.audit.verify import verify
from retention.audit.witness import Witness, WitnessError
from tests.retention.audit.story import (
    DAY,
    SIGNER,
    START,
    WITNESS_SIGNER,
    clock,
    fill,
    heartbeats,
    story,
)
from tests.retention.audit.teller import FIRST, Teller, open_at

ROOT = Path(__file__).parents[3]
STANDALONE = (
    *("canonical", "merkle", "checkpoint", "leaf", "report", "frontier", "sealed", "snapshot"),
    *("replay", "replay_dates", "replay_holds", "replay_places", "replay_purges"),
    *("replay_safeguard", "verify"),
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


def witnessed(folder: Path, leaves: int = 3) -> Path:
    """A log that a witness it enrolled has signed."""
    fill(folder, heartbeats(leaves))
    return enrol(folder)


def complete(folder: Path) -> Path:
    """All that a log's folder can hold: leaves, tiles, certificates, a witness's line."""
    teller = Teller({"visit": (1, 0)})
    teller.seen("visit", FIRST)
    teller.at = open_at(teller)
    teller.tell(**clock())
    teller.purge("p1", "visit", FIRST, 10)
    final = teller.leaves[-1]
    pending = {name: value for name, value in final.items() if name != "backups"}
    pending |= {"kind": "purge.certificate-pending", "waiting": ["parts"]}
    fill(folder, [*teller.leaves[:-1], pending, final])
    return enrol(folder)


def enrol(folder: Path) -> Path:
    with AuditLog(folder, SIGNER, lambda: (START + 900 * DAY) * 1000) as log:
        log.append({"kind": "witness.enrolled", "key": str(WITNESS_SIGNER.key), "actor": "a" * 64})
        text = log.checkpoint().partition("\n\n")[0] + "\n"
        seconds = (START + 901 * DAY) // 10**6
        log.add_cosigned(log.checkpoint() + WITNESS_SIGNER.sign(text, seconds), WITNESS_SIGNER.key)
    return folder


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def rules(report: Report) -> set[str]:
    return {finding.rule for finding in report.findings}


def test_a_sound_log_is_good(tmp_path: Path) -> None:
    report = verify(witnessed(tmp_path), SIGNER.key, [WITNESS_SIGNER.key])
    assert report.good, report.findings
    assert report.key == str(SIGNER.key)
    assert report.size == 6
    assert report.lines()[0].startswith("good: log.example/audit, 6 leaves")


def test_every_byte_of_a_complete_folder(tmp_path: Path) -> None:
    complete(tmp_path)
    kinds = {path.relative_to(tmp_path).parts[0] for path in files(tmp_path)}
    assert kinds == {"checkpoint", "tile", "witnessed", "certificates"}
    count = 0
    for path in files(tmp_path):
        data = path.read_bytes()
        for at in range(len(data)):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << count % 8]) + data[at + 1 :])
            assert not verify(tmp_path).good, (path, at, count % 8)
            count += 1
        path.write_bytes(data)
    assert verify(tmp_path).good
    assert count == sum(path.stat().st_size for path in files(tmp_path)) > 4000


def test_every_file_cut_at_every_fifth_length(tmp_path: Path) -> None:
    complete(tmp_path)
    for path in files(tmp_path):
        data = path.read_bytes()
        for length in {*range(0, len(data), 5), len(data) - 1}:
            path.write_bytes(data[:length])
            assert not verify(tmp_path).good, (path, length)
        path.write_bytes(data)
    assert verify(tmp_path).good


def test_bytes_and_ends_of_a_large_log(tmp_path: Path) -> None:
    large = [leaf | {"at": START + n} for n, leaf in enumerate(heartbeats(1) * 50_000, 1)]
    teller = Teller({"visit": (1, 0)})
    teller.at = START + 60_000
    teller.seen("visit", FIRST)
    teller.at = open_at(teller)
    teller.tell(**clock())
    teller.purge("p1", "visit", FIRST, 10)
    fill(tmp_path, [*teller.leaves[:1], *large, *teller.leaves[1:]])
    enrol(tmp_path)
    report = verify(tmp_path)
    assert report.good, report.findings
    assert report.size > 50_000
    chance = random.Random(6962)
    levels = [files(tmp_path / name) for name in ("tile/entries", "tile/0", "tile/1")]
    groups = [*levels, files(tmp_path / "certificates"), [tmp_path / "checkpoint"]]
    for number, group in enumerate(groups):
        path = chance.choice(group)
        data = path.read_bytes()
        at, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        spoilt = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :] if number % 2 else data[:at]
        path.write_bytes(spoilt)
        assert not verify(tmp_path).good, (path, at, bit)
        path.write_bytes(data)
    assert verify(tmp_path).good


def test_files_cut_lost_added_and_emptied(tmp_path: Path) -> None:
    complete(tmp_path)
    partial = next((tmp_path / "tile/entries/000.p").iterdir()).name
    for path in files(tmp_path):
        data = path.read_bytes()
        for spoilt in (data[:-1], data + b"\0", b"", data + data):
            path.write_bytes(spoilt)
            assert not verify(tmp_path).good, path
        path.unlink()
        assert not verify(tmp_path).good, path
        path.write_bytes(data)
    for name in (
        *("x", "tile/x", "tile/0/001", "tile/0/000.p/200", "tile/2/000.p/1", "witnessed/1"),
        *("certificates/p1.json", "certificates/p1.final.json.new", "certificates/.p1.final.json"),
        *("certificates/deep/p1.final.json", "checkpoint.new", "witnessed/x"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
        assert "layout" in rules(verify(tmp_path)), name
        (tmp_path / name).unlink()
    shutil.rmtree(tmp_path / "certificates/deep")
    shutil.rmtree(tmp_path / "tile/2")
    assert partial in {path.name for path in files(tmp_path)}
    assert verify(tmp_path).good
    (tmp_path / "empty").mkdir()
    assert "layout" in rules(verify(tmp_path))
    (tmp_path / "empty").rmdir()
    (tmp_path / "tile/0/001.p").mkdir()  # what an append leaves that could not tidy up
    assert verify(tmp_path).good
    os.symlink("checkpoint", tmp_path / "link")
    assert "layout" in rules(verify(tmp_path))
    (tmp_path / "link").unlink()
    os.mkfifo(tmp_path / "pipe")
    assert "layout" in rules(verify(tmp_path))


def test_a_partial_that_a_crash_left_behind_counts_too(tmp_path: Path) -> None:
    witnessed(tmp_path)
    for level, size in (("entries", None), ("0", 64)):
        whole = tmp_path / f"tile/{level}/000.p/6"
        data = whole.read_bytes()
        cut = size or 4 + int.from_bytes(data[:2], "big")
        cut += 0 if size else int.from_bytes(data[cut - 2 : cut], "big")
        old = whole.with_name("2")
        old.write_bytes(data[:cut])
        assert verify(tmp_path).good
        old.write_bytes(data[: cut - 1] + b"\xff")
        assert "tile" in rules(verify(tmp_path))
        old.unlink()


def rewrite(folder: Path, change: Callable[[list[bytes]], None], sign: bool) -> None:
    """Change the entries of a log with one bundle, and if asked for its tiles and signature too."""
    path = next((folder / "tile/entries/000.p").iterdir())
    entries = merkle.unbundle(path.read_bytes())
    change(entries)
    if not sign:
        path.write_bytes(merkle.bundle(entries))
        return
    tree = merkle.Tree()
    for entry in entries:
        tree.append(merkle.leaf_hash(entry))
    for old in ("tile/entries/000.p", "tile/0/000.p"):
        shutil.rmtree(folder / old)
        (folder / old).mkdir()
    (folder / f"tile/entries/000.p/{len(entries)}").write_bytes(merkle.bundle(entries))
    (folder / f"tile/0/000.p/{len(entries)}").write_bytes(b"".join(tree.levels[0]))
    text = checkpoint_text(SIGNER.key.name, len(entries), tree.root())
    (folder / "checkpoint").write_text(f"{text}\n{SIGNER.sign(text)}")


def swap(entries: list[bytes]) -> None:
    entries[1], entries[2] = entries[2], entries[1]


def drop_one(entries: list[bytes]) -> None:
    del entries[2]


def drop_last(entries: list[bytes]) -> None:
    del entries[-1]


def other(entries: list[bytes]) -> None:
    entries[2] = entries[2].replace(b'"holds":0', b'"holds":1')


def spaced(entries: list[bytes]) -> None:
    entries[2] = entries[2].replace(b":", b": ", 1)


def unknown(entries: list[bytes]) -> None:
    entries[2] = entries[2].replace(b"heartbeat", b"heartburn")


@pytest.mark.parametrize("change", [swap, drop_one, drop_last, other, spaced, unknown])
def test_changed_leaves_without_the_key(
    tmp_path: Path, change: Callable[[list[bytes]], None]
) -> None:
    fill(tmp_path, heartbeats(4))
    rewrite(tmp_path, change, sign=False)
    assert not verify(tmp_path).good


@pytest.mark.parametrize(
    ("change", "rule"),
    [(swap, "clock"), (drop_last, None), (drop_one, None), (other, "holds")]
    + [(spaced, "leaf"), (unknown, "leaf")],
)
def test_changed_leaves_with_the_key_stolen(
    tmp_path: Path, change: Callable[[list[bytes]], None], rule: str | None
) -> None:
    """What the leaves' own sense does not show, whoever kept a checkpoint or signed one finds."""
    fill(tmp_path, heartbeats(4))
    kept = (tmp_path / "checkpoint").read_bytes()
    rewrite(tmp_path, change, sign=True)
    assert rules(verify(tmp_path)) == ({rule} if rule else set())
    assert not verify(tmp_path, kept=kept).good


def test_a_log_made_up_whole_needs_the_key_from_elsewhere(tmp_path: Path) -> None:
    forger = Signer.generate("log.example/audit")
    fill(tmp_path, heartbeats(4), forger)
    assert verify(tmp_path).good
    assert "own word" in "\n".join(verify(tmp_path).lines())
    assert not verify(tmp_path, SIGNER.key).good


def test_a_fork_contradicts_the_witnesss_line(tmp_path: Path) -> None:
    witnessed(tmp_path / "seen")
    fill(tmp_path / "fork", heartbeats(9) + [heartbeats(1)[0] | {"at": START + 40 * DAY}])
    shutil.copytree(tmp_path / "seen/witnessed", tmp_path / "fork/witnessed")
    report = verify(tmp_path / "fork", None, [WITNESS_SIGNER.key])
    assert "witness" in rules(report)
    assert "forked" in report.findings[0].text
    shutil.rmtree(tmp_path / "fork/witnessed")
    report = verify(tmp_path / "fork", None, [WITNESS_SIGNER.key])
    assert [finding.text for finding in report.findings] == ["nothing signed by w.example/1"]


def test_a_witnesss_clock_bounds_the_leaves(tmp_path: Path) -> None:
    fill(tmp_path, heartbeats(3))
    with AuditLog(tmp_path, SIGNER, lambda: (START + 400 * DAY) * 1000) as log:
        log.append({"kind": "witness.enrolled", "key": str(WITNESS_SIGNER.key), "actor": "a" * 64})
        text = log.checkpoint().partition("\n\n")[0] + "\n"
        line = WITNESS_SIGNER.sign(text, (START + 30 * DAY) // 10**6)
        log.add_cosigned(log.checkpoint() + line, WITNESS_SIGNER.key)
    assert rules(verify(tmp_path)) == {"clock"}


def test_a_rollback_is_shown_by_any_later_checkpoint(tmp_path: Path) -> None:
    """An older state of the folder is good by itself; whoever saw more, knows better."""
    enrol_later = tmp_path / "new"
    fill(tmp_path / "old", heartbeats(4))
    shutil.copytree(tmp_path / "old", enrol_later)
    enrol(enrol_later)
    kept = (enrol_later / "checkpoint").read_bytes()
    assert verify(tmp_path / "old").good
    assert rules(verify(tmp_path / "old", kept=kept)) == {"rollback"}
    shutil.copytree(enrol_later / "witnessed", tmp_path / "old/witnessed")
    report = verify(tmp_path / "old", None, [WITNESS_SIGNER.key])
    assert "cut or forked" in report.findings[0].text


def test_a_fork_is_not_signed_by_a_witness_and_not_good_by_its_line(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "w", "w.example/1", lambda: (START + 30 * DAY) // 10**6)
    fill(tmp_path / "log", heartbeats(5))
    note = witness.cosign(tmp_path / "log", SIGNER.key)
    fill(tmp_path / "fork", [*heartbeats(4), heartbeats(5)[4] | {"at": START + DAY}])
    with pytest.raises(WitnessError, match="fork"):
        witness.cosign(tmp_path / "fork", SIGNER.key)
    assert verify(tmp_path / "fork").good
    assert rules(verify(tmp_path / "fork", kept=note.encode())) == {"fork"}
    name = f"{Checkpoint.parse(note.encode()).size:016d}-{witness.signer().key.id.hex()}"
    (tmp_path / "fork/witnessed").mkdir()
    (tmp_path / "fork/witnessed" / name).write_text(note)
    assert "witness" in rules(verify(tmp_path / "fork", SIGNER.key, [witness.signer().key]))


def test_an_absurd_size_is_refused_at_once(tmp_path: Path) -> None:
    text = checkpoint_text(SIGNER.key.name, 10**15, bytes(32))
    (tmp_path / "checkpoint").write_text(f"{text}\n{SIGNER.sign(text)}")
    assert rules(verify(tmp_path)) == {"layout"}


def test_no_log_at_all(tmp_path: Path) -> None:
    assert rules(verify(tmp_path)) == {"checkpoint"}


def test_it_stands_alone(tmp_path: Path) -> None:
    """A copy of its own few files, in an isolated interpreter, judges a log."""
    package = tmp_path / "app/retention/audit"
    package.mkdir(parents=True)
    for name in STANDALONE:
        shutil.copy(ROOT / f"retention/audit/{name}.py", package)
    (tmp_path / "app/__main__.py").write_text(
        "import sys\nfrom retention.audit.verify import main\ncode = main()\n"
        "own = {n for n in sys.modules if n.split('.')[0] in ('collector', 'aggregator', 'numpy',"
        " 'typer', 'fcntl', 'sqlite3')}\nsys.exit(f'imported {own}' if own else code)\n"
    )
    fill(tmp_path / "log", list(story().values()))

    def alone(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-I", str(tmp_path / "app"), str(tmp_path / "log"), *more],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    good = alone("--log-key", str(SIGNER.key))
    assert (good.returncode, good.stderr) == (0, "")
    path = tmp_path / "log/tile/entries/000.p/22"
    data = bytearray(path.read_bytes())
    data[1000] ^= 4
    path.write_bytes(data)
    bad = alone("--json")
    assert bad.returncode == 1
    assert '"good": false' in bad.stdout


def test_a_checkpoint_of_before_can_be_kept_and_compared(tmp_path: Path) -> None:
    fill(tmp_path, heartbeats(5))
    kept = (tmp_path / "checkpoint").read_bytes()
    with AuditLog(tmp_path, SIGNER, lambda: (START + DAY) * 1000) as log:
        log.append({"kind": "heartbeat", "generation": 0, "holds": 0})
    assert verify(tmp_path, kept=kept).good
    assert rules(verify(tmp_path, kept=kept[:-9])) == {"kept"}
    assert Checkpoint.parse(kept).size == 6
