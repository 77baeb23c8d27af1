"""A hold and a purge from beginning to end, as people do them: real commands, service and engine.

People come in over HTTPS with certificates of their own, so that one test user can be all of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import tallyhold
from aggregator.store.bundled import Engine
from aggregator.store.client import Client
from retention.audit.verify import verify
from retention.model import DAY_US
from tests.aggregator.conftest import bundled_engine
from tests.aggregator.support import Store
from tests.ports import free_port
from tests.retention import rig
from tests.retention.vault.world import World, row

__all__ = ["bundled_engine"]

pytestmark = pytest.mark.engine

PEOPLE = {
    "ann": "legal-requester",
    "bob": "legal-approver",
    "cleo": "legal-approver",
    "dora": "dpo",
    "olga": "operations",
    "adam": "auditor",
}
BOOTED = 1_000_000_000


class Clock:
    """Time from the 1st of February 2027 on, which runs as it does and can be let pass."""

    def __init__(self) -> None:
        self._began, self._skipped = time.monotonic_ns(), 0

    def passed(self) -> int:
        """Nanoseconds lived through."""
        return BOOTED + time.monotonic_ns() - self._began + self._skipped

    def now(self) -> int:
        """Nanoseconds since 1970."""
        return 1_801_440_000_000_000_000 + self.passed()

    def skip(self, us: int) -> None:
        """Let time pass, the service living through it."""
        self._skipped += us * 1000


class People:
    """A running service and the commands of those who have certificates for it."""

    def __init__(self, folder: Path, engine: Engine, roles: Mapping[str, str] = PEOPLE) -> None:
        self.clock, self.folder = Clock(), folder
        store = Store("bundled", Client(engine.endpoint()), Client(engine.endpoint("keeper")))
        self.store, self.world = store, World(store, engine.config.data / "store")
        self.world.clear()
        authority = rig.Authority(folder / "pki")
        self._where = {name: authority.staff(name, role) for name, role in roles.items()}
        port = free_port()
        self._url = f"https://localhost:{port}"
        more = {
            "engine": {"data": str(engine.config.data)},
            "api": {"socket": str(folder / "door.sock"), "listen": f"127.0.0.1:{port}",
                    "tls": authority.tls()},
            "schedule": {"tick_s": 0.2, "purge_every_s": 2_000_000},
        }  # fmt: skip
        settings = rig.config(folder, more)
        self.running = rig.Running(
            settings, now=self.clock.now, passed=self.clock.passed, synchronised=lambda: None
        )
        self.running.start()

    def stop(self) -> None:
        self.running.stop()
        self.store.close()

    def run(self, person: str, *words: object, typed: str = "") -> Result:
        where = self._where[person]
        env = {
            "TALLYHOLD_RETENTION": self._url,
            "TALLYHOLD_CERT": str(where.cert),
            "TALLYHOLD_KEY": str(where.key),
            "TALLYHOLD_CA": str(where.ca),
            "XDG_CONFIG_HOME": str(self.folder / "none"),
            "COLUMNS": "250",
        }
        return CliRunner().invoke(
            tallyhold.app, [str(word) for word in words], input=typed, env=env
        )

    def json(self, person: str, *words: object, **more: Any) -> Any:
        done = self.run(person, *words, "--json", **more)
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    def until(self, person: str, words: tuple[str, ...], key: str, value: object) -> Any:
        """An answer, asked for until it has a value."""
        deadline = time.monotonic() + 60
        while True:
            answer = self.json(person, *words)
            if answer[key] == value:
                return answer
            assert time.monotonic() < deadline, answer
            time.sleep(0.2)


@pytest.fixture
def people(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[People]:
    made = People(tmp_path, request.getfixturevalue("bundled_engine"))
    yield made
    made.stop()


CSV = "kind,value,from,to,classes,ports\nsubscriber,sub-1,2025-12-01,2025-12-31,,\n"
FACTS = (
    "--matter=Larch", "--basis=court-order", "--authority=Leeds Crown Court", "--reference=T1",
    "--served=2026-11-20", "--expires=2028-12-31",
)  # fmt: skip


def test_a_hold_from_placing_to_release(people: People) -> None:
    people.world.put("visit", [row("visit", subscriber=who) for who in ("sub-1", "sub-1", "sub-2")])
    refused = people.run("bob", "hold", "place", *FACTS, "-f", "-", "--yes", typed=CSV)
    assert refused.exit_code == 3
    assert "legal-requester" in refused.stderr  # the role that it takes
    hold = people.json("ann", "hold", "place", *FACTS, "-f", "-", "--yes", typed=CSV)
    name = hold["id"]
    assert hold["state"] == "AwaitingApproval"
    assert "lapses on" in hold["next"]
    own = people.run("ann", "hold", "approve", name, "--yes")
    assert own.exit_code == 3
    approved = people.run("bob", "hold", "approve", name, "--yes")
    assert approved.exit_code == 0, approved.stderr
    assert "Larch" in approved.stderr
    people.until("ann", ("hold", "show", name), "state", "Preserved")
    listed = people.run("dora", "hold", "list", "--state", "Preserved")
    assert name in listed.stdout
    assert people.json("dora", "hold", "list", "--state", "Rejected") == {"holds": []}
    covered = people.json("adam", "hold", "coverage", name)
    assert [(each["class"], each["rows"]) for each in covered["places"]] == [("visit", 2)]
    assert "2 records kept" in people.run("ann", "hold", "coverage", name).stdout

    # A later end, turned down once and then approved.
    extend = ("hold", "extend", name, "--expires", "2029-12-31", "--yes")
    assert people.run("ann", *extend).exit_code == 0
    assert people.run("cleo", "hold", "reject", name, "--reason=not-needed", "--yes").exit_code == 0
    assert people.json("ann", *extend)["extension"]["expires"] == "2030-01-01T00:00:00Z"
    assert people.json("cleo", "hold", "approve", name, "--yes")["expires"].startswith("2030-01-01")

    # Two other people release it; one undoes it; two again, and seven days.
    release = ("hold", "release", name, "--reason", "case closed", "--yes")
    assert people.run("ann", *release).exit_code == 0
    assert people.run("ann", "hold", "approve", name, "--yes").exit_code == 3
    assert people.run("bob", "hold", "approve", name, "--yes").exit_code == 0
    again = people.run("bob", "hold", "approve", name, "--yes")
    assert again.exit_code == 3
    assert "two different people" in again.stderr
    assert people.run("bob", "hold", "cancel-release", name, "--yes").exit_code == 0
    assert people.run("ann", *release).exit_code == 0
    assert people.run("bob", "hold", "approve", name, "--yes").exit_code == 0
    done = people.run("dora", "hold", "approve", name, "--yes")
    assert done.exit_code == 0, done.stderr
    assert "Will be released on" in done.stdout
    assert people.json("ann", "hold", "show", name)["state"] == "Preserved"
    people.clock.skip(6 * DAY_US)
    people.running.rounds()
    assert people.json("ann", "hold", "show", name)["state"] == "Preserved"
    people.clock.skip(DAY_US + 60_000_000)
    ended = people.until("ann", ("hold", "show", name), "state", "Cancelled")
    assert "protects nothing any more" in ended["next"]
    assert people.run("ann", "hold", "show", "H-2027-9999").exit_code == 1
    report = verify(people.running.config.log_folder, None, [], None)
    assert report.good, report.lines()


def test_a_purge_keeps_what_is_held_and_proves_the_rest(people: People, tmp_path: Path) -> None:
    people.world.put("visit", [row("visit", subscriber=who) for who in ("sub-1", "sub-2", "sub-3")])
    hold = people.json("ann", "hold", "place", *FACTS, "-f", "-", "--yes", typed=CSV)["id"]
    assert people.run("bob", "hold", "approve", hold, "--yes").exit_code == 0
    people.until("ann", ("hold", "show", hold), "state", "Preserved")
    assert people.run("ann", "purge", "plan").exit_code == 3
    # The service's own first run finds nothing: ingest has not been told for long enough.
    people.running.until(
        "the first run", lambda: people.json("olga", "purge", "status")["last"] is not None
    )
    shown = people.run("olga", "purge", "plan")
    assert "0 partitions to be destroyed" in shown.stdout
    assert "next: visit 20251222 stays: closed for writing" in shown.stdout
    people.clock.skip(20 * 60 * 1_000_000)
    plan = people.until("olga", ("purge", "plan"), "due", 1)
    assert plan["decisions"][0]["action"] == "preserve"
    shown = people.run("olga", "purge", "plan")
    assert "1 partitions to be destroyed" in shown.stdout
    assert "20251222" in shown.stdout
    dry = people.run("olga", "purge", "run")
    assert dry.exit_code == 0
    assert people.store.count("visit") == 3
    assert people.run("olga", "purge", "run", "--execute", "--confirm", 2).exit_code == 1
    assert people.run("dora", "purge", "run", "--execute", "--confirm", 1).exit_code == 3
    assert people.store.count("visit") == 3

    done = people.run("olga", "purge", "run", "--execute", "--confirm", 1)
    assert done.exit_code == 0, (done.stdout, done.stderr)
    assert "1 of 1 partitions destroyed" in done.stdout
    assert people.store.count("visit") == 0
    status = people.json("olga", "purge", "status")
    (purge,) = status["purges"]
    assert (purge["preserved"], purge["destroyed"]) == (1, 2)
    assert purge["id"] in people.run("adam", "purge", "status").stdout
    out = tmp_path / "certificate.json"
    log = people.running.config.log_folder
    fetched = people.run("adam", "purge", "certificate", purge["id"], "-o", out, "--verify", log)
    assert fetched.exit_code == 0, fetched.stderr
    assert "all figures agree" in fetched.stderr
    kept = (log / "certificates").glob(f"{purge['id']}.*.json")
    assert out.read_bytes() in [each.read_bytes() for each in kept]
    covered = people.json("ann", "hold", "coverage", hold)["places"]
    assert [(each["class"], each["live"], each["vault"]) for each in covered] == [("visit", 0, 1)]

    # Too late for the others: it is said, with the certificate that proves it.
    late = CSV.replace("sub-1", "sub-2")
    second = people.json("ann", "hold", "place", *FACTS, "-f", "-", "--yes", typed=late)["id"]
    assert people.run("bob", "hold", "approve", second, "--yes").exit_code == 0
    missing = people.until("ann", ("hold", "show", second), "state", "PreservationNotAvailable")
    assert missing["unavailable"] == [purge["id"]]
    shown = people.run("ann", "hold", "coverage", second)
    assert f"certificate {purge['id']}" in shown.stdout
    report = verify(log, None, [], None)
    assert report.good, report.lines()


def test_the_service_and_the_policy(people: People, tmp_path: Path) -> None:
    status = people.json("olga", "retention", "status")
    assert status["you"] == "olga"
    assert "roles:\n  operations" in people.run("olga", "retention", "status").stdout
    assert people.json("ann", "policy", "show")["digest"] == status["policy"]
    people.world.put("visit", [row("visit", subscriber="s")])
    assert "visit" in people.run("dora", "policy", "report").stdout
    assert people.run("olga", "retention", "confirm-clock", "--yes").exit_code == 0
    assert people.run("ann", "retention", "confirm-clock", "--yes").exit_code == 3

    # A witness on a host of its own signs the log and hands in what it signed.
    own = ("--state", tmp_path / "w", "--name", "w.example/1")
    log = people.running.config.log_folder
    key = people.run("adam", "audit", "witness", log, *own, "--show-key").stdout.strip()
    enrolled = people.json("adam", "retention", "witness", "--enrol", key)
    assert enrolled["enrolled"] == key
    log_key = people.json("adam", "retention", "witness")["key"]
    signed = people.run("adam", "audit", "witness", log, *own, "--log-key", log_key)
    assert signed.exit_code == 0, signed.stderr
    note = tmp_path / "signed"
    note.write_text(signed.stdout)
    assert "index" in people.json("adam", "retention", "witness", "--note", note)

    # Who has no role is told so, over the socket too; and nobody answers once it is stopped.
    socket = people.running.config.api.socket
    done = people.run("ann", "hold", "--service", socket, "list")
    assert done.exit_code == 3
    assert "group" in done.stderr
    people.running.stop()
    assert people.run("ann", "hold", "list").exit_code == 4
    assert people.run("ann", "hold", "--service", socket, "list").exit_code == 4
    people.running = rig.Running(
        people.running.config,
        now=people.clock.now,
        passed=people.clock.passed,
        synchronised=lambda: None,
    ).start()
    assert people.run("ann", "hold", "list").exit_code == 0


def test_serve_runs_until_it_is_told_to_stop(tmp_path: Path) -> None:
    socket, config = tmp_path / "s", tmp_path / "retention.toml"
    config.write_text(
        f'folder = "{tmp_path}/retention"\n[engine]\ndata = "{tmp_path}/engine"\n'
        f'[api]\nsocket = "{socket}"\n[metrics]\nlisten = "127.0.0.1:0"\n'
    )
    command = [sys.executable, "-m", "tallyhold", "retention", "serve", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as served:
        deadline = time.monotonic() + 60
        while not socket.exists():
            assert served.poll() is None, served.stderr and served.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        again = subprocess.run(command, capture_output=True, text=True, check=False)
        assert again.returncode == 1
        assert "Traceback" not in again.stderr
        listed = CliRunner().invoke(tallyhold.app, ["hold", "--service", str(socket), "list"])
        assert listed.exit_code == 3
        assert "group" in listed.stderr
        served.terminate()
        assert served.wait(60) == 0
    assert not socket.exists()
