"""The bundled engine as a process: starts, listens on loopback alone, comes back, goes away."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.store.bundled import Engine, EngineConfig, EngineError
from aggregator.store.client import Client, Endpoint, Refused, StoreError, Unavailable
from aggregator.store.engine_files import bundled_port
from aggregator.store.migrate import Migrator
from tests.aggregator.support import Store, wait_for

pytestmark = pytest.mark.engine


def process_text(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")


def test_its_life(engine_folder: Path) -> None:
    """Start, refuse a second on the folder, survive SIGKILL with its rows, stop, start again."""
    config = EngineConfig(engine_folder, memory_ratio=0.3)
    engine = Engine(config)
    assert engine.poll() == "stopped"
    engine.start()
    try:
        assert engine.poll() == "running"
        pid = engine.pid
        assert pid is not None
        with pytest.raises(EngineError, match="another process uses"):
            Engine(config).start()
        secrets = [path.read_text() for path in engine_folder.glob("*.password")]
        assert len(set(secrets)) == 3
        for secret in secrets:
            for name in ("cmdline", "environ"):
                assert secret not in process_text(pid, name)
            assert secret not in (engine_folder / "users.xml").read_text()
        limits = process_text(pid, "limits").splitlines()
        core = next(line for line in limits if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"]
        client = Client(engine.endpoint())
        Migrator(client, lambda: 1).run()
        before = client.query_columns("SELECT number FROM schema_migrations ORDER BY number")
        os.kill(pid, signal.SIGKILL)
        wait_for_restart(engine, pid)
        wait_for(engine.endpoint())
        assert engine.restarts == 1
        after = client.query_columns("SELECT number FROM schema_migrations ORDER BY number")
        assert after == before
        client.close()
    finally:
        engine.stop()
    assert engine.poll() == "stopped"
    assert not Path(f"/proc/{pid}").exists()
    again = Engine(config)
    again.start()
    try:
        client = Client(again.endpoint())
        assert Migrator(client, lambda: 1).run() == []
        client.close()
    finally:
        again.stop()


def wait_for_restart(engine: Engine, old: int) -> None:
    deadline = time.monotonic() + 60
    while engine.pid in (None, old) or engine.poll() != "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_files_are_private(bundled_engine: Engine) -> None:
    for name in ("users.xml", "config.xml", "writer.password", "reader.password"):
        mode = (bundled_engine.config.data / name).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600, name
    assert stat.S_IMODE(bundled_engine.config.data.stat().st_mode) == 0o700


def test_it_listens_on_loopback_alone(bundled_engine: Engine) -> None:
    wanted = f":{bundled_engine.port:04X}"
    pid = bundled_engine.pid
    listening = [
        line.split()[1]
        for name in ("net/tcp", "net/tcp6")
        for line in process_text(pid or 0, name).splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(wanted)
    ]
    assert listening == [f"0100007F{wanted}"]


def refused(client: Client, sql: str) -> None:
    with pytest.raises(Refused):
        client.outside(sql)


def test_each_user_may_do_its_own_work_alone(bundled_engine: Engine) -> None:
    writer, reader, keeper = (
        Client(bundled_engine.endpoint(user)) for user in ("writer", "reader", "keeper")
    )
    store = Store("bundled", writer, keeper)
    store.clear()
    for statement in (
        "ALTER TABLE tallyhold.usage DROP PARTITION 202611",
        "ALTER TABLE tallyhold.usage DELETE WHERE 1",
        "TRUNCATE TABLE tallyhold.usage",
        "DROP TABLE tallyhold.usage",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1/', 'LineAsString')",
        "SYSTEM STOP LISTEN TCP",
    ):
        refused(writer, statement)
        refused(reader, statement)
    refused(reader, "CREATE TABLE tallyhold.x (a UInt8) ENGINE = MergeTree ORDER BY a")
    refused(reader, "ALTER TABLE tallyhold.usage ADD COLUMN x UInt8")
    reader.query_columns("SELECT count() AS n FROM usage")
    keeper.execute("ALTER TABLE usage DROP PARTITION 202611")
    closed: dict[str, Any] = {
        "record_class": ["usage"],
        "first_open": np.array([1], dtype=np.uint32),
        "version": np.array([1], dtype=np.uint64),
    }
    for client in (writer, reader):
        client.query_columns("SELECT first_open FROM closed_partitions")
        with pytest.raises(Refused):
            client.insert("closed_partitions", closed)
        refused(client, "CREATE DATABASE tallyhold_vault")
    refused(reader, "SELECT count() FROM tallyhold.late_usage")
    keeper.outside("CREATE DATABASE IF NOT EXISTS tallyhold_vault")
    keeper.outside("CREATE TABLE tallyhold_vault.x (a UInt8) ENGINE = MergeTree ORDER BY a")
    for client in (writer, reader):
        refused(client, "SELECT count() FROM tallyhold_vault.x")
    keeper.outside("DROP TABLE tallyhold_vault.x")
    keeper.insert("closed_partitions", closed)
    opener = Client(Endpoint("127.0.0.1", bundled_engine.port, "default", ""))
    refused(opener, "SELECT * FROM tallyhold.usage")
    refused(opener, "SELECT * FROM system.users")
    for client in (writer, reader, keeper, opener):
        client.close()


def test_the_port_of_an_engine_is_found_in_its_folder(
    bundled_engine: Engine, tmp_path: Path
) -> None:
    assert bundled_port(bundled_engine.config.data) == bundled_engine.port
    with pytest.raises(Unavailable, match="no engine was ever started"):
        bundled_port(tmp_path)
    (tmp_path / "config.xml").write_text("<clickhouse/>")
    with pytest.raises(Unavailable, match="names no port"):
        bundled_port(tmp_path)
    (tmp_path / "config.xml").unlink()
    (tmp_path / "config.xml").mkdir()
    with pytest.raises(Refused, match="config.xml"):
        bundled_port(tmp_path)


def test_nothing_keeps_the_text_of_queries(bundled_engine: Engine) -> None:
    client = Client(bundled_engine.endpoint())
    client.query_columns("SELECT %(x)s AS x", {"x": "planted-marker-4711"})
    logs = client.outside("SELECT name FROM system.tables WHERE database = 'system'")["name"]
    assert not {"query_log", "text_log", "query_thread_log", "processors_profile_log"} & set(logs)
    client.close()
    found = subprocess.run(
        ["grep", "-rl", "planted-marker-4711", str(bundled_engine.config.data)],
        capture_output=True,
        check=False,
    )
    assert found.stdout == b""


def test_a_taken_port_is_said_in_plain_words(engine_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"port {port} .* Set \\[engine\\] port"):
            Engine(EngineConfig(engine_folder, port=port)).start()
        # The folder is free again for whoever corrects the port.
        with pytest.raises(EngineError, match=f"port {port}"):
            Engine(EngineConfig(engine_folder, port=port)).start()


def test_a_broken_engine_points_at_a_server(
    engine_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = engine_folder.parent / "broken"
    broken.write_text("#!/bin/sh\necho cannot load library >&2\nexit 3\n")
    broken.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(EngineError) as caught:
        Engine(EngineConfig(engine_folder)).start()
    for words in ("code 3", "cannot load library", 'kind = "server"'):
        assert words in str(caught.value)


def test_a_readable_password_is_refused(engine_folder: Path) -> None:
    engine_folder.mkdir()
    (engine_folder / "writer.password").write_text("x")
    (engine_folder / "writer.password").chmod(0o644)
    with pytest.raises(EngineError, match="chmod 600"):
        Engine(EngineConfig(engine_folder)).start()


def test_it_dies_with_its_parent(engine_folder: Path) -> None:
    """The parent is killed outright, so that it cannot stop anything itself."""
    script = (
        "import sys, time; from pathlib import Path\n"
        "from aggregator.store.bundled import Engine, EngineConfig\n"
        "e = Engine(EngineConfig(Path(sys.argv[1]), memory_ratio=0.3)); e.start()\n"
        "print(e.pid, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(engine_folder)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/cmdline").exists() and process_text(child, "cmdline"):
        assert time.monotonic() < deadline, "the engine outlived its parent"
        time.sleep(0.02)


def test_a_stopped_engine_is_unavailable(engine_folder: Path) -> None:
    engine = Engine(EngineConfig(engine_folder, memory_ratio=0.3))
    engine.start()
    client = Client(engine.endpoint())
    client.outside("SELECT 1 AS one")
    engine.stop()
    with pytest.raises(StoreError, match="does not answer"):
        client.outside("SELECT 1 AS one")
