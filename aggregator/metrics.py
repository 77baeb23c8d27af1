"""Events of the aggregator in, Prometheus series out. No label ever names a person's anything.

Labels are record classes, verdicts, stable reason words and collector names, all of which come
from closed sets or from certificates the operator issued. The rows of a batch are counted once,
with its final receipt, so that for every class

    rows_received = rows stored + late + duplicate + rejected

holds at any time; an upload that ends in `retry` counts as a batch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX: Final = "tallyhold_aggregator"
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
OUTCOMES: Final = ("stored", "late", "duplicate", "rejected")


class Metrics:
    """One registry with every series of the aggregator."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()

        def counter(name: str, doc: str, *labels: str) -> Counter:
            return Counter(f"{_PREFIX}_{name}", doc, labels, registry=self.registry)

        def gauge(name: str, doc: str) -> Gauge:
            return Gauge(f"{_PREFIX}_{name}", doc, ["collector"], registry=self.registry)

        self.received = counter(
            "rows_received", "Rows of batches that got a final receipt.", "record_class"
        )
        self.rows = counter(
            "rows",
            "The same rows by outcome: stored, late, duplicate or rejected.",
            "record_class",
            "outcome",
        )
        self.derived = counter(
            "rows_derived",
            "Rows made here: anonymous demand, and gaps for missing batches.",
            "record_class",
        )
        self.unattributed = counter(
            "rows_attribution",
            "Attributed classes by the attribution's reason word; empty is certain.",
            "record_class",
            "reason",
        )
        self.batches = counter(
            "batches", "Uploads by verdict and reason.", "collector", "verdict", "reason"
        )
        self.missing = counter(
            "missing_batches", "Batches that a gap in the sequence says never came.", "collector"
        )
        self.lag = gauge(
            "lag_seconds", "From the end of the newest window of a collector to its receipt."
        )
        self.watermark = gauge(
            "watermark_seconds", "End of the newest window taken from a collector, as Unix time."
        )
        self.skew = gauge("clock_skew_seconds", "Collector's clock minus ours at its last upload.")
        self.insert_seconds = Histogram(
            f"{_PREFIX}_insert_seconds",
            "Time to write one batch to the store, all tables and the ledger.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.doubts = counter("doubts", "Batches that were probed before they were written.")
        self.refused = counter(
            "requests_refused", "Requests turned away before a batch was read.", "reason"
        )

    def engine(self, restarts: Callable[[], int], is_up: Callable[[], bool]) -> None:
        """Export the supervisor's state; called once."""
        gauge = Gauge(
            f"{_PREFIX}_engine_restarts", "Restarts of the bundled engine.", registry=self.registry
        )
        gauge.set_function(restarts)
        up = Gauge(f"{_PREFIX}_engine_up", "1 while the engine answers.", registry=self.registry)
        up.set_function(lambda: float(is_up()))

    def final(self, rows: Mapping[str, int], outcomes: Mapping[str, Mapping[str, int]]) -> None:
        """Rows of one batch by class, and what became of them by class and outcome."""
        for record_class, count in rows.items():
            self.received.labels(record_class).inc(count)
        for record_class, by_outcome in outcomes.items():
            for outcome, count in by_outcome.items():
                if count:
                    self.rows.labels(record_class, outcome).inc(count)

    def render(self) -> bytes:
        """Text for a scrape."""
        return generate_latest(self.registry)
