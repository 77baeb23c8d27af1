"""Both engines with empty tables, and a vault over each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aggregator.store.bundled import Engine
from aggregator.store.client import Client
from tests.aggregator.conftest import ENGINES, bundled_engine, debian_server
from tests.aggregator.support import DebianServer, Store
from tests.retention.vault.world import World

__all__ = ["bundled_engine", "debian_server"]


@pytest.fixture(params=ENGINES)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Empty tables and a vault that is prepared, on each engine in turn."""
    if request.param == "bundled":
        engine: Engine = request.getfixturevalue("bundled_engine")
        store = Store("bundled", Client(engine.endpoint()), Client(engine.endpoint("keeper")))
        root = engine.config.data / "store"
    else:
        server: DebianServer = request.getfixturevalue("debian_server")
        store = Store("debian", Client(server.endpoint()), Client(server.endpoint()))
        root = server.folder / "data"
    world = World(store, root)
    world.clear()
    yield world
    store.close()
