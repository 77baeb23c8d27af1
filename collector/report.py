"""The collector's counts in, the metrics snapshot out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collector.metrics import Snapshot
from collector.track.trackers import equation

if TYPE_CHECKING:
    from collector.service import Collector

_FATES = ("committed", "acknowledged", "pending", "dropped", "dead")


def publish(collector: Collector) -> None:
    """Hand the newest counts to whoever scrapes."""
    stages = {name: equation(counts) for name, counts in collector.observer.counts.items()}
    stages |= collector.trackers.stages()
    stages["capture"] = equation(collector.sources.counts)
    stages["conntrack"] = equation(collector.conntrack.counts)
    stages["decode"] = equation(collector.decoder.counts)
    stages["window-rows"] = equation(collector.window.counts)
    spool = collector.spool.counts
    fates = {
        f"{kind}-{fate}": spool[f"{fate}{suffix}"]
        for fate in _FATES
        for kind, suffix in (("batches", ""), ("rows", "_rows"))
    }
    volume, links = collector.trackers.volume, collector.trackers.links
    fill = max((each.elements / max(each.size, 1) for each in volume.fill), default=0.0)
    collector.metrics.publish(
        Snapshot(
            stages=stages,
            rows=dict(collector.rows),
            gaps=dict(collector.gaps),
            spool=fates,
            octets={
                ("metered", "both"): volume.counts["seen"],
                ("interfaces", "both"): links.counts["seen"],
            },
            gauges={
                "spool_bytes": collector.spool.pending_bytes,
                "spool_batches": collector.spool.pending_batches,
                "spool_fill_ratio": collector.spool.fill_ratio,
                "set_fill_ratio": fill,
                "uplink_up": float(collector.uplink.state in ("idle", "sending")),
                "uplink_last_receipt_timestamp_seconds": collector.uplink.last_success_ns / 1e9,
                "window_end_timestamp_seconds": collector.window.start_ns / 1e9,
                "sessions_open": collector.trackers.sessions.open_sessions,
                "calls_open": collector.trackers.calls.open_legs,
                "start_timestamp_seconds": collector.started_ns / 1e9,
            },
        )
    )
