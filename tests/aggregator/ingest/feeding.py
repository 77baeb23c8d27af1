"""A pipeline for tests, as the service makes it, and a fault in one of its inserts."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from aggregator.attribution.attributor import SharedAttributor
from aggregator.ingest.demand import Areas
from aggregator.ingest.pipeline import Pipeline, PipelineConfig
from aggregator.metrics import OUTCOMES, Metrics
from aggregator.store.client import Client, Unavailable, Values
from aggregator.store.writer import Closed, never_closed
from collector.wire.batch import Receipt
from tests.aggregator.support import NOON, S

NOW = NOON + 310 * S
AREAS = Areas({"north": [ipaddress.ip_network("10.0.0.0/8")]})


class Ingest:
    """A pipeline with everything it needs, as after a start of the service."""

    def __init__(
        self, client: Client, closed: Closed = never_closed, config: PipelineConfig | None = None
    ) -> None:
        self.metrics = Metrics()
        self.pipeline = Pipeline(
            client,
            SharedAttributor(500_000),
            AREAS,
            self.metrics,
            config,
            closed=closed,
            now=lambda: NOW,
        )

    def send(self, data: bytes, *, sent_ns: int = NOW, identity: str = "edge-1") -> Receipt:
        return self.pipeline.take(data, identity=identity, sent_ns=sent_ns, arrived_ns=NOW)

    def sample(self, name: str, **labels: str) -> float:
        full = f"tallyhold_aggregator_{name}"
        return self.metrics.registry.get_sample_value(full, labels) or 0.0

    def is_conserved(self, *classes: str) -> bool:
        return all(
            self.sample("rows_received_total", record_class=name)
            == sum(self.sample("rows_total", record_class=name, outcome=o) for o in OUTCOMES)
            for name in classes
        )


class Fault:
    """Breaks one insert of a table, before the engine sees it or after it is in."""

    def __init__(self, client: Client, table: str, *, after: bool) -> None:
        self._insert = client.insert
        self._table = table
        self._after = after
        self.hits = 0
        client.insert = self.insert  # type: ignore[method-assign]

    def insert(self, table: str, columns: Mapping[str, Values], query_id: str | None = None) -> int:
        if table != self._table or self.hits:
            return self._insert(table, columns, query_id)
        self.hits += 1
        if self._after:
            self._insert(table, columns, query_id)
        raise Unavailable("injected")
