"""Flow exports of hardware routers: turns their datagrams into `usage` and `mapping` rows.

Where this machine forwards nothing itself, a router's NetFlow or IPFIX is what there is. Driven by
`datagram`, `changed` (an address changed hands) and `take`. Nothing of it is journalled: sequence
numbers in the state tell a restart what was taken in and not committed, to the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from collector.track.export_mappings import ExportMappings
from collector.track.export_usage import ExportUsage
from collector.track.exporters import CLASSES, Exported, Exporters
from collector.track.inside import Prefixes
from collector.track.session_bindings import BindingChange
from collector.wire.columns import Columns
from collector.wire.loss import Loss

__all__ = ["Exported", "Exports", "ExportsConfig"]

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class ExportsConfig:
    """access: subscribers' prefixes. usage: whether exported flows count as usage; they must not
    where the kernel's counters see the same traffic."""

    access: tuple[tuple[bytes, int], ...]
    ipv6_prefix_len: int = 64
    usage: bool = True


class Exports:
    """Everything that exporters told, until the window takes it."""

    def __init__(self, config: ExportsConfig) -> None:
        access = Prefixes(config.access)
        self._counts_usage = config.usage
        self._exporters = Exporters()
        self._usage = ExportUsage(access, config.ipv6_prefix_len)
        self._mappings = ExportMappings(access)
        self._heard_ns = 0
        self._lost = 0

    @property
    def counts(self) -> Mapping[str, int]:
        """Data records: seen = recorded + ignored + lost; see `Exporters`."""
        return self._exporters.counts

    @property
    def mappings(self) -> ExportMappings:
        """Open mappings and counts of NAT events."""
        return self._mappings

    def datagram(self, event: Exported) -> None:
        """Takes one datagram in."""
        self._heard_ns = max(self._heard_ns, event.ts_ns)
        for rows in self._exporters.datagram(event):
            is_event = rows["event"] > 0
            if is_event.any():
                self._mappings.events(rows[is_event], event.ts_ns)
            flows = rows[~is_event]
            if len(flows):
                self._mappings.flows(flows, event.ts_ns)
                if self._counts_usage:
                    self._usage.add(flows, event.ts_ns)

    def changed(self, changes: list[BindingChange]) -> None:
        """Addresses that began or ceased to be a subscriber's: their rows are split there."""
        for change in changes:
            self._usage.changed(change.address, change.ts_ns)

    def take(self, start_ns: int, end_ns: int, now_ns: int) -> dict[str, Columns]:
        """Rows of the window that closes."""
        return {
            "usage": self._usage.take(end_ns, now_ns),
            "mapping": self._mappings.take(end_ns, now_ns, self._heard_ns),
        }

    def take_losses(self) -> list[Loss]:
        """Losses since the last call."""
        found = self._exporters.take_losses()
        lost = self._mappings.counts["lost"] + self._usage.dropped
        if lost > self._lost:
            amount, self._lost = lost - self._lost, lost
            at = self._heard_ns
            found.append(Loss(at, at + 1, "export", "table-full", amount, "events", CLASSES))
        return found

    def snapshot(self) -> dict[str, object]:
        """JSON-able state; take it where a window closes, after `take`."""
        return {
            "version": VERSION,
            "exporters": self._exporters.snapshot(),
            "mappings": self._mappings.snapshot(),
            "heard_ns": self._heard_ns,
        }

    def restore(self, snapshot: Mapping[str, Any], now_ns: int) -> None:
        """Takes over a snapshot; raises ValueError, KeyError or TypeError for anything else."""
        if snapshot["version"] != VERSION:
            raise ValueError("the state of exports is of another version")
        self._exporters.restore(snapshot["exporters"])
        self._mappings.restore(snapshot["mappings"])
        self._heard_ns = int(snapshot["heard_ns"])
