"""A table name and a partition number in, whether it takes no more rows out: as ingest asks it.

The retention service publishes for each class the first partition that is still open. Ingest asks
the table and never the service, so that neither needs the other to run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from aggregator.store.client import Client

MAX_AGE_S: Final = 60.0
"""How old an answer may be. A partition is destroyed a day after it is closed, so that no row of a
batch judged by an old answer can still be on its way then."""

FIRST_OPEN: Final = (
    "SELECT record_class, argMax(first_open, version) AS first, max(version) AS newest"
    " FROM closed_partitions GROUP BY record_class"
)


class ClosedPartitions:
    """Callable as `writer.Closed`. Raises StoreError where the table cannot be read: the batch is
    then tried again, as a row in a partition that was closed would outlive its period."""

    def __init__(self, client: Client, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._first_open: dict[str, int] = {}
        self._until = float("-inf")

    def __call__(self, table: str, partition: int) -> bool:
        with self._lock:
            asked = self._monotonic()
            if asked >= self._until:
                found = self._client.query_columns(FIRST_OPEN)
                self._first_open = dict(zip(found["record_class"], found["first"], strict=True))
                self._until = asked + MAX_AGE_S
            return partition < self._first_open.get(table, 0)
