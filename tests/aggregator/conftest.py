"""Engines for the aggregator's tests: the same tests run on the bundled one and on Debian's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.store.bundled import Engine, EngineConfig
from aggregator.store.client import Client
from tests.aggregator.support import DebianServer, Store

ENGINES = ("bundled", "debian")


@pytest.fixture(scope="session")
def bundled_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One bundled engine for the whole run; tests that kill it start their own."""
    engine = Engine(EngineConfig(tmp_path_factory.mktemp("bundled") / "engine", memory_ratio=0.3))
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="session")
def debian_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DebianServer]:
    server = DebianServer(tmp_path_factory.mktemp("debian"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=ENGINES)
def engines(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Empty, migrated tables on each engine in turn."""
    if request.param == "bundled":
        engine: Engine = request.getfixturevalue("bundled_engine")
        store = Store("bundled", Client(engine.endpoint()), Client(engine.endpoint("keeper")))
    else:
        server: DebianServer = request.getfixturevalue("debian_server")
        store = Store("debian", Client(server.endpoint()), Client(server.endpoint()))
    store.clear()
    yield store
    store.close()


@pytest.fixture
def engine_folder(tmp_path: Path) -> Path:
    return tmp_path / "engine"
