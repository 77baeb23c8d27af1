"""What was taken from whom: the ledger in ClickHouse, and the doubt about attempts that broke.

The ledger is read from the store for every batch, never from memory, so that several aggregators
can serve one collector in turn. A row goes in after every block of its batch was acknowledged;
what is in the ledger is stored, what is not may be stored in part. Until a collector's first batch
since the start has gone through whole, and after every attempt that did not, its batches are in
doubt and are probed before they are written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from aggregator.ingest.protocol import LedgerState
from aggregator.store.client import Client, Unavailable
from collector.wire.batch import Header

WAIT_S: Final = 60.0
"""How long to wait for the inserts of an earlier attempt at the same batch."""
_POLL_S: Final = 0.1

_STATE: Final = """
SELECT max(sequence) AS last, argMax(window_end_us, sequence) AS last_end,
       maxIf(hex(batch), sequence = %(sequence)s) AS here
FROM ingest_ledger
WHERE collector = %(collector)s AND epoch = %(epoch)s"""


class Ledger:
    """Reads and writes the ledger; remembers which collectors are beyond doubt."""

    def __init__(
        self,
        client: Client,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = threading.Lock()
        self._settled: set[str] = set()

    def in_doubt(self, collector: str) -> bool:
        """True unless the last attempt of this collector since the start went through whole."""
        with self._lock:
            return collector not in self._settled

    def doubt(self, collector: str) -> None:
        """An attempt begins: until `settle` its outcome is unknown."""
        with self._lock:
            self._settled.discard(collector)

    def settle(self, collector: str) -> None:
        """The attempt is whole: everything and the ledger's row were acknowledged."""
        with self._lock:
            self._settled.add(collector)

    def state(self, header: Header) -> LedgerState:
        """What the ledger knows of the batch's epoch and sequence number.

        In doubt, first waits for inserts of the same batch that may still be under way: one of
        them may be the ledger's own row.
        """
        if self.in_doubt(header.collector):
            self.await_quiet(header.batch)
        found = self._client.query_columns(
            _STATE,
            {
                "collector": header.collector,
                "epoch": header.epoch,
                "sequence": header.sequence,
            },
        )
        return LedgerState(
            last=int(found["last"][0]),
            last_end_ns=int(found["last_end"][0]) * 1000,
            at_sequence=str(found["here"][0]).lower(),
        )

    def record(self, header: Header, *, verdict: str, rows: int, received_ns: int) -> None:
        """Write the batch's row; its acknowledgement is what lets the receipt go."""
        self._client.insert(
            "ingest_ledger",
            {
                "collector": [header.collector],
                "epoch": [header.epoch],
                "sequence": [header.sequence],
                "batch": [bytes.fromhex(header.batch)],
                "sha256": [header.sha256],
                "rows": [rows],
                "window_start_us": [header.window_start_ns // 1000],
                "window_end_us": [header.window_end_ns // 1000],
                "received_us": [received_ns // 1000],
                "verdict": [verdict],
                "lag_us": [(received_ns - header.window_end_ns) // 1000],
            },
            f"ingest-ingest_ledger-{header.batch}",
        )

    def await_quiet(self, batch: str) -> None:
        """Return once no insert of this batch is running; raises Unavailable after WAIT_S."""
        deadline = self._monotonic() + WAIT_S
        while True:
            running = self._client.query_columns(
                "SELECT count() AS n FROM system.processes WHERE query_id LIKE %(pattern)s",
                {"pattern": f"ingest-%-{batch}%"},
            )
            if not running["n"][0]:
                return
            if self._monotonic() > deadline:
                raise Unavailable(f"an earlier insert of batch {batch} is still being written")
            self._sleep(_POLL_S)
