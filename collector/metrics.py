"""The collector's state in, what Prometheus scrapes out.

The service replaces one immutable `Snapshot` a second; a scrape only ever reads the last one, so
it never waits for the packet path nor disturbs it. No label carries a subscriber, an address, a
host or a number: stages, outcomes, record classes, interfaces' roles and reasons only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector as RegistryCollector

_PREFIX: Final = "tallyhold_collector"


class MetricsUnavailable(OSError):
    """The metrics address cannot be listened on; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment of the collector.

    stages: per stage the terms of the conservation equation (seen = recorded + ignored + lost +
    open) and "malformed", which is part of what was ignored. rows: records spooled by class.
    gaps: gap records spooled, by (stage, reason). batches, spool_rows: what became of them.
    reconciled: layer-3 bytes by who counted them. delivery: what became of flow events without
    room. requests: of the uplink, by outcome. gauges: plain values by the names in GAUGES.
    """

    stages: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    gaps: Mapping[tuple[str, str], int] = field(default_factory=dict)
    batches: Mapping[str, int] = field(default_factory=dict)
    spool_rows: Mapping[str, int] = field(default_factory=dict)
    reconciled: Mapping[str, int] = field(default_factory=dict)
    delivery: Mapping[str, int] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)
    gauges: Mapping[str, float] = field(default_factory=dict)


OUTCOMES: Final = ("seen", "recorded", "ignored", "lost")
"""The terms of the equation that only grow; what is open now is a gauge."""
GAUGES: Final[dict[str, str]] = {
    "spool_bytes": "bytes waiting in the spool",
    "spool_pending_batches": "batches waiting in the spool",
    "spool_pending_rows": "rows of the batches waiting in the spool",
    "spool_fill_ratio": "share of the spool's limit in use, 0 to 1",
    "set_fill_ratio": "share in use of the fullest set smaller than its prefixes, 0 to 1",
    "uplink_up": "1 when the last upload was acknowledged",
    "uplink_last_receipt_timestamp_seconds": "when the aggregator last gave a receipt",
    "window_end_timestamp_seconds": "end of the newest closed window",
    "sessions_open": "access sessions open now",
    "calls_open": "calls open now",
    "captured_interfaces": "interfaces whose packets are read now",
    "unheard_interfaces": "interfaces that match but are beyond the limit of packet sockets",
    "conntrack_reliable": "1 while the kernel keeps flow events that find no room for later",
    "nat_ranges_open": "ranges of public ports in use, where NAT is recorded by range",
    "nat_ranges_shared": "those of them in which two subscribers had flows at one time",
    "start_timestamp_seconds": "when this collector started",
}


class Metrics(RegistryCollector):
    """Serves the newest snapshot. Inert until `start`; `publish` may be called at any time."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._snapshot = Snapshot()
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port listened on; differs from the configured one only where that was 0."""
        return self._server.server_port if self._server else self._address[1]

    def publish(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def start(self) -> None:
        host, port = self._address
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise MetricsUnavailable(
                f"cannot listen on {host}:{port} for metrics: {error.strerror}; "
                "stop what uses it or set metrics.listen to a free address"
            ) from None

    def stop(self) -> None:
        if self._server and self._thread:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = self._thread = None

    def collect(self) -> Iterator[Metric]:
        now = self._snapshot
        stages = now.stages.items()
        yield _counter(
            "units",
            "units by stage and outcome: seen = recorded + ignored + lost + units_open",
            ("stage", "outcome"),
            {(stage, o): counts[o] for stage, counts in stages for o in OUTCOMES},
        )
        yield _gauge(
            "units_open",
            "units that a stage holds until it knows more",
            ("stage",),
            {(stage,): counts["open"] for stage, counts in stages},
        )
        yield _counter(
            "units_malformed",
            "those of the ignored units that could not be read",
            ("stage",),
            {(stage,): counts["malformed"] for stage, counts in stages},
        )
        yield _counter("rows", "records spooled", ("record_class",), _keyed(now.rows))
        yield _counter("gaps", "gap records spooled", ("stage", "reason"), now.gaps)
        yield _counter(
            "spool_batches",
            "committed = acknowledged + dropped + dead + spool_pending_batches",
            ("fate",),
            _keyed(now.batches),
        )
        yield _counter(
            "spool_rows",
            "rows of those batches: committed = acknowledged + dropped + dead + spool_pending_rows",
            ("fate",),
            _keyed(now.spool_rows),
        )
        yield _counter(
            "reconciled_bytes",
            "layer-3 bytes at the newest window's end: interfaces >= sets >= flows",
            ("stage",),
            _keyed(now.reconciled),
        )
        yield _counter(
            "conntrack_delivery",
            "times that a flow event was deferred, and that reliable delivery was switched_off",
            ("event",),
            _keyed(now.delivery),
        )
        yield _counter("uplink_requests", "uploads by outcome", ("outcome",), _keyed(now.requests))
        for name, value in now.gauges.items():
            yield GaugeMetricFamily(f"{_PREFIX}_{name}", GAUGES[name], value=value)


def _counter(
    name: str, doc: str, labels: tuple[str, ...], values: Mapping[Any, int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"{_PREFIX}_{name}", doc, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), float(value))
    return family


def _gauge(
    name: str, doc: str, labels: tuple[str, ...], values: Mapping[Any, int]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"{_PREFIX}_{name}", doc, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), float(value))
    return family


def _keyed(values: Mapping[str, int]) -> dict[tuple[str, ...], int]:
    return {(key,): value for key, value in values.items()}
