"""`python -m tests.lab.leaky collector run --config …`: a collector with faults planted in it.

It does what SafeGuard promises never to do, each thing once: it keeps who was told of a block, says
so in its log, counts it in a metric, and writes a tag into its state. The product has no switch for
any of this; here its parts are replaced before it starts.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, Metric

import tallyhold
from collector import metrics
from collector.track.safeguard.tracker import SafeGuard

_KEPT: Final[list[Any]] = []
"""What stays in memory: the messages of blocked look-ups."""


def plant() -> None:
    """Replace what counts, what is kept of it, and the metrics page."""
    blocked, snapshot, collect = SafeGuard.blocked, SafeGuard.snapshot, metrics.Metrics.collect

    def telling(self: SafeGuard, event: Any) -> None:
        client = event.client
        text = socket.inet_ntop(socket.AF_INET6, client)
        _KEPT.append((bytes(client), text))
        logging.getLogger("collector").warning("blocked: %s", text)
        blocked(self, event)

    def tagged(self: SafeGuard) -> dict[str, object]:
        return {**snapshot(self), "tags": [client.hex() for client, _ in _KEPT]}

    def counted(self: metrics.Metrics) -> Iterator[Metric]:
        yield from collect(self)
        yield CounterMetricFamily("tallyhold_collector_answers", "planted", value=len(_KEPT))

    SafeGuard.blocked = telling  # type: ignore[method-assign]
    SafeGuard.snapshot = tagged  # type: ignore[method-assign]
    metrics.Metrics.collect = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    plant()
    tallyhold.main()
