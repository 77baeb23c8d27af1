"""An appliance with two days of a router in its tables, and its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator import pki
from aggregator.store.bundled import Engine
from aggregator.store.client import Client
from tests.aggregator.conftest import bundled_engine
from tests.aggregator.ingest.feeding import Ingest
from tests.aggregator.ingest.guarded import DAY, MIDNIGHT, day_of_releases
from tests.aggregator.support import Spool, Store

__all__ = ["bundled_engine"]


@pytest.fixture
def store(bundled_engine: Engine) -> Iterator[Store]:
    """Two days of a router: one counted, one silent."""
    made = Store(
        "bundled", Client(bundled_engine.endpoint()), Client(bundled_engine.endpoint("keeper"))
    )
    made.clear()
    ingest, spool = Ingest(made.client), Spool()
    for n in range(2):
        day = day_of_releases(MIDNIGHT + n * DAY, is_counted=n == 0)
        ingest.send(spool.batch(day, start_ns=MIDNIGHT + (n + 1) * DAY))
    yield made
    made.close()


@pytest.fixture
def config(bundled_engine: Engine, store: Store, tmp_path: Path) -> Path:
    keys, path = tmp_path / "pki", tmp_path / "aggregator.toml"
    pki.init(keys, ["localhost"])
    path.write_text(
        f'[tls]\nca = "{keys}/ca.crt"\ncert = "{keys}/server.crt"\nkey = "{keys}/server.key"\n'
        f'[engine]\ndata = "{bundled_engine.config.data}"\n'
    )
    return path
