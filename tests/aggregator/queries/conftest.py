"""One world on each engine; tests share it and use collectors and subscribers of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aggregator.store.client import Client
from tests.aggregator.conftest import ENGINES
from tests.aggregator.queries.world import World, at
from tests.aggregator.support import Store


@pytest.fixture(params=ENGINES, scope="module")
def shared_world(request: pytest.FixtureRequest) -> Iterator[World]:
    fixture = "bundled_engine" if request.param == "bundled" else "debian_server"
    server = request.getfixturevalue(fixture)
    keeper = server.endpoint("keeper") if request.param == "bundled" else server.endpoint()
    store = Store(request.param, Client(server.endpoint()), Client(keeper))
    store.clear()
    yield World(store)
    store.close()


@pytest.fixture
def world(shared_world: World) -> World:
    shared_world.now_ns = at("2026-12-20")
    shared_world.audit.lines.clear()
    return shared_world
