"""The whole aggregator: real certificates, the real engine, restarts, and an engine that dies."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aggregator import pki
from aggregator.config import Config, load
from aggregator.ingest.listen import ListenError
from aggregator.service import Aggregator
from aggregator.store.bundled import EngineError
from aggregator.store.client import Client, Refused
from aggregator.store.schema import SchemaError
from collector.wire.batch import Receipt
from tests.aggregator.support import (
    DebianServer,
    Spool,
    binding_row,
    client_tls,
    rows,
    upload,
    usage_rows,
)

pytestmark = pytest.mark.engine

WINDOW_NS = 300 * 1_000_000_000


def configure(folder: Path, more: str = "", engine: str = "") -> Config:
    pki.init(folder / "pki", ["127.0.0.1"])
    engine = engine or f'data = "{folder}/engine"\nmemory_ratio = 0.3\n'
    path = folder / "aggregator.toml"
    path.write_text(
        '[server]\nlisten = "127.0.0.1:0"\n'
        f'[tls]\nca = "{folder}/pki/ca.crt"\ncert = "{folder}/pki/server.crt"\n'
        f'key = "{folder}/pki/server.key"\ncrl = "{folder}/pki/crl.pem"\n'
        f"[engine]\n{engine}{more}"
        + ("" if "[metrics]" in more else '[metrics]\nlisten = "127.0.0.1:0"\n')
    )
    return load(path)


class Router:
    """A collector that uploads windows from now on, over TLS."""

    def __init__(self, folder: Path, service: Aggregator) -> None:
        made = pki.issue(folder / "pki", "edge-1")
        self._tls = client_tls(folder / "pki" / "ca.crt", made.cert, made.key)
        self.service = service
        self.spool = Spool()
        self.start_ns = time.time_ns() // WINDOW_NS * WINDOW_NS

    def next(self, **columns: dict[str, list[Any]]) -> bytes:
        data = self.spool.batch(columns, start_ns=self.start_ns)
        self.start_ns += WINDOW_NS
        return data

    async def send(self, data: bytes) -> tuple[int, Receipt]:
        assert self.service.server is not None
        port, now = self.service.server.port, time.time_ns()
        return await asyncio.to_thread(upload, port, self._tls, data, sent_ns=now)


def page(service: Aggregator, path: str) -> tuple[int, bytes]:
    assert service.server is not None
    connection = http.client.HTTPConnection("127.0.0.1", service.server.metrics_port, timeout=30)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def serve(config: Config, scenario: Callable[[Aggregator], Awaitable[None]]) -> None:
    async def main() -> None:
        service = Aggregator(config)
        await service.start()
        try:
            await scenario(service)
        finally:
            await service.stop()

    asyncio.run(main())


def stored(service: Aggregator, sql: str) -> dict[str, list[Any]]:
    assert service.client is not None
    return service.client.query_columns(sql)


def test_bindings_of_an_earlier_run_attribute_later_usage(tmp_path: Path) -> None:
    """Two runs on one folder: the index is filled again from the store."""
    config = configure(tmp_path)
    spool = Spool()

    async def bind(service: Aggregator) -> None:
        router = Router(tmp_path, service)
        router.spool = spool
        binding = binding_row("10.0.0.1", "line-1", router.start_ns)
        status, receipt = await router.send(router.next(binding=rows("binding", binding)))
        assert (status, receipt.verdict) == (200, "accept")

    async def use(service: Aggregator) -> None:
        router = Router(tmp_path, service)
        router.spool = spool
        usage = usage_rows(["10.0.0.1", "10.0.0.2"], router.start_ns)
        status, receipt = await router.send(router.next(usage=usage))
        assert (status, receipt.verdict) == (200, "accept")
        found = stored(service, "SELECT subscriber FROM usage ORDER BY address")
        assert found["subscriber"] == ["line-1", ""]

    serve(config, bind)
    serve(config, use)


def test_a_dead_engine_means_come_again_and_nothing_is_lost(tmp_path: Path) -> None:
    async def scenario(service: Aggregator) -> None:
        router = Router(tmp_path, service)
        addresses = [f"10.0.0.{n}" for n in range(20)]
        await router.send(router.next(usage=usage_rows(addresses, router.start_ns)))
        assert service.engine is not None
        pid = service.engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        data = router.next(usage=usage_rows(addresses, router.start_ns))
        verdicts: list[str] = []
        deadline = time.monotonic() + 60
        while not verdicts or verdicts[-1] == "retry":
            status, receipt = await router.send(data)
            verdicts.append(receipt.verdict)
            assert status == (503 if receipt.verdict == "retry" else 200)
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert verdicts[0] == "retry"
        assert verdicts[-1] == "accept"
        assert service.engine.restarts == 1
        assert stored(service, "SELECT count() AS n FROM usage")["n"] == [40]
        while not service.health()["ready"]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        _, text = await asyncio.to_thread(page, service, "/metrics")
        assert b"tallyhold_aggregator_engine_restarts 1.0" in text

    serve(configure(tmp_path), scenario)


def test_health_follows_the_engine(tmp_path: Path) -> None:
    server = DebianServer(tmp_path / "debian")
    server.start()
    (tmp_path / "password").write_text(server.password + "\n")
    engine = f'kind = "server"\nport = {server.port}\npassword_file = "{tmp_path}/password"\n'

    async def scenario(service: Aggregator) -> None:
        status, body = await asyncio.to_thread(page, service, "/v1/health")
        assert (status, json.loads(body)["ready"]) == (200, True)
        router = Router(tmp_path, service)
        data = router.next(usage=usage_rows(["10.0.0.1"], router.start_ns))
        server.kill()
        status, receipt = await router.send(data)
        assert (status, receipt.verdict, receipt.reason) == (503, "retry", "store-unavailable")
        await until(lambda: page(service, "/v1/health")[0] == 503)
        server.start()
        await until(lambda: page(service, "/v1/health")[0] == 200)
        assert (await router.send(data))[1].verdict == "accept"

    try:
        serve(configure(tmp_path, engine=engine), scenario)
        (tmp_path / "password").write_text("wrong")
        with pytest.raises(Refused, match="password"):
            serve(configure(tmp_path, engine=engine), scenario)
    finally:
        server.stop()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def nothing(service: Aggregator) -> None:
    raise AssertionError("it must not have started")


def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """The engine is stopped again, so that the next start finds its folder free."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = configure(tmp_path, f'[metrics]\nlisten = "127.0.0.1:{port}"\n')
        for _ in range(2):
            with pytest.raises(ListenError, match="another program listens"):
                serve(config, nothing)
        config = configure(
            tmp_path, engine=f'data = "{tmp_path}/engine"\nport = {port}\nmemory_ratio = 0.3\n'
        )
        with pytest.raises(EngineError, match=f"port {port}"):
            serve(config, nothing)


def test_tables_of_another_shape_stop_the_start(tmp_path: Path) -> None:
    config = configure(tmp_path)

    async def damage(service: Aggregator) -> None:
        keeper = Client(service.endpoint("keeper"))
        keeper.execute("ALTER TABLE usage DROP COLUMN flags")
        keeper.close()

    serve(config, damage)
    with pytest.raises(SchemaError, match=r"usage\.flags is missing"):
        serve(config, nothing)


def test_sigterm_stops_it_in_order(tmp_path: Path) -> None:
    """As a process of its own: exit code 0, and the engine is gone with it."""
    configure(tmp_path)
    script = (
        "import asyncio, sys; from pathlib import Path\n"
        "from aggregator.config import load\n"
        "from aggregator.service import Aggregator, run\n"
        "service = Aggregator(load(Path(sys.argv[1])))\n"
        "start = service.start\n"
        "async def told():\n"
        "    await start(); print(service.engine.pid, flush=True)\n"
        "service.start = told\n"
        "asyncio.run(run(service))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "aggregator.toml")],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    engine = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    process.stdout.close()
    assert not Path(f"/proc/{engine}").exists()
