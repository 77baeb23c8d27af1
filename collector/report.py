"""The collector's counts in, the metrics snapshot out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from collector.metrics import Snapshot
from collector.track.trackers import equation
from collector.window import Piece
from collector.wire.batch import Header
from collector.wire.gaps import losses_of
from collector.wire.records import GAP

if TYPE_CHECKING:
    from collector.service import Collector

_FATES: Final = ("committed", "acknowledged", "dropped", "dead")
_REQUESTS: Final = ("accepted", "duplicate", "gap", "rejected", "retried", "abandoned")
_DELIVERY: Final = ("deferred", "switched_off")


def publish(collector: Collector) -> None:
    """Hand the newest counts to whoever scrapes."""
    volume, spool, uplink = collector.trackers.volume, collector.spool.counts, collector.uplink
    conntrack = collector.conntrack
    blocks, shared = collector.trackers.flows.blocks
    collector.metrics.publish(
        Snapshot(
            stages=stages(collector),
            rows=dict(collector.rows),
            gaps=dict(collector.gaps),
            batches={fate: spool[fate] for fate in _FATES},
            spool_rows={fate: spool[f"{fate}_rows"] for fate in _FATES},
            reconciled=dict(collector.trackers.reconciled),
            delivery={event: conntrack.counts[event] for event in _DELIVERY},
            requests={outcome: uplink.counts[outcome] for outcome in _REQUESTS},
            gauges={
                "spool_bytes": collector.spool.pending_bytes,
                "spool_pending_batches": spool["pending"],
                "spool_pending_rows": spool["pending_rows"],
                "spool_fill_ratio": collector.spool.fill_ratio,
                "set_fill_ratio": collector.counters.fill_ratio(volume.fill),
                "uplink_up": float(uplink.state != "stopped" and not uplink.last_error),
                "uplink_last_receipt_timestamp_seconds": uplink.last_success_ns / 1e9,
                "window_end_timestamp_seconds": collector.window.start_ns / 1e9,
                "sessions_open": collector.trackers.sessions.open_sessions,
                "calls_open": collector.trackers.calls.open_legs,
                "captured_interfaces": collector.sources.captured,
                "unheard_interfaces": collector.sources.refused,
                "conntrack_reliable": float(conntrack.is_reliable),
                "nat_ranges_open": blocks,
                "nat_ranges_shared": shared,
                "start_timestamp_seconds": collector.started_ns / 1e9,
            },
        )
    )


def tally(collector: Collector, headers: Sequence[Header], pieces: Sequence[Piece]) -> None:
    """Count the rows of a committed window by class, and its gaps by stage and reason.

    What the spool added is known from the headers alone: losses of batches that it dropped, and
    those that such batches carried. They are ("spool", "carried"), so that gaps and rows agree.
    """
    rows: Counter[str] = Counter()
    for header in headers:
        for section in header.sections:
            rows[section.record_class] += section.rows
    collector.rows.update(rows)
    told = [
        (loss.stage, loss.reason)
        for piece in pieces
        if GAP.name in piece.columns
        for loss in losses_of(piece.columns[GAP.name])
    ]
    collector.gaps.update(told)
    if rows[GAP.name] > len(told):
        collector.gaps["spool", "carried"] += rows[GAP.name] - len(told)


def stages(collector: Collector) -> dict[str, dict[str, int]]:
    """The terms of the conservation equation of every stage, in the order of the pipeline."""
    return {
        "capture": equation(collector.sources.counts),
        "conntrack": equation(collector.conntrack.counts),
        "decode": equation(collector.decoder.counts),
        "detail": equation(collector.details.counts),
        "exports": equation(collector.exports.counts),
        **{name: equation(counts) for name, counts in collector.observer.counts.items()},
        **collector.trackers.stages(),
        "outside-bytes": equation(collector.counters.counts),
        "window-rows": equation(collector.window.counts),
    }
