"""The bytes of one upload in, stored rows and a receipt out.

Peek, decide, decode, attribute, derive, write, enter in the ledger: a straight line without I/O
of its own but the store's. It runs in a worker thread, one batch of a collector at a time. A
receipt that frees the collector's copy is made only after the ledger's row was acknowledged;
whatever the store refuses ends in `retry`, because the rows still exist in the spool alone.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pyarrow as pa

from aggregator.ingest.budget import Budget
from aggregator.ingest.columns import Array, lists, provenance, stored_columns, text_column
from aggregator.ingest.demand import DEFAULT_K, Areas, demand
from aggregator.ingest.ledger import Ledger
from aggregator.ingest.protocol import (
    Accept,
    Decision,
    Duplicate,
    Gap,
    check_clock,
    check_identity,
    check_schema,
    decide,
)
from aggregator.ingest.releases import DAY_US
from aggregator.metrics import Metrics
from aggregator.store.client import Client, Refused, StoreError, Unavailable
from aggregator.store.schema import DEMAND, RECORD_TABLES
from aggregator.store.writer import BadTimes, Closed, Writer, Written, never_closed, partitions
from collector.wire.batch import MAX_CLOCK_SKEW_NS, BatchError, Header, Receipt
from collector.wire.codec import decode, peek, record_batch
from collector.wire.columns import concat
from collector.wire.gaps import gap_columns
from collector.wire.loss import Loss
from collector.wire.releases import MICRO

log = logging.getLogger(__name__)

Tables = dict[str, dict[str, Array]]

_INTERVALS: Final = {
    "usage": ("start_us", "end_us"),
    "visit": ("first_us", "last_us"),
    "call": ("start_us", "start_us"),
}
"""The interval by which a row is attributed: that of a call is the instant it began."""
_MAX_AHEAD_US: Final = 86_400_000_000
"""A row may lie this far past the end of its batch's window (a day slice's end, rounding)."""
_NO_BATCH: Final = "0" * 32
_BATCH: Final = re.compile(r"[0-9a-f]{32}")


class Attributor(Protocol):
    """Who held an address when. Columns are lists; times are microseconds, `valid_to_us` 0 open.

    apply: bindings of a collector, columns record_id, observed_us, subscriber, address,
    prefix_len, valid_from_us, valid_to_us. attribute: subscribers and reasons, one for each row.
    Both are called from several threads.
    """

    def apply(self, collector: str, bindings: Mapping[str, Sequence[Any]]) -> None: ...

    def attribute(
        self,
        collector: str,
        address: Sequence[bytes],
        prefix_len: Sequence[int],
        start_us: Sequence[int],
        end_us: Sequence[int],
    ) -> tuple[list[str], list[str]]: ...


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """tolerance_ns: clock difference at upload. k: fewest lines whose number may be shown.

    epsilon_micro: what SafeGuard may cost a household on a day of `day_us`, in millionths of ε.
    """

    tolerance_ns: int = MAX_CLOCK_SKEW_NS
    k: int = DEFAULT_K
    epsilon_micro: int = MICRO
    day_us: int = DAY_US


class Pipeline:
    """Takes batches. Calls for one collector must not overlap; for several they may."""

    def __init__(
        self,
        client: Client,
        attributor: Attributor,
        areas: Areas,
        metrics: Metrics,
        config: PipelineConfig | None = None,
        *,
        closed: Closed = never_closed,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self.config = config or PipelineConfig()
        self.ledger = Ledger(client)
        self._budget = Budget(client, self.config.epsilon_micro, self.config.day_us)
        self._attributor = attributor
        self._areas = areas
        self._metrics = metrics
        self._now = now
        tables = {**RECORD_TABLES, "demand": DEMAND}
        self._writers = {name: Writer(client, table, closed) for name, table in tables.items()}
        self._seen: dict[str, int] = {}
        self._seen_lock = threading.Lock()

    def take(
        self,
        data: bytes | memoryview,
        *,
        identity: str,
        sent_ns: int,
        arrived_ns: int,
        claimed: str = "",
    ) -> Receipt:
        """The receipt of one upload; raises nothing that an upload or the store can cause.

        identity: name in the certificate. claimed: batch id the request named, to answer with
        where the bytes themselves name none.
        """
        claimed = claimed if _BATCH.fullmatch(claimed) else _NO_BATCH
        try:
            header = peek(data)
        except BatchError as error:
            return self._answer(identity, None, claimed, "reject", error.reason, str(error))
        try:
            return self._take(header, data, identity, sent_ns, arrived_ns)
        except (BatchError, BadTimes) as error:
            reason = error.reason if isinstance(error, BatchError) else "time"
            return self._answer(identity, header, header.batch, "reject", reason, str(error))
        except StoreError as error:
            return self._store_failed(identity, header, error)

    def _take(
        self, header: Header, data: bytes | memoryview, identity: str, sent_ns: int, arrived_ns: int
    ) -> Receipt:
        tolerance = self.config.tolerance_ns
        early: Decision | None = (
            check_identity(header, identity)
            or check_schema(header)
            or check_clock(arrived_ns, sent_ns, tolerance)
        )
        self._metrics.skew.labels(identity).set((sent_ns - arrived_ns) / 1e9)
        decision = early or decide(
            header,
            self.ledger.state(header),
            now_ns=arrived_ns,
            sent_ns=sent_ns,
            identity=identity,
            tolerance_ns=tolerance,
        )
        if not isinstance(decision, Accept | Gap):
            if isinstance(decision, Duplicate):
                self.ledger.settle(header.collector)
            return self._answer(
                identity, header, header.batch, decision.verdict, decision.reason, decision.message
            )
        _, batches = decode(data)
        tables, losses = self._prepare(header, batches, decision)
        written = self._store(header, tables, decision.verdict)
        self._count(header, written, losses)
        return self._answer(
            identity, header, header.batch, decision.verdict, decision.reason, decision.message
        )

    # From Arrow to what the tables hold

    def _prepare(
        self, header: Header, batches: Mapping[str, pa.RecordBatch], decision: Accept | Gap
    ) -> tuple[Tables, int]:
        """Every table's columns, checked; and how many gap rows were added."""
        guarded = batches.keys() & {"block_count", "safeguard_ledger"}
        self._budget.check(header, {name: stored_columns(batches[name]) for name in guarded})
        losses: list[Loss] = [decision.loss] if isinstance(decision, Gap) else []
        if losses:
            # The time of writing comes from the batch, so that a retry writes the same row.
            more = record_batch("gap", gap_columns(losses, header.created_ns))
            known = batches.get("gap")
            joined = [more] if known is None else [known, more]
            batches = {**batches, "gap": concat(joined)}
        tables: Tables = {}
        for name in RECORD_TABLES:  # bindings come first
            if name not in batches:
                continue
            columns = stored_columns(batches[name])
            if name == "binding":
                self._attributor.apply(header.collector, lists(columns))
            if name in _INTERVALS:
                self._attribute(name, header.collector, columns)
            tables[name] = columns
        if "usage" in tables:
            tables["demand"] = demand(tables["usage"], self._areas, self.config.k)
        latest = header.window_end_ns // 1000 + _MAX_AHEAD_US
        for name, columns in tables.items():
            columns.update(provenance(header, len(next(iter(columns.values())))))
            table = self._writers[name].table
            if int(columns[table.time].max()) > latest:
                raise BadTimes(f"{name}: a time more than a day after the batch's window")
            partitions(table, columns)
        return tables, len(losses)

    def _attribute(self, name: str, collector: str, columns: dict[str, Array]) -> None:
        start, end = _INTERVALS[name]
        subscribers, reasons = self._attributor.attribute(
            collector,
            columns["address"].tolist(),
            columns["prefix_len"].tolist(),
            columns[start].tolist(),
            columns[end].tolist(),
        )
        columns["subscriber"] = text_column(subscribers)
        columns["reason"] = text_column(reasons)
        for reason in set(reasons):
            self._metrics.unattributed.labels(name, reason).inc(reasons.count(reason))

    # Into the store

    def _store(self, header: Header, tables: Tables, verdict: str) -> dict[str, Written]:
        """Write all tables and then the ledger; the collector is in doubt until all is in."""
        in_doubt = self.ledger.in_doubt(header.collector)
        if in_doubt:
            self._metrics.doubts.inc()
        self.ledger.doubt(header.collector)
        with self._metrics.insert_seconds.time():
            written = {
                name: self._writers[name].write(columns, header.batch, in_doubt=in_doubt)
                for name, columns in tables.items()
            }
            self.ledger.record(header, verdict=verdict, rows=header.rows, received_ns=self._now())
        self.ledger.settle(header.collector)
        return written

    def _count(self, header: Header, written: Mapping[str, Written], losses: int) -> None:
        """Rows by outcome; those added here are not the collector's and count as derived."""
        rows = {section.record_class: section.rows for section in header.sections}
        outcomes: dict[str, dict[str, int]] = {}
        for name, count in rows.items():
            late = min(written[name].late, count)
            outcomes[name] = {"stored": count - late, "late": late}
        self._metrics.final(rows, outcomes)
        if losses:
            self._metrics.derived.labels("gap").inc(losses)
        if "demand" in written:
            self._metrics.derived.labels("demand").inc(written["demand"].rows)
        with self._seen_lock:
            newest = max(self._seen.get(header.collector, 0), header.window_end_ns)
            self._seen[header.collector] = newest
        self._metrics.watermark.labels(header.collector).set(newest / 1e9)
        self._metrics.lag.labels(header.collector).set((self._now() - newest) / 1e9)

    # Answers

    def _store_failed(self, identity: str, header: Header, error: StoreError) -> Receipt:
        """The store's own words go to the log; they hold no values of rows."""
        if isinstance(error, Unavailable):
            reason, text = "store-unavailable", "the store does not answer; the batch is kept"
        elif isinstance(error, Refused):
            reason, text = "store-refused", "the store refuses writes; see the aggregator's log"
        else:
            reason, text = "store-error", "the store failed; see the aggregator's log"
        log.warning("batch %s of %s: %s", header.batch, identity, error)
        return self._answer(identity, header, header.batch, "retry", reason, text)

    def _answer(
        self,
        identity: str,
        header: Header | None,
        batch: str,
        verdict: str,
        reason: str,
        message: str,
    ) -> Receipt:
        rows = header.rows if header is not None else 0
        self._metrics.batches.labels(identity, verdict, reason).inc()
        if reason == "missing-batches" and header is not None:
            self._metrics.missing.labels(identity).inc()
        if header is not None and verdict in ("duplicate", "reject"):
            by_class = {section.record_class: section.rows for section in header.sections}
            outcome = "duplicate" if verdict == "duplicate" else "rejected"
            self._metrics.final(by_class, {n: {outcome: c} for n, c in by_class.items()})
        if verdict == "reject":
            log.error("batch %s of %s rejected, %s: %s", batch, identity, reason, message)
        return Receipt(batch, verdict, reason, message, rows)
