"""State of the retention service in, Prometheus series out. No label ever names a person or thing.

Labels are steps, actions, outcomes, statuses and record classes, all of closed sets. What a person
must act on is a gauge of its own, and has an alert in deploy/prometheus.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from retention.holds.rules import Ending

_PREFIX: Final = "tallyhold_retention"


@dataclass(frozen=True, slots=True)
class State:
    """What the scheduler found last; each field is a gauge, with its text."""

    engine_up: bool = False
    clock_trusted: bool = False
    log_settled: bool = True
    unsettled: int = 0
    unwired_tables: int = 0
    due_partitions: int = 0
    overdue_partitions: int = 0
    oldest_seconds: float = 0.0
    late_slots_kept: int = 0
    holds_protecting: int = 0
    approvals_waiting: int = 0
    approval_seconds_left: float = float("inf")
    reviews_overdue: int = 0
    hold_problems: int = 0
    certificates_pending: int = 0
    certificate_oldest_seconds: float = 0.0
    evidence_findings: int = 0


_HELP: Final[Mapping[str, str]] = {
    "engine_up": "1 while the storage engine answers.",
    "clock_trusted": "1 while the clock is trusted; else nothing is destroyed.",
    "log_settled": "1 while the audit log has every leaf.",
    "unsettled": "Purges and sweeps without an outcome; holds cannot change meanwhile.",
    "unwired_tables": "Tables of the database that no policy and no exemption names.",
    "due_partitions": "Places that may be destroyed and are not yet.",
    "overdue_partitions": "Places past the last instant at which they had to be destroyed.",
    "oldest_seconds": "From the end of its period to now, of the oldest live partition; or 0.",
    "late_slots_kept": "Slots of late rows that could not be swept, and are there still.",
    "holds_protecting": "Holds that protect.",
    "approvals_waiting": "Holds that nobody has approved yet.",
    "approval_seconds_left": "Until the first of them lapses.",
    "reviews_overdue": "Holds past the day on which somebody had to look at them again.",
    "hold_problems": "Holds that could not be resolved again; what they lead to may go.",
    "certificates_pending": "Purges whose physical verification is not finished.",
    "certificate_oldest_seconds": "Since the drop of the oldest of them; or 0.",
    "evidence_findings": "Held rows that are missing or changed, and the like, at the last look.",
}


class Metrics:
    """One registry with every series of the retention service."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()

        def counter(name: str, doc: str, *labels: str) -> Counter:
            return Counter(f"{_PREFIX}_{name}", doc, labels, registry=self.registry)

        def gauge(name: str, doc: str) -> Gauge:
            return Gauge(f"{_PREFIX}_{name}", doc, registry=self.registry)

        self._state = {each.name: gauge(each.name, _HELP[each.name]) for each in fields(State)}
        self.start = gauge("start_timestamp_seconds", "When the service started, Unix time.")
        self.last_tick = gauge("last_tick_timestamp_seconds", "When the last round ended.")
        self.last_purge = gauge(
            "last_purge_timestamp_seconds", "When a run of the purge last came to its end."
        )
        self.last_evidence = gauge(
            "last_evidence_timestamp_seconds", "When everything held was last counted again."
        )
        self.safeguard_findings = gauge(
            "safeguard_findings", "Privacy ledger: what its table and the log have differently."
        )
        self.places = counter("places", "Places of runs by outcome.", "outcome")
        self.rows = counter("rows_destroyed", "Rows destroyed by purges.", "record_class")
        self.late = counter("late_rows", "Late rows swept: preserved or destroyed.", "outcome")
        self.ended = counter("holds_ended", "Holds that time has ended, and how.", "ending")
        self.failures = counter("step_failures", "Steps of a round that failed.", "step")
        self.requests = counter("requests", "Requests answered.", "action", "status")
        self.turned_away = counter(
            "turned_away", "Refusals and failed logins, written to the log or beyond its limit.",
            "kind", "written",
        )  # fmt: skip
        for ending in Ending:  # at 0 from the start, so that the first one is an increase
            self.ended.labels(ending.value)
        self.set(State())

    def set(self, state: State) -> None:
        """Show a new state."""
        for name, gauge in self._state.items():
            gauge.set(float(getattr(state, name)))

    def answered(self, action: str, status: int) -> None:
        """Count one answered request."""
        self.requests.labels(action, str(status)).inc()

    def refused(self, kind: str, is_written: bool) -> None:
        """Count one refusal or failed login."""
        self.turned_away.labels(kind, "yes" if is_written else "no").inc()

    def render(self) -> bytes:
        """Text for a scrape."""
        return generate_latest(self.registry)
