"""`tallyhold audit` as a person meets it: output, exit codes, and errors in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from retention.audit import merkle
from retention.audit.checkpoint import Checkpoint, parse_proof
from retention.cli import audit
from tests.retention.audit.story import SIGNER, fill, heartbeats, story


def run(*args: object) -> Result:
    return CliRunner().invoke(audit, [str(arg) for arg in args])


@pytest.fixture
def log(tmp_path: Path) -> Path:
    fill(tmp_path / "log", list(story().values()))
    return tmp_path / "log"


def test_tail(log: Path) -> None:
    lines = run("tail", log, "-n", 2).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["20", "21"]
    assert "purge.certificate-final" in lines[0]
    leaves = [json.loads(line) for line in run("tail", log, "-n", 99, "--json").stdout.splitlines()]
    assert [leaf["index"] for leaf in leaves] == list(range(22))
    assert leaves[0]["kind"] == "genesis"


def test_prove_gives_a_proof_that_holds_alone(log: Path) -> None:
    index, path, note = parse_proof(run("prove", log, 7).stdout)
    note.signed_by(SIGNER.key)
    shown = json.loads(run("prove", log, 7, "--json").stdout)
    hashed = merkle.leaf_hash(shown["leaf"].encode())
    assert merkle.included(hashed, index, note.size, path, note.root)
    missing = run("prove", log, 22)
    assert missing.exit_code == 1
    assert "no leaf 22" in missing.stderr


def test_verify_says_good_and_then_what_is_wrong(log: Path) -> None:
    good = run("verify", log, "--log-key", SIGNER.key)
    assert good.exit_code == 0
    assert good.stdout.startswith("good: log.example/audit, 22 leaves")
    assert json.loads(run("verify", log, "--json").stdout)["good"] is True
    path = log / "tile/entries/000.p/22"
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    bad = run("verify", log)
    assert bad.exit_code == 1
    assert "WRONG" in bad.stdout
    found = json.loads(run("verify", log, "--json").stdout)
    assert not found["good"]
    assert found["findings"]
    assert run("tail", log).exit_code == 1


def test_witness_then_verify_with_what_it_gave(log: Path, tmp_path: Path) -> None:
    own = ("--state", tmp_path / "w", "--name", "w.example/1")
    key = run("witness", log, *own, "--show-key").stdout.strip()
    assert run("witness", log, *own).exit_code == 2
    done = run("witness", log, *own, "--log-key", SIGNER.key)
    assert done.exit_code == 0, done.stderr
    assert Checkpoint.parse(done.stdout.encode()).lines[1].name == "w.example/1"
    (tmp_path / "kept").write_text(done.stdout)
    assert run("verify", log, "--kept", tmp_path / "kept").exit_code == 0
    assert run("verify", log, "--witness-key", key).exit_code == 1  # the log has not got it
    fill(tmp_path / "short", heartbeats(3))
    refused = run("witness", tmp_path / "short", *own, "--log-key", SIGNER.key)
    assert refused.exit_code == 1
    assert "seen here" in refused.stderr
    assert run("verify", tmp_path / "short", "--kept", tmp_path / "kept").exit_code == 1


def test_wrong_arguments_and_folders(log: Path, tmp_path: Path) -> None:
    assert run("verify", tmp_path / "none").exit_code == 2
    assert run("verify", log, "--log-key", "x").exit_code == 2
    assert run("verify", log, "--witness-key", SIGNER.key).exit_code == 2
    (tmp_path / "empty").mkdir()
    assert run("verify", tmp_path / "empty").exit_code == 1
    for command in (("tail",), ("prove", 0)):
        failed = run(command[0], tmp_path / "empty", *command[1:])
        assert failed.exit_code == 1
        assert "No such file" in failed.stderr
