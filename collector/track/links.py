"""Readings of interface counters into `link` rows: one an interface and window, zeros included.

An interface is known by its index, so a new name keeps its counts. A new index is a new interface,
whose counters began at zero after the last reading; what an interface counted between the last
reading and its removal is gone, and a Loss says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from collector.track.boundary import SETTLE_NS, settle
from collector.wire.columns import Columns
from collector.wire.gaps import merge
from collector.wire.loss import Loss
from collector.wire.records import LINK, record_id

COUNTERS: Final = (
    "rx_bytes",
    "tx_bytes",
    "rx_packets",
    "tx_packets",
    "rx_errors",
    "tx_errors",
    "rx_drops",
    "tx_drops",
)
MAX_ROWS: Final = 65_536
"""Interfaces with a role in one window, removed ones included."""
_MAX_LOSSES: Final = 256


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """One interface. role: empty where it is not watched. counters: in the order of COUNTERS.

    header_bytes: of the link layer, which the byte counters have for each packet.
    """

    index: int
    name: str
    role: str
    counters: tuple[int, ...]
    carrier_changes: int
    speed_mbps: int
    header_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LinkReading:
    """All interfaces at one time. generation: the boot and namespace that the indices belong to.

    omitted: interfaces beyond what is read.
    """

    ts_ns: int
    generation: str
    links: tuple[LinkCounters, ...]
    omitted: int = 0


@dataclass(frozen=True, slots=True)
class LinksConfig:
    """window_ns: length of a window. settle_ns: see `boundary`."""

    window_ns: int = 300_000_000_000
    settle_ns: int = SETTLE_NS


@dataclass(slots=True)
class _Row:
    role: str
    since: int
    upto: int
    sums: list[int] = field(default_factory=lambda: [0] * len(COUNTERS))
    changes: int = 0
    speed_mbps: int = 0


class Links:
    """Open interval of every interface with a role.

    `counts` are received and sent bytes of those: seen = recorded + ignored + lost + open;
    ignored is what did not fit MAX_ROWS, lost stays 0 because losses are of unknown size.
    `access_layer3` is what access interfaces carried in this run less their link headers.
    """

    def __init__(self, config: LinksConfig) -> None:
        self._config = config
        self._generation: str | None = None
        self._read_ns = 0
        self._last: dict[int, LinkCounters] = {}
        self._rows: dict[str, _Row] = {}
        self._losses: list[Loss] = []
        self.counts: dict[str, int] = dict.fromkeys(
            ("seen", "recorded", "ignored", "lost", "open", "resets", "omitted"), 0
        ) | {"access_layer3": 0}

    def observe(self, reading: LinkReading) -> None:
        """Add what was counted since the last reading; the first of all is a baseline."""
        boundary_ns = settle(reading.ts_ns, self._config.window_ns, self._config.settle_ns)
        if boundary_ns < self._read_ns:
            boundary_ns = reading.ts_ns
        first = self._generation is None
        if not first and reading.generation != self._generation:
            self.counts["resets"] += 1
            self._lose(boundary_ns, "counter-reset", "collector")
            self._last = {}
        self.counts["omitted"] += reading.omitted
        for link in reading.links:
            last = link if first else self._last.get(link.index)
            if link.role:
                self._add(link, last, boundary_ns)
        seen = {link.index for link in reading.links}
        for index, gone in self._last.items():
            if index not in seen and gone.role:
                self._lose(boundary_ns, "interface-gone", f"interface:{gone.name}")
        self._last = {link.index: link for link in reading.links}
        self._generation, self._read_ns = reading.generation, boundary_ns

    def take(self, start_ns: int, end_ns: int, now_ns: int) -> dict[str, Columns]:
        """One row for each interface, from where its last row ended to the last reading."""
        present = {link.name for link in self._last.values() if link.role}
        for name, row in self._rows.items():
            if name not in present and any(row.sums):
                row.upto = max(row.upto, row.since + 1)  # no later reading will give it a length
        ready = {
            name: row
            for name, row in self._rows.items()
            if row.upto > row.since and not end_ns <= row.since < end_ns + self._config.window_ns
        }
        rows = list(ready.values())
        columns: dict[str, list[Any]] = {
            "record_id": [
                record_id(LINK.name, row.since, row.upto, name) for name, row in ready.items()
            ],
            "observed_ns": [now_ns] * len(rows),
            "start_ns": [row.since for row in rows],
            "end_ns": [row.upto for row in rows],
            "interface": list(ready),
            "role": [row.role for row in rows],
            **{name: [row.sums[i] for row in rows] for i, name in enumerate(COUNTERS)},
            "state_changes": [row.changes for row in rows],
            "speed_mbps": [row.speed_mbps for row in rows],
        }
        for name, row in ready.items():
            octets = row.sums[0] + row.sums[1]
            self.counts["recorded"] += octets
            self.counts["open"] -= octets
            if name in present:
                self._rows[name] = _Row(row.role, row.upto, row.upto)
        self._rows = {
            name: row
            for name, row in self._rows.items()
            if name in present or (row.upto > row.since and name not in ready)
        }
        return {LINK.name: columns}

    def take_losses(self) -> list[Loss]:
        """Losses since the last call."""
        losses, self._losses = self._losses, []
        return losses

    def snapshot(self) -> dict[str, object]:
        """The last reading and the open intervals."""
        return {
            "generation": self._generation,
            "read_ns": self._read_ns,
            "last": [
                [k.index, k.name, k.role, list(k.counters), k.carrier_changes, k.speed_mbps]
                for k in self._last.values()
            ],
            "rows": [
                [name, r.role, r.since, r.upto, r.sums, r.changes, r.speed_mbps]
                for name, r in self._rows.items()
            ],
        }

    def restore(self, snapshot: Mapping[str, Any], now_ns: int) -> None:
        """Go on where `snapshot` was taken; the kernel counted on meanwhile. ValueError if bad."""
        last = {
            index: LinkCounters(index, name, role, tuple(counters), changes, speed)
            for index, name, role, counters, changes, speed in snapshot["last"]
        }
        rows = {
            name: _Row(role, since, upto, list(sums), changes, speed)
            for name, role, since, upto, sums, changes, speed in snapshot["rows"]
        }
        sums = [each.counters for each in last.values()] + [row.sums for row in rows.values()]
        if any(len(each) != len(COUNTERS) for each in sums):
            raise ValueError("the link snapshot does not have the counters it should")
        self._last, self._rows = last, rows
        self._generation, self._read_ns = snapshot["generation"], int(snapshot["read_ns"])
        opened = sum(row.sums[0] + row.sums[1] for row in rows.values())
        self.counts["seen"] = self.counts["open"] = opened

    def _add(self, link: LinkCounters, last: LinkCounters | None, boundary_ns: int) -> None:
        zeros = (0,) * len(COUNTERS)
        base, changes = (last.counters, last.carrier_changes) if last else (zeros, 0)
        if any(new < old for new, old in zip(link.counters, base, strict=True)):
            base, changes = zeros, 0
            self.counts["resets"] += 1
            self._lose(boundary_ns, "counter-reset", f"interface:{link.name}")
        delta = [new - old for new, old in zip(link.counters, base, strict=True)]
        octets = delta[0] + delta[1]
        self.counts["seen"] += octets
        if link.role == "access":
            headers = link.header_bytes * (delta[2] + delta[3])
            self.counts["access_layer3"] += octets - headers
        row = self._rows.get(link.name)
        if row is None:
            if len(self._rows) >= MAX_ROWS:
                self.counts["ignored"] += octets
                return
            since = self._read_ns if self._generation is not None else boundary_ns
            row = self._rows[link.name] = _Row(link.role, since, since)
        if boundary_ns < row.upto:  # the clock was set back
            row.since = min(row.since, boundary_ns - 1)
        row.role, row.upto, row.speed_mbps = link.role, boundary_ns, link.speed_mbps
        row.sums = [old + new for old, new in zip(row.sums, delta, strict=True)]
        row.changes += max(link.carrier_changes - changes, 0)
        self.counts["open"] += octets

    def _lose(self, end_ns: int, reason: str, scope: str) -> None:
        start_ns = min(self._read_ns, end_ns)
        loss = Loss(start_ns, end_ns, "capture", reason, -1, "bytes", (LINK.name,), scope)
        self._losses.append(loss)
        if len(self._losses) > _MAX_LOSSES:
            self._losses = merge(self._losses, _MAX_LOSSES // 2)
