"""The whole retention service: a real engine that dies, clocks that are wrong, a second service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aggregator.store.bundled import Engine, EngineConfig
from aggregator.store.client import Client
from aggregator.store.migrate import Migrator
from retention.client import Client as Service
from retention.client import ServiceError, Where
from retention.destruction import compare
from retention.model import DAY_US, Step
from retention.parent import PARENT_VARIABLE
from retention.service import StartError
from tests.aggregator.support import Store
from tests.retention.rig import Running, config, good, hold_body, leaves, open_folder
from tests.retention.vault.world import World, row

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")

DAY_S = 86_400
ROOT = Path(__file__).parents[2]


class Clock:
    """Runs from noon of today, so that no test meets a midnight at which something becomes due.

    `more_s`: what a test has let pass beyond that; `off_s` is a wrong clock.
    """

    def __init__(self) -> None:
        of_day_s = time.time_ns() // 1_000_000_000 % DAY_S
        self.more_s, self.off_s = DAY_S // 2 - of_day_s, 0

    def now(self) -> int:
        return time.time_ns() + (self.more_s + self.off_s) * 1_000_000_000

    def passed(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + self.more_s * 1_000_000_000

    def given(self) -> dict[str, Any]:
        return {"now": self.now, "passed": self.passed}


def visits(engine: Engine, clock: Clock, days_ago: int, *subscribers: str) -> None:
    """A visit of each subscriber so many days ago, in migrated tables."""
    store = Store("bundled", Client(engine.endpoint()), Client(engine.endpoint("keeper")))
    Migrator(store.client, lambda: clock.now() // 1000).run()
    at = clock.now() // 1000 // DAY_US * DAY_US - days_ago * DAY_US + DAY_US // 2
    rows = [
        row("visit", subscriber=each, start_us=at, end_us=at + 1, observed_us=at)
        for each in subscribers
    ]
    World(store, engine.config.data / "store").put("visit", rows)
    store.close()


def count(engine: Engine, table: str) -> int:
    client = Client(engine.endpoint("keeper"))
    try:
        return int(client.query_columns(f"SELECT count() AS n FROM {table}")["n"][0])
    finally:
        client.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


@pytest.fixture
def engine(folder: Path) -> Iterator[Engine]:
    made = Engine(EngineConfig(folder / "engine", memory_ratio=0.3))
    made.start()
    yield made
    made.stop()


@pytest.mark.engine
def test_from_a_hold_to_a_certificate_with_an_engine_that_dies_between(
    folder: Path, engine: Engine
) -> None:
    clock = Clock()
    visits(engine, clock, 10, "sub-0001", "sub-0002", "sub-0003")
    visits(engine, clock, 0, "sub-0001", "sub-0002")
    service = Running(config(folder, {"schedule": {"purge_every_s": 3600}}), **clock.given())
    service.start()
    try:
        service.rounds()
        _, plan = service.ask("operations", "GET", "/v1/purge/plan")
        assert [each["reason"].split(";")[0] for each in plan["decisions"]][0] == (
            "closed for writing"
        )
        body = hold_body()
        body["scope"][0] |= {"from": "2020-01-01T00:00:00Z", "to": "2090-01-01T00:00:00Z"}
        _, hold = service.ask("legal-requester", "POST", "/v1/holds", body)
        _, hold = service.ask("legal-approver", "POST", f"/v1/holds/{hold['id']}/approve", {})
        assert hold["state"] == "Preserved"

        # The engine goes away: a hold can be placed, nothing is destroyed.
        engine.stop()
        service.until("it to be seen", lambda: service.metric("engine_up") == 0)
        clock.more_s += 20 * 60
        status, other = service.ask("legal-requester", "POST", "/v1/holds", hold_body())
        assert (status, other["protects"]) == (200, True)
        _, answer = service.ask("operations", "POST", "/v1/purge/run", {"dry_run": False})
        path = f"/v1/purge/run/{answer['job']}"
        service.until(
            "the run", lambda: service.ask("operations", "GET", path)[1]["state"] == "failed"
        )
        assert service.leaves("purge.intent") == []

        # It is back, at another port; what is due goes, what is held stays.
        engine.start()
        service.until("the engine", lambda: service.metric("engine_up") == 1)
        assert count(engine, "tallyhold.visit") == 5
        _, answer = service.ask("operations", "POST", "/v1/purge/run", {"dry_run": False, "cap": 5})
        path = f"/v1/purge/run/{answer['job']}"
        service.until(
            "the run", lambda: service.ask("operations", "GET", path)[1]["state"] == "done", 60
        )
        _, done = service.ask("operations", "GET", path)
        (outcome,) = done["outcomes"]
        assert (outcome["state"], outcome["preserved"], outcome["destroyed"]) == ("destroyed", 1, 2)
        assert count(engine, "tallyhold.visit") == 2
        assert count(engine, "tallyhold_vault.vault_visit") == 1

        _, kept = service.ask("legal-requester", "GET", f"/v1/holds/{hold['id']}/coverage")
        by_place = {each["partition"]: (each["vault"], each["live"]) for each in kept["places"]}
        assert sorted(by_place.values()) == [(0, 1), (1, 0)]
        purged = next(each for each in kept["places"] if each["vault"])
        assert len(purged["root"]) == 64

        def final() -> bool:
            (found,) = service.ask("operations", "GET", "/v1/purge/status")[1]["purges"]
            return bool(found["step"] == Step.FINAL.value)

        service.until("the certificate to be final", final, 90)
        path = f"/v1/purge/{outcome['purge']}/certificate"
        _, certificate = service.ask("auditor", "GET", path)
        data = compare.file_of(certificate)
        register = service.service.register
        assert register is not None
        with register.audit():
            wrong, _ = compare.problems(data, service.config.log_folder)
        assert wrong == []
        _, report = service.ask("dpo", "GET", "/v1/policy/report")
        visit = next(each for each in report["classes"] if each["record_class"] == "visit")
        assert (visit["open"], visit["overdue"]) == (1, 0)
    finally:
        service.stop()
    good(service.config.log_folder)


@pytest.mark.engine
def test_tables_that_no_policy_names_stop_destruction(folder: Path, engine: Engine) -> None:
    clock = Clock()
    visits(engine, clock, 10, "sub-0001")
    writer = Client(engine.endpoint())
    writer.execute("CREATE TABLE tallyhold.dossier (who String) ENGINE = MergeTree ORDER BY who")
    writer.close()
    service = Running(config(folder), **clock.given()).start()
    try:
        service.until("the table to be seen", lambda: service.metric("unwired_tables") == 1)
        clock.more_s += 20 * 60
        service.rounds(3)
        _, answer = service.ask("operations", "POST", "/v1/purge/run", {"dry_run": False})
        path = f"/v1/purge/run/{answer['job']}"
        service.until(
            "the run", lambda: service.ask("operations", "GET", path)[1]["state"] == "failed"
        )
        assert service.leaves("purge.intent") == []
        _, health = service.ask("operations", "GET", "/v1/health")
        assert "tables without a policy" in health["because"]
    finally:
        service.stop()


def test_a_second_service_says_what_to_do(folder: Path) -> None:
    first = Running(config(folder)).start()
    other = {"api": {"socket": str(folder / "other.sock"), "group": "users"}}
    try:
        with pytest.raises(StartError, match="stop that one first"):
            Running(config(folder, other)).start()
        assert first.ask("dpo", "GET", "/v1/health")[0] == 200
        assert not (folder / "other.sock").exists()
    finally:
        first.stop()
    second = Running(config(folder, other)).start()
    second.stop()
    good(second.config.log_folder)


@pytest.mark.parametrize(("off_s", "reason"), [(-DAY_S, "backwards"), (20 * DAY_S, "far-ahead")])
def test_a_wrong_clock_at_the_start(folder: Path, off_s: int, reason: str) -> None:
    clock = Clock()
    Running(config(folder), **clock.given()).start().stop()
    clock.off_s = off_s
    service = Running(config(folder), **clock.given()).start()
    try:
        step = service.leaves("clock.step")[-1]
        assert (step["trusted"], step["reason"], step["actor"]) == (False, reason, None)
        service.rounds()
        assert service.metric("clock_trusted") == 0
        status, answer = service.ask("operations", "GET", "/v1/clock")
        assert (answer["trusted"], answer["reason"]) == (False, reason)
        # Protecting needs no clock.
        status, hold = service.ask(
            "legal-requester", "POST", "/v1/holds", hold_body(served="2026-01-01T00:00:00Z")
        )
        assert (status, hold["protects"]) == (200, True)
        assert service.ask("auditor", "POST", "/v1/clock/confirm", {})[0] == 403
        status, answer = service.ask("operations", "POST", "/v1/clock/confirm", {})
        assert (status, answer["trusted"]) == (200, True)
        assert service.leaves("clock.step")[-1]["actor"] is not None
        service.rounds()
        assert service.metric("clock_trusted") == 1
    finally:
        service.stop()
    good(service.config.log_folder)


def test_a_clock_that_has_to_be_synchronised_and_is_not(folder: Path) -> None:
    more = {"clock": {"require_sync": True}}
    service = Running(config(folder, more), synchronised=lambda: False).start()
    try:
        status, answer = service.ask("dpo", "POST", "/v1/clock/confirm", {})
        assert (status, answer["error"]) == (409, "clock-untrusted")
    finally:
        service.stop()


def test_what_is_kept_survives_a_restart_and_starts_say_no_more_than_changed(folder: Path) -> None:
    settings = config(folder)
    first = Running(settings).start()
    _, hold = first.ask("legal-requester", "POST", "/v1/holds", hold_body())
    first.stop()
    assert not settings.api.socket.exists()
    second = Running(settings).start()
    _, again = second.ask("auditor", "GET", f"/v1/holds/{hold['id']}")
    second.stop()
    assert again["scope"] == hold["scope"]
    kinds = [leaf["kind"] for leaf in leaves(settings.log_folder)]
    assert kinds.count("policy.loaded") == kinds.count("config.changed") == 1
    third = Running(config(folder, {"schedule": {"tick_s": 0.3}})).start()
    third.stop()
    kinds = [leaf["kind"] for leaf in leaves(settings.log_folder)]
    assert kinds.count("config.changed") == 2
    good(settings.log_folder)


def test_another_policy_is_in_the_log_before_it_counts(folder: Path) -> None:
    text = config(folder).policy.read_text()
    policy = folder / "policy.toml"
    policy.write_text(text)
    first = Running(config(folder, {"policy": str(policy)})).start()
    digest = first.service.policy().digest
    first.stop()
    assert 'period = "1 day"' in text
    policy.write_text(text.replace('period = "1 day"', 'period = "2 days"', 1))
    second = Running(config(folder, {"policy": str(policy)})).start()
    loaded = [leaf["digest"] for leaf in second.leaves("policy.loaded")]
    second.stop()
    assert loaded == [digest, second.service.policy().digest]
    assert loaded[0] != loaded[1]


def damage(path: Path, how: str) -> None:
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3] + b"xxx")


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        ("keys/log.key", "gone", "restore it from backup"),
        ("keys/log.key", "torn", "restore it from backup"),
        ("audit/checkpoint", "torn", "audit verify"),
        ("secret", "gone", "secret"),
        ("register.sqlite", "gone", "register"),
    ],
)
def test_what_is_missing_or_damaged_stops_the_start(
    folder: Path, name: str, how: str, words: str
) -> None:
    settings = config(folder)
    first = Running(settings).start()
    first.ask("legal-requester", "POST", "/v1/holds", hold_body())
    first.stop()
    damage(settings.folder / name, how)
    before = {path: path.read_bytes() for path in settings.log_folder.rglob("*") if path.is_file()}
    with pytest.raises(Exception, match=words) as caught:
        Running(settings).start()
    assert type(caught.value).__module__.startswith("retention.")
    assert {path: path.read_bytes() for path in before} == before
    assert not settings.api.socket.exists()


def test_the_log_has_one_name_for_ever(folder: Path) -> None:
    Running(config(folder)).start().stop()
    with pytest.raises(StartError, match=r"test\.example/retention.*never change"):
        Running(config(folder, {"origin": "other.example/log"})).start()


def test_folders_and_keys_are_for_the_service_alone(folder: Path) -> None:
    settings = config(folder)
    Running(settings).start().stop()
    assert settings.folder.stat().st_mode & 0o777 == 0o700
    for path in (settings.folder / "keys").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path


# As a process of its own


def written(folder: Path) -> Path:
    path = folder / "retention.toml"
    path.write_text(
        f'folder = "{folder}/retention"\n[engine]\ndata = "{folder}/engine"\n'
        f'[api]\nsocket = "{folder}/door.sock"\n[metrics]\nlisten = "127.0.0.1:0"\n'
        '[access.groups]\nroot = ["operations", "dpo"]\n'
    )
    return path


def serve(path: Path, **env: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tallyhold", "retention", "serve", "--config", str(path)],
        cwd=ROOT,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
    )


def until(what: str, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)


def answers(folder: Path) -> bool:
    try:
        return bool(Service(Where(str(folder / "door.sock"))).get("/v1/health")["you"] == "root")
    except ServiceError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_order(folder: Path, number: signal.Signals) -> None:
    process = serve(written(folder))
    try:
        until("the service", lambda: answers(folder))
        process.send_signal(number)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    assert not (folder / "door.sock").exists()
    good(folder / "retention" / "audit")


def test_a_kill_leaves_what_the_next_start_can_use(folder: Path) -> None:
    path = written(folder)
    for _ in range(2):
        process = serve(path)
        try:
            until("the service", lambda: answers(folder))
        finally:
            process.kill()
            process.wait()
        assert (folder / "door.sock").exists()
    good(folder / "retention" / "audit")


def test_it_ends_with_the_appliance_that_started_it(folder: Path) -> None:
    """Not with a kill: in order, as somebody may be in the middle of something."""
    path = written(folder)
    script = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'tallyhold', 'retention', 'serve',"
        f" '--config', {str(path)!r}],"
        f" env=os.environ | {{{PARENT_VARIABLE!r}: str(os.getpid())}})\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        until("the service", lambda: answers(folder))
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    until("its end", lambda: not Path(f"/proc/{child}").exists() or state_of(child) == "Z")
    assert not (folder / "door.sock").exists()


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def test_a_parent_that_is_gone_already_stops_the_start(folder: Path) -> None:
    process = serve(written(folder), **{PARENT_VARIABLE: "1"})
    assert process.wait(60) == 1
    assert not (folder / "retention").exists()


def test_what_is_wrong_at_the_start_is_said_in_one_line(folder: Path) -> None:
    path = written(folder)
    first = Running(config(folder)).start()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tallyhold", "retention", "serve", "--config", str(path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        first.stop()
    assert done.returncode == 1
    assert "stop that one first" in done.stderr or "origin" in done.stderr
    assert "Traceback" not in done.stderr
