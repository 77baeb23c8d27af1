"""The legal commands as a person meets them, against a service that answers what it is told.

What the real service answers is tested in `test_cli_story.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import tallyhold
from retention import asking
from retention.audit.log import AuditLog
from tests.retention.audit.story import SIGNER
from tests.retention.fake import Fake

HOLD: dict[str, Any] = {
    "id": "H-2026-0001",
    "matter": "Larch [red]",
    "basis": "court-order",
    "authority": "Leeds Crown Court",
    "reference": "T1",
    "order_sha256": "",
    "served": "2026-11-20T00:00:00Z",
    "requested": {"person": "ann", "role": "legal-requester", "at": "2026-11-22T10:00:00Z"},
    "approved": None,
    "state": "AwaitingApproval",
    "scope": [
        {
            "kind": "address",
            "value": "192.0.2.7/32",
            "from": "2026-03-01T10:00:00Z",
            "to": "2026-04-01T00:00:00Z",
            "classes": ["mapping"],
            "ports": [4000, 4999],
            "resolved": False,
        }
    ],
    "expires": "2027-07-01T00:00:00Z",
    "review_by": None,
    "release": None,
    "extension": None,
    "unavailable": [],
    "next": "Protects already. Waits for the approval of another person.",
}
FACTS = (
    "--matter=Larch",
    "--basis=court-order",
    "--authority=Leeds Crown Court",
    "--reference=T1",
    "--served=2026-11-20",
    "--expires=2027-06-30",
)
YEAR = ("--from=2026-01-01", "--to=2026-12-31")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    service = Fake(tmp_path / "s")
    monkeypatch.setenv("TALLYHOLD_RETENTION", str(service.socket))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    service.answers["GET /v1/holds/H-2026-0001"] = (200, HOLD)
    service.answers["POST /v1/holds"] = (200, HOLD)
    with service.running():
        yield service


def run(*words: object, typed: str = "") -> Result:
    return CliRunner().invoke(
        tallyhold.app, [str(word) for word in words], input=typed, env={"COLUMNS": "120"}
    )


def place(*words: object, typed: str = "") -> Result:
    return run("hold", "place", *FACTS, *words, typed=typed)


# Placing.


def test_place_sends_what_the_summary_says_and_only_the_orders_hash(
    fake: Fake, tmp_path: Path
) -> None:
    order = tmp_path / "order.pdf"
    order.write_bytes(b"the order")
    done = place("--subscriber=sub-1", "--subscriber=sub-2", *YEAR, "--order", order, "--yes")
    assert done.exit_code == 0, done.stderr
    line, body = fake.asked[-1]
    assert line == "POST /v1/holds"
    assert body["order_sha256"] == hashlib.sha256(b"the order").hexdigest()
    assert "order.pdf" not in json.dumps(body)
    assert [item["value"] for item in body["scope"]] == ["sub-1", "sub-2"]
    assert body["scope"][0]["from"] == "2026-01-01T00:00:00Z"
    assert body["scope"][0]["to"] == "2027-01-01T00:00:00Z"
    assert body["expires"] == "2027-07-01T00:00:00Z"
    assert body["mode"] == "resolved"
    assert body["all_sharers"] is False
    assert "through 2026-12-31 (whole day, UTC)" in done.stderr
    assert "through 2027-06-30 (whole day, UTC)" in done.stderr
    assert "next: Protects already." in done.stdout
    assert "Larch [red]" in done.stdout  # not taken for markup


def test_place_with_every_kind_and_a_file_beside_options(fake: Fake, tmp_path: Path) -> None:
    file = tmp_path / "who.csv"
    file.write_text("kind,value\nsession,00A7\n")
    options = (
        "--account=c1", "--line=eth 1/2", "--address=192.0.2.7", "--ports=4000-4999",
        "--number=+442079460018", "--user=joe@isp.example", "--class=mapping", "--class=session",
        "--class=call",
    )  # fmt: skip
    done = place("-f", file, *options, *YEAR, "--literal", "--all-sharers", "--yes", "--json")
    assert done.exit_code == 2  # a number leads to calls only
    assert "--number: a number leads to no" in done.stderr
    done = place("-f", file, *options[:4], *YEAR, "--literal", "--all-sharers", "--yes", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["id"] == "H-2026-0001"
    body = fake.asked[-1][1]
    assert [item["kind"] for item in body["scope"]] == ["account", "line", "address", "session"]
    assert body["scope"][2]["ports"] == [4000, 4999]
    assert body["mode"] == "literal"
    assert body["all_sharers"] is True


def test_a_scope_file_from_stdin_and_its_bad_lines(fake: Fake) -> None:
    rows = "kind,value,from,to\nsubscriber,sub-1,2026-01-01,2026-01-31\n"
    assert place("-f", "-", "--yes", typed=rows).exit_code == 0
    sent = len(fake.asked)
    done = place(
        "-f", "-", "--yes", typed=f"{rows}pet,SECRET,2026-01-01,2026-01-31\nmac,SECRET,,\n"
    )
    assert done.exit_code == 2
    assert "2 problem(s)" in done.stderr
    assert "line 3:" in done.stderr
    assert "line 4:" in done.stderr
    assert "SECRET" not in done.stderr
    assert len(fake.asked) == sent


def test_what_is_missing_is_named_at_once_where_nobody_can_be_asked(fake: Fake) -> None:
    done = run("hold", "place", "--matter=x")
    assert done.exit_code == 2
    for option in ("--basis", "--authority", "--reference", "--served", "--expires or --review-by"):
        assert option in done.stderr
    done = place()
    assert done.exit_code == 2
    assert "--scope-file" in done.stderr
    for wrong in (
        ("--basis=whim", "--subscriber=x", *YEAR),
        ("--served=yesterday", "--subscriber=x", *YEAR),
        ("--order=/nonexistent", "--subscriber=x", *YEAR),
        ("-f", "/nonexistent"),
        ("--subscriber=x",),
        ("--subscriber=x", *YEAR, "--class=letters"),
        ("--address=192.0.2.7:99999", *YEAR),
    ):
        assert place(*wrong, "--yes").exit_code == 2, wrong
    assert not fake.asked


def test_nothing_is_sent_without_a_confirmation(fake: Fake) -> None:
    done = place("--subscriber=sub-1", *YEAR, typed="y\n")
    assert done.exit_code == 2
    assert "--yes" in done.stderr
    for words in (
        ("approve", "H-2026-0001"),
        ("reject", "H-2026-0001", "--reason=too-wide"),
        ("extend", "H-2026-0001", "--expires=2028-01-01"),
        ("cancel-extension", "H-2026-0001"),
        ("review", "H-2026-0001", "--review-by=2028-01-01"),
        ("release", "H-2026-0001", "--reason=over"),
        ("cancel-release", "H-2026-0001"),
    ):
        assert run("hold", *words).exit_code == 2
    assert not [line for line, _ in fake.asked if line.startswith("POST")]


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *words: str, socket: Path) -> None:
        self._main, end = pty.openpty()
        env = {**os.environ, "TALLYHOLD_RETENTION": str(socket), "COLUMNS": "120", "TERM": "dumb"}
        command = [sys.executable, "-m", "tallyhold", *words]
        self.process = subprocess.Popen(
            command, stdin=end, stdout=end, stderr=end, env=env, start_new_session=True
        )
        os.close(end)
        self.shown = ""

    def wait_for(self, text: str) -> None:
        until = time.monotonic() + 30
        while text not in self.shown:
            assert time.monotonic() < until, self.shown
            if select.select([self._main], [], [], 0.5)[0]:
                try:
                    self.shown += os.read(self._main, 65536).decode()
                except OSError:  # the other end is closed
                    break
        assert text in self.shown, self.shown

    def type(self, text: str) -> None:
        os.write(self._main, text.encode() + b"\n")
        self.shown = ""

    def close(self) -> int:
        code = self.process.wait(30)
        os.close(self._main)
        return code


def test_on_a_terminal_all_is_asked_for(fake: Fake) -> None:
    terminal = Terminal("hold", "place", socket=fake.socket)
    for question, answer in (
        ("Matter", "Larch"),
        ("Basis", "court-order"),
        ("Authority", ""),
        ("Authority", "Leeds Crown Court"),
        ("Reference", "T1"),
        ("Served", "2026-11-20"),
        ("Expires", ""),
        ("Review by", "2027-01-31"),
        ("Kind", "mac"),
        ("Identifier", "00:11:22:33:44:55"),
        ("From", "2026-01-01"),
        ("To", "2026-01-31"),
        ("MAC", ""),
        ("Kind", "subscriber"),
        ("Identifier", "sub-1"),
        ("From", "2026-01-01"),
        ("To", "2026-01-31"),
        ("Another", "n"),
        ("Place this hold? [y/N]", "y"),
    ):
        terminal.wait_for(question)
        if question != "MAC":
            terminal.type(answer)
    terminal.wait_for("next:")
    assert terminal.close() == 0
    body = fake.asked[-1][1]
    assert body["review_by"] == "2027-02-01T00:00:00Z"
    assert body["expires"] is None
    assert [item["value"] for item in body["scope"]] == ["sub-1"]


def test_no_on_a_terminal_sends_nothing(fake: Fake) -> None:
    terminal = Terminal("hold", "approve", "H-2026-0001", socket=fake.socket)
    terminal.wait_for("Approve H-2026-0001? [y/N]")
    terminal.type("")
    terminal.wait_for("nothing was sent")
    assert terminal.close() == 1
    assert [line for line, _ in fake.asked] == ["GET /v1/holds/H-2026-0001"]


# The other commands of holds.


def test_approve_says_what_it_approves(fake: Fake) -> None:
    fake.answers["POST /v1/holds/H-2026-0001/approve"] = (200, HOLD | {"state": "Preserved"})
    done = run("hold", "approve", "H-2026-0001", "--yes")
    assert done.exit_code == 0
    assert "192.0.2.7/32 ports 4000-4999" in done.stderr  # seen before it was approved
    assert "Preserved" in done.stdout
    asked = {"person": "ann", "role": "legal-requester", "at": "2026-11-23T10:00:00Z"}
    for changed, words in (
        ({"release": {"requested": asked, "approvals": [], "reason": "over"}}, "the release of H"),
        ({"extension": {"requested": asked, "expires": None}}, "the extension of H"),
    ):
        fake.answers["GET /v1/holds/H-2026-0001"] = (200, HOLD | changed | {"state": "Preserved"})
        terminal = Terminal("hold", "approve", "H-2026-0001", socket=fake.socket)
        terminal.wait_for(f"Approve {words}")
        terminal.type("y")
        terminal.wait_for("next:")
        assert terminal.close() == 0


def test_the_bodies_that_are_sent(fake: Fake) -> None:
    for action, words, body in (
        ("reject", ("--reason=too-wide",), {"reason": "too-wide"}),
        ("extend", ("--expires=2028-01-01",), {"expires": "2028-01-02T00:00:00Z"}),
        ("extend", ("--expires=never",), {"expires": None}),
        ("release", ("--reason=case closed",), {"reason": "case closed"}),
        ("cancel-extension", (), {}),
        ("review", ("--review-by=2028-01-01",), {"review_by": "2028-01-02T00:00:00Z"}),
        ("cancel-release", (), {}),
    ):
        fake.answers[f"POST /v1/holds/H-2026-0001/{action}"] = (200, HOLD)
        done = run("hold", action, "H-2026-0001", *words, "--yes", "--json")
        assert done.exit_code == 0, done.stderr
        assert fake.asked[-1] == (f"POST /v1/holds/H-2026-0001/{action}", body)
        assert json.loads(done.stdout) == HOLD
    assert run("hold", "reject", "H-2026-0001", "--yes").exit_code == 2
    assert run("hold", "reject", "H-2026-0001", "--reason=because", "--yes").exit_code == 2
    assert run("hold", "extend", "H-2026-0001", "--expires=soon", "--yes").exit_code == 2


def test_list_and_show(fake: Fake) -> None:
    fake.answers["GET /v1/holds"] = (200, {"holds": [HOLD]})
    done = run("hold", "list", "--state", "AwaitingApproval")
    assert fake.asked[-1][0] == "GET /v1/holds?state=AwaitingApproval"
    for word in ("H-2026-0001", "AwaitingApproval", "Larch [red]", "UTC"):
        assert word in done.stdout
    assert json.loads(run("hold", "list", "--json").stdout)["holds"] == [HOLD]
    assert run("hold", "list", "--state", "Suspended").exit_code == 2
    done = run("hold", "show", "H-2026-0001")
    assert "2026-11-20 00:00:00 UTC" in done.stdout
    assert "through 2026-03-31 (whole day, UTC)" in done.stdout
    steering = HOLD | {"matter": "a\x1b[2Jb"}
    fake.answers["GET /v1/holds/H-2026-0001"] = (200, steering)
    assert "\x1b" not in run("hold", "show", "H-2026-0001").stdout
    assert run("hold", "show", "../../x").exit_code == 1
    assert fake.asked[-1][0] == "GET /v1/holds/..%2F..%2Fx"


# What goes wrong.


@pytest.mark.parametrize(
    ("status", "code", "exit_code", "words"),
    [
        (400, "bad-request", 2, ""),
        (403, "same-person", 3, ""),
        (403, "not-allowed", 3, ""),
        (404, "not-found", 1, ""),
        (409, "wrong-state", 3, ""),
        (503, "busy", 1, "nothing was changed, try again in 10 s"),
        (503, "log", 1, ""),
        (500, "internal", 1, ""),
    ],
)
def test_exit_codes(fake: Fake, status: int, code: str, exit_code: int, words: str) -> None:
    fake.answers["POST /v1/holds/H-2026-0001/approve"] = (status, {"error": code, "message": "why"})
    done = run("hold", "approve", "H-2026-0001", "--yes")
    assert done.exit_code == exit_code
    assert "tallyhold: why" in done.stderr
    assert words in done.stderr
    assert ("try again" in done.stderr) == bool(words)
    assert not done.stdout


def test_a_service_that_cannot_be_reached(tmp_path: Path) -> None:
    done = run("hold", "--service", tmp_path / "none", "list")
    assert done.exit_code == 4
    assert str(tmp_path / "none") in done.stderr
    assert "tallyhold retention serve" in done.stderr
    assert run("hold", "--service", "ftp://x", "list").exit_code == 2
    assert run("hold", "--service", "https://x.invalid", "list").exit_code == 2  # no certificate


def test_a_socket_that_may_not_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("retention.client.Client._open", closed)
    done = run("hold", "--service", "/run/x.sock", "list")
    assert done.exit_code == 4
    assert "group" in done.stderr
    assert "/run/x.sock" in done.stderr


def test_a_hold_whose_answer_was_lost_is_sent_again_with_the_same_id(fake: Fake) -> None:
    def lost(body: Any) -> tuple[int, Any]:
        fake.answers["POST /v1/holds"] = (200, HOLD)
        raise ConnectionResetError

    fake.answers["POST /v1/holds"] = lost
    done = place("--subscriber=sub-1", *YEAR, "--yes", "--json")
    assert done.exit_code == 0, done.stderr
    first, second = fake.asked[-2:]
    assert first == second
    assert len(first[1]["request_id"]) == 32


# Destruction.

DECISION = {
    "class": "visit",
    "partition": "20251101",
    "store": "live",
    "action": "drop",
    "reason": "its period ended; no hold meets it",
    "rows": 1200,
    "retain_until": "2026-11-01T00:00:00Z",
    "opens": "2026-11-02T00:00:00Z",
    "due": "2026-12-02T00:00:00Z",
    "holds": [],
}
KEPT = DECISION | {"partition": "20251130", "action": "keep", "reason": "its period ends later"}
PLAN = {"at": "2026-11-22T00:00:00Z", "trusted": True, "decisions": [DECISION, DECISION, KEPT]}
OUTCOME = {
    "class": "visit", "partition": "20251101", "store": "live", "state": "destroyed",
    "reason": "", "purge": "P-2026-000001",
}  # fmt: skip


def test_plan(fake: Fake) -> None:
    fake.answers["GET /v1/purge/plan"] = (200, PLAN)
    done = run("purge", "plan")
    assert "2 partitions to be destroyed, 1 to be kept" in done.stdout
    assert "1,200" in done.stdout
    assert "20251130" not in done.stdout
    assert "20251130" in run("purge", "plan", "--all").stdout
    assert json.loads(run("purge", "plan", "--json").stdout) == PLAN


def test_a_run_is_dry_and_needs_the_number(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.answers["GET /v1/purge/plan"] = (200, PLAN)
    done = run("purge", "run", "--cap", 5)
    assert fake.asked[-1][0] == "GET /v1/purge/plan?cap=5"
    assert "dry run" in done.stderr
    assert run("purge", "run", "--execute").exit_code == 2
    assert run("purge", "run", "--execute", "--confirm", 3).exit_code == 1
    assert not [line for line, _ in fake.asked if line.startswith("POST")]
    monkeypatch.setattr(asking, "interactive", lambda: True)
    assert run("purge", "run", "--execute", typed="yes\n").exit_code == 1
    assert not [line for line, _ in fake.asked if line.startswith("POST")]
    first: dict[str, Any] = {"state": "waiting", "done": 0, "outcomes": []}
    last = {"state": "done", "done": 1, "outcomes": [OUTCOME]}
    jobs = iter((first, first | {"state": "running"}, last))
    fake.answers["POST /v1/purge/run"] = (200, {"job": "r1"})
    fake.answers["GET /v1/purge/run/r1"] = lambda _: (200, next(jobs))
    monkeypatch.setattr("retention.destruction.cli.POLL_S", 0.01)
    done = run("purge", "run", "--execute", typed="2\n")
    assert done.exit_code == 0, done.stderr
    assert ("POST /v1/purge/run", {"cap": 2, "dry_run": False}) in fake.asked
    assert "P-2026-000001" in done.stdout
    assert "1 of 1 partitions destroyed" in done.stdout
    lost = OUTCOME | {"state": "failed", "reason": "disk"}
    failed = {"state": "failed", "done": 1, "outcomes": [lost], "stopped": "the disk"}
    fake.answers["GET /v1/purge/run/r1"] = (200, failed)
    done = run("purge", "run", "--execute", "--confirm", 2, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == failed
    nothing = PLAN | {"decisions": [KEPT]}
    fake.answers["GET /v1/purge/plan"] = (200, nothing)
    assert "0 partitions" in run("purge", "run", "--execute").stdout


def test_ctrl_c_leaves_the_job_running_and_says_so(fake: Fake) -> None:
    fake.answers["GET /v1/purge/plan"] = (200, PLAN)
    fake.answers["POST /v1/purge/run"] = (200, {"job": "r1"})
    fake.answers["GET /v1/purge/run/r1"] = (200, {"state": "running", "outcomes": []})
    terminal = Terminal("purge", "run", "--execute", "--confirm=2", socket=fake.socket)
    until = time.monotonic() + 30
    while ("GET /v1/purge/run/r1", None) not in fake.asked:
        assert time.monotonic() < until
        time.sleep(0.02)
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for("r1 goes on in the service")
    assert terminal.close() == 130


def test_status(fake: Fake) -> None:
    purges = [
        {"id": "P-1", "class": "visit", "partition": "20251101", "step": "pending",
         "destroyed": 1200, "preserved": 3, "waiting": ["inactive-parts"], "reason": ""},
        {"id": "P-2", "class": "call", "partition": "20251101", "step": "failed",
         "destroyed": 0, "preserved": 0, "waiting": [], "reason": "fingerprint"},
    ]  # fmt: skip
    fake.answers["GET /v1/purge/status"] = (200, {"purges": purges, "more": 0})
    done = run("purge", "status")
    for word in ("P-1", "pending", "inactive-parts", "P-2", "fingerprint", "1,200"):
        assert word in done.stdout
    assert json.loads(run("purge", "status", "--json").stdout)["purges"] == purges


def certified(folder: Path) -> dict[str, Any]:
    """A log with one purge in it, and its certificate as the service gives it."""
    counts = {"rows_before": 10, "preserved": 3, "destroyed": 7}
    at = 1_795_000_000_000_000
    span = {"class": "visit", "partition": "20251101", "start": at, "end": at, "earliest": at,
            "latest": at}  # fmt: skip
    stated = {"purge": "P-1", "policy": "a" * 64, "generation": 4, **counts}
    with AuditLog(folder, SIGNER, lambda: at * 1000) as log:
        data = log.seal({**stated, "class": "visit", "partition": "20251101"})
        intent = {"kind": "purge.intent", "purge": "P-1", "store": "live", "retain_until": at,
                  "generation": 4, "policy": "a" * 64, "holds": 1, **span}  # fmt: skip
        leaf = {"kind": "purge.certificate-final", **stated, "holds": [], "backups": 0,
                "digest": hashlib.sha256(data).hexdigest()}  # fmt: skip
        log.append(intent)
        log.append(leaf)
    (folder.parent / "c.json").write_bytes(data)
    answer: dict[str, Any] = json.loads(data)
    return answer


def test_certificate(fake: Fake, tmp_path: Path) -> None:
    answer = certified(tmp_path / "log")
    fake.answers["GET /v1/purge/P-1/certificate"] = (200, answer)
    done = run("purge", "certificate", "P-1")
    assert "destroyed: 7" in done.stdout
    assert json.loads(run("purge", "certificate", "P-1", "--json").stdout) == answer
    out, log = tmp_path / "out.json", tmp_path / "log"
    done = run("purge", "certificate", "P-1", "-o", out, "--verify", log)
    assert done.exit_code == 0, done.stderr
    assert "stated by leaf 2" in done.stderr
    assert out.read_bytes() == (tmp_path / "c.json").read_bytes()
    answer["certificate"]["destroyed"] = 6
    fake.answers["GET /v1/purge/P-1/certificate"] = (200, answer)
    done = run("purge", "certificate", "P-1", "--verify", log)
    assert done.exit_code == 1
    assert "signature" in done.stderr
    assert "no leaf" in done.stderr
    fake.answers["GET /v1/purge/P-1/certificate"] = (200, {"x": 1})
    assert "not a certificate" in run("purge", "certificate", "P-1").stderr
    (tmp_path / "empty").mkdir()
    fake.answers["GET /v1/purge/P-1/certificate"] = (200, json.loads(out.read_text()))
    assert run("purge", "certificate", "P-1", "--verify", tmp_path / "empty").exit_code == 1
    assert run("purge", "certificate", "P-1", "-o", tmp_path / "no" / "x").exit_code == 1


# The service.


def test_clock_and_status_and_witness(fake: Fake, tmp_path: Path) -> None:
    fake.answers["GET /v1/health"] = (200, {"version": "1", "you": "ann", "roles": ["dpo"]})
    assert re.search(r"you: ann\nroles:\n  dpo", run("retention", "status").stdout)
    clock = {"now": "2026-11-22T10:00:00Z", "trusted": False, "reason": "ahead"}
    fake.answers["GET /v1/clock"] = (200, clock)
    fake.answers["POST /v1/clock/confirm"] = (200, clock | {"trusted": True})
    assert run("retention", "confirm-clock").exit_code == 2
    done = run("retention", "confirm-clock", "--yes", "--json")
    assert json.loads(done.stdout)["trusted"] is True
    assert "ahead" in done.stderr
    fake.answers["GET /v1/audit/checkpoint"] = (200, {"size": 3, "checkpoint": "a\n3\nb\n\nc\n"})
    assert "a\n3\nb\n" in run("retention", "witness").stdout
    note = tmp_path / "note"
    note.write_text("signed")
    fake.answers["POST /v1/audit/witness"] = (200, {"index": 7})
    assert "index: 7" in run("retention", "witness", "--enrol=k", "--note", note).stdout
    assert fake.asked[-1][1] == {"key": "k", "note": "signed"}


def test_check_config(tmp_path: Path) -> None:
    file = tmp_path / "retention.toml"
    file.write_text(f'folder = "{tmp_path}"\n[access.groups]\nlegal = ["legal-requester"]\n')
    done = run("retention", "check-config", "--config", file)
    assert done.exit_code == 0, done.stderr
    assert "no problem found" in done.stdout
    assert "nobody could approve a hold" in done.stderr
    dumped = json.loads(run("retention", "check-config", "--config", file, "--dump").stdout)
    assert dumped["folder"] == str(tmp_path)
    file.write_text("folder = 7\ncolour = 1\n")
    done = run("retention", "check-config", "--config", file)
    assert done.exit_code == 2
    assert "2 problem(s)" in done.stderr
    assert run("retention", "serve", "--config", file).exit_code == 2


def test_reconcile(fake: Fake) -> None:
    swept = {"partitions": 2, "preserved": 1, "destroyed": 7, "kept": []}
    fake.answers["POST /v1/purge/reconcile"] = (200, swept)
    assert json.loads(run("retention", "reconcile", "--json").stdout) == swept
    assert "7" in run("retention", "reconcile").stdout
    refused = {"error": "not-ready", "message": "nothing was swept: the storage engine is down"}
    fake.answers["POST /v1/purge/reconcile"] = (409, refused)
    done = run("retention", "reconcile")
    assert done.exit_code == asking.REFUSED
    assert "engine is down" in done.stderr
