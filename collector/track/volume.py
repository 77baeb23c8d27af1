"""Readings of the kernel's cumulative counters into `usage` rows, exact to the byte.

Differences are taken between readings of one generation of counters, so a row is what the kernel
counted in the row's interval: nothing is sampled, and what happened while no collector ran is in
the first reading after it. The sum of all rows, the open intervals and the baseline is always the
sum of what the counters have counted.

Rules
1. The first reading of all is a baseline, not usage, unless `begin` said when the table was made.
2. An address the last reading did not have began at zero after that reading.
3. An address that a reading lacks has no news; its interval goes on.
4. A counter that went down, or another generation, began again at zero: its value is usage since
   then. What was counted between the last reading and then is gone: USAGE_COUNTER_RESET, a Loss.
5. Where a binding changes the interval is split at the sample taken then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collector.track.boundary import settle
from collector.track.volume_config import VolumeConfig
from collector.track.volume_reading import Fill, Reading, Sample
from collector.track.volume_rows import COUNTERS, Closed, columns_of
from collector.track.volume_table import Advance, Slot, Table
from collector.wire.columns import Columns
from collector.wire.gaps import merge
from collector.wire.loss import Loss
from collector.wire.records import USAGE, USAGE_ACROSS_RESTART, USAGE_COUNTER_RESET

__all__ = ["Fill", "Reading", "Sample", "Volume", "VolumeConfig"]

_MAX_LOSSES: Final = 64
"""Kept until the window takes them; more than a reading or two can make are joined."""


class Volume:
    """Open intervals of every address; `take` closes them.

    `counts` are in bytes and hold seen = recorded + ignored + lost + open: ignored is the
    baseline, lost what a full set could not count. `metered` is what this run has read of the
    counters of addresses. Other counts are of events.
    """

    def __init__(self, config: VolumeConfig) -> None:
        self._config = config
        self._generation: str | None = None
        self._table = Table()
        self._extra: dict[bytes, Slot] = {}
        self._closed: list[Closed] = []
        self._read_ns = 0
        self._new_flags = 0
        self._uncounted_bytes = 0
        self._losses: list[Loss] = []
        self.fill: tuple[Fill, ...] = ()
        """How full the sets were at the last reading."""
        self.counts: dict[str, int] = dict.fromkeys(
            ("seen", "recorded", "ignored", "lost", "open", "metered"), 0
        ) | dict.fromkeys(("readings", "splits", "splits_refused", "resets", "flows_unplaced"), 0)

    @property
    def generation(self) -> str | None:
        """The counters that the state belongs to; None before the first reading."""
        return self._generation

    def begin(self, generation: str, ts_ns: int) -> None:
        """The table was created at `ts_ns` with counters of zero: what it shows is usage since."""
        if self._generation is not None and generation != self._generation:
            self._lose(self._read_ns, ts_ns, "counter-reset", -1)
            self._close_all()
        elif self._generation == generation:
            return
        self._generation, self._read_ns, self._uncounted_bytes = generation, ts_ns, 0
        self._new_flags = 0

    def observe(self, reading: Reading, restart: bool = False) -> None:
        """Add what was counted since the last reading; `restart` says no collector ran between."""
        self._apply(
            reading,
            settle(reading.ts_ns, self._config.window_ns, self._config.settle_ns),
            restart,
        )

    def split(self, sample: Sample) -> bool:
        """Close the interval of one address at the sample and open the next.

        False where that cannot be done: nothing was read yet, the counters are of another
        generation, or too many rows wait for a window. Nothing is lost then, but the bytes on
        both sides of the change come in one row; in the second case take a whole reading.
        """
        held = len(self._closed) + len(self._extra)
        if sample.generation != self._generation or held >= self._config.max_splits:
            self.counts["splits_refused"] += 1
            return False
        at = self._table.find(sample.address)
        slot = self._table.slot(at) if at >= 0 else self._extra.get(sample.address)
        if slot is None:
            flags, since = self._new_flags, self._read_ns
            slot = Slot(sample.prefix_len, [0] * 4, [0] * 4, since, since, flags)
        added = slot.advance(sample)
        for _ in range(added.resets):
            self.counts["resets"] += 1
            self._lose(added.reset_since_ns, sample.ts_ns, "counter-reset", -1)
        self._count(added)
        self._close(sample.address, slot)
        if at >= 0:
            self._table.put(at, slot)
        else:
            self._extra[sample.address] = slot
        self.counts["splits"] += 1
        return True

    def split_prefix(self, reading: Reading, address: bytes, prefix_len: int) -> bool:
        """As `split`, for a binding wider than the metered prefix, from a reading of all of it."""
        if self._generation is None:  # part of a reading must not pass for the baseline of all
            self.counts["splits_refused"] += 1
            return False
        self._apply(reading, reading.ts_ns, False)
        rows = self._table.within(address, prefix_len)
        if len(self._closed) + len(rows) > self._config.max_splits:
            self.counts["splits_refused"] += 1
            return False
        for at in rows:
            slot = self._table.slot(at)
            self._close(self._table.address(at), slot)
            self._table.put(at, slot)
        self.counts["splits"] += 1
        return True

    def take(
        self,
        start_ns: int,
        end_ns: int,
        now_ns: int,
        flow_counts: Mapping[tuple[bytes, int], int] | None = None,
    ) -> dict[str, Columns]:
        """Rows of the window that ends at `end_ns`: one for each interval with traffic.

        A row begins where the address's row before it ended, which after a restart is before
        `start_ns`, and ends at the address's last reading. What began at or after `end_ns` stays.
        `flow_counts` is by (address, prefix length); an address's last row carries its flows, and
        those of an address without a row are counted as `flows_unplaced`.
        """
        table = self._table
        table.add(self._extra)
        self._extra = {}
        late_ns = end_ns + self._config.window_ns  # after a clock set back nothing waits for years
        waits = [row for row in self._closed if end_ns <= row.start_ns < late_ns]
        closed = [row for row in self._closed if not end_ns <= row.start_ns < late_ns]
        ripe = table.ripe(end_ns, late_ns)
        at = np.flatnonzero(ripe & table.open.any(axis=1))
        columns, unplaced = columns_of(closed, table, at, now_ns, flow_counts or {})
        self.counts["flows_unplaced"] += unplaced
        self._closed = waits
        table.close(ripe)
        taken = int(sum(np.asarray(columns[name]).sum(dtype=np.uint64) for name in COUNTERS[:2]))
        self.counts["recorded"] += taken
        self.counts["open"] -= taken
        return {USAGE.name: columns}

    def take_losses(self) -> list[Loss]:
        """Losses since the last call."""
        losses, self._losses = self._losses, []
        return losses

    def snapshot(self) -> dict[str, object]:
        """All that a restart needs; about 30 bytes an address with nothing open."""
        self._table.add(self._extra)
        self._extra = {}
        return {
            "generation": self._generation,
            "read_ns": self._read_ns,
            "new_flags": self._new_flags,
            "uncounted_bytes": self._uncounted_bytes,
            "table": self._table.dump(),
            "closed": [row.to_json() for row in self._closed],
        }

    def restore(self, snapshot: Mapping[str, Any], now_ns: int) -> None:
        """Go on where `snapshot` was taken; intervals then open are marked USAGE_ACROSS_RESTART.

        `now_ns` is not needed: the next reading says how long nothing was read. Raises ValueError
        or KeyError for a snapshot that is damaged.
        """
        table = Table.load(snapshot["table"])
        closed = [Closed.from_json(row) for row in snapshot["closed"]]
        self._table, self._closed, self._extra = table, closed, {}
        self._generation = snapshot["generation"]
        self._read_ns = int(snapshot["read_ns"])
        self._new_flags = int(snapshot["new_flags"])
        self._uncounted_bytes = int(snapshot["uncounted_bytes"])
        self._mark(USAGE_ACROSS_RESTART)
        opened = int(table.open[:, :2].sum()) + sum(sum(row.counters[:2]) for row in closed)
        self.counts["seen"] = self.counts["open"] = opened

    # Readings

    def _apply(self, reading: Reading, boundary_ns: int, restart: bool) -> None:
        self.counts["readings"] += 1
        self.fill = reading.fill
        if restart:
            self._mark(USAGE_ACROSS_RESTART)
        keys = np.ascontiguousarray(reading.addresses).view("S16")
        if self._generation is None:
            self._baseline(reading, keys, boundary_ns)
            return
        if reading.generation != self._generation:
            self._recreated(reading.generation, boundary_ns)
        table = self._table
        table.add(self._extra)
        self._extra = {}
        self._count_uncounted(reading, boundary_ns)
        at = table.align(keys, reading.prefix_len, self._read_ns, self._new_flags)
        table.prefix_len[at] = reading.prefix_len
        added = table.advance(at, reading, boundary_ns)
        if added.resets:
            self.counts["resets"] += added.resets
            self._lose(added.reset_since_ns, boundary_ns, "counter-reset", -1)
        self._count(added)
        # A clock set back moves the time of the last reading with it.
        self._read_ns = boundary_ns if boundary_ns >= self._read_ns else reading.ts_ns
        table.forget_idle(at, self._read_ns)
        self._new_flags = 0

    def _baseline(self, reading: Reading, keys: NDArray[np.bytes_], boundary_ns: int) -> None:
        """What was counted before anyone read is of no interval; say how much it is at most."""
        self._generation, self._read_ns = reading.generation, boundary_ns
        self._uncounted_bytes, self._new_flags = reading.uncounted_bytes, 0
        at = self._table.align(keys, reading.prefix_len, boundary_ns, 0)
        self._table.last[at] = reading.counters
        ignored = int(reading.counters[:, :2].sum())
        self.counts["seen"] += ignored
        self.counts["ignored"] += ignored
        if ignored:
            # When it was counted is unknown; the window before is the last it can have been in.
            self._lose(boundary_ns - self._config.window_ns, boundary_ns, "baseline", ignored)

    def _recreated(self, generation: str, boundary_ns: int) -> None:
        self._generation, self._uncounted_bytes = generation, 0
        self._table.last[:] = 0
        for slot in self._extra.values():
            slot.last = [0] * 4
        self._mark(USAGE_COUNTER_RESET)
        self.counts["resets"] += 1
        self._lose(self._read_ns, boundary_ns, "counter-reset", -1)

    def _count_uncounted(self, reading: Reading, boundary_ns: int) -> None:
        total = reading.uncounted_bytes
        base = self._uncounted_bytes if total >= self._uncounted_bytes else 0
        self._uncounted_bytes = total
        if total > base:
            self.counts["seen"] += total - base
            self.counts["lost"] += total - base
            self._lose(self._read_ns, boundary_ns, "set-full", total - base)

    def _count(self, added: Advance) -> None:
        self.counts["seen"] += added.octets
        self.counts["open"] += added.octets
        self.counts["metered"] += added.octets

    # Intervals

    def _close(self, address: bytes, slot: Slot) -> None:
        """End the open interval at `upto`; one without length waits for the next reading."""
        if any(slot.open):
            if slot.upto <= slot.since:
                return
            counters = tuple(slot.open)
            self._closed.append(
                Closed(address, slot.prefix_len, slot.since, slot.upto, counters, slot.flags)
            )
        slot.open, slot.flags, slot.since = [0] * 4, 0, slot.upto

    def _close_all(self) -> None:
        """Every open interval becomes a row; used where the addresses themselves are forgotten."""
        self._table.add(self._extra)
        for at in np.flatnonzero(self._table.open.any(axis=1)).tolist():
            slot = self._table.slot(at)
            slot.upto = max(slot.upto, slot.since + 1)
            self._close(self._table.address(at), slot)
        self._table, self._extra = Table(), {}

    def _mark(self, flag: int) -> None:
        self._table.flags |= np.uint32(flag)
        for slot in self._extra.values():
            slot.flags |= flag
        self._new_flags |= flag

    def _lose(self, start_ns: int, end_ns: int, reason: str, amount: int) -> None:
        start_ns = max(start_ns, 0)
        loss = Loss(
            start_ns, max(start_ns, end_ns), "volume", reason, amount, "bytes", (USAGE.name,)
        )
        self._losses.append(loss)
        if len(self._losses) > _MAX_LOSSES:
            self._losses = merge(self._losses, _MAX_LOSSES // 2)
