"""Open intervals of all metered addresses as numpy columns, sorted by address.

An address has its counters at the last reading (`last`), what was counted since its interval
opened (`open`), when the interval opened (`since`) and up to when it is known (`upto`). Splits work
on one `Slot`, readings on whole columns.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collector.track.volume_reading import Reading, Sample
from collector.wire.addr import network
from collector.wire.records import USAGE_COUNTER_RESET

Keys = NDArray[np.bytes_]
"""Addresses as S16: numpy orders them as bytes. Items read one by one lose trailing zero bytes,
so they are only ever compared, or taken from the raw memory."""
Index = NDArray[np.intp]

MAX_ADDRESSES: Final = 4 * 2**20
"""Two families, up and down, of sets that hold at most 2**20 elements each."""
_DTYPES: Final[Mapping[str, tuple[str, int]]] = {
    "keys": ("S16", 1),
    "prefix_len": ("<u1", 1),
    "last": ("<u8", 4),
    "open": ("<u8", 4),
    "since": ("<i8", 1),
    "upto": ("<i8", 1),
    "flags": ("<u4", 1),
}
_ROW_BYTES: Final = sum(np.dtype(kind).itemsize * width for kind, width in _DTYPES.values())


@dataclass(frozen=True, slots=True)
class Advance:
    """What a reading added: octets, counters that began again, and from when they may have."""

    octets: int
    resets: int = 0
    reset_since_ns: int = 0


@dataclass(slots=True)
class Slot:
    """One address's open interval; counters in the order of `Reading.counters`."""

    prefix_len: int
    last: list[int]
    open: list[int]
    since: int
    upto: int
    flags: int

    def advance(self, sample: Sample) -> Advance:
        """Adds the difference to the sample into the open interval, up and down for itself."""
        values = [sample.up_bytes, sample.down_bytes, sample.up_packets, sample.down_packets]
        resets, since_ns = 0, self.upto
        for pair in ((0, 2), (1, 3)):
            if any(values[i] < self.last[i] for i in pair):
                for i in pair:
                    self.last[i] = 0
                self.flags |= USAGE_COUNTER_RESET
                resets += 1
        delta = [value - last for value, last in zip(values, self.last, strict=True)]
        self.open = [old + new for old, new in zip(self.open, delta, strict=True)]
        self.last = values
        if sample.ts_ns < self.upto:  # the clock was set back
            self.since = min(self.since, sample.ts_ns - 1)
        self.upto = sample.ts_ns
        return Advance(delta[0] + delta[1], resets, since_ns)


class Table:
    """Columns of one length, sorted by `keys`, each key once."""

    __slots__ = ("flags", "keys", "last", "open", "prefix_len", "since", "upto")

    def __init__(self) -> None:
        self.keys: Keys = np.empty(0, "S16")
        self.prefix_len: NDArray[np.uint8] = np.empty(0, np.uint8)
        self.last: NDArray[np.uint64] = np.empty((0, 4), np.uint64)
        self.open: NDArray[np.uint64] = np.empty((0, 4), np.uint64)
        self.since: NDArray[np.int64] = np.empty(0, np.int64)
        self.upto: NDArray[np.int64] = np.empty(0, np.int64)
        self.flags: NDArray[np.uint32] = np.empty(0, np.uint32)

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, address: bytes) -> int:
        """Row of an address, -1 where it has none."""
        wanted = np.array([address], "S16")
        at = int(np.searchsorted(self.keys, wanted)[0])
        return at if at < len(self) and self.keys[at] == wanted[0] else -1

    def within(self, address: bytes, prefix_len: int) -> range:
        """Rows of the addresses in the prefix of that length that holds `address`."""
        first = network(address, prefix_len)
        span = (1 << 128 - prefix_len) - 1
        last = (int.from_bytes(first, "big") | span).to_bytes(16, "big")
        begin = int(np.searchsorted(self.keys, np.array([first], "S16"), side="left")[0])
        end = int(np.searchsorted(self.keys, np.array([last], "S16"), side="right")[0])
        return range(begin, end)

    def address(self, at: int) -> bytes:
        return self.keys[at : at + 1].tobytes()

    def slot(self, at: int) -> Slot:
        return Slot(
            int(self.prefix_len[at]),
            self.last[at].tolist(),
            self.open[at].tolist(),
            int(self.since[at]),
            int(self.upto[at]),
            int(self.flags[at]),
        )

    def put(self, at: int, slot: Slot) -> None:
        self.prefix_len[at] = slot.prefix_len
        self.last[at], self.open[at] = slot.last, slot.open
        self.since[at], self.upto[at], self.flags[at] = slot.since, slot.upto, slot.flags

    def align(self, keys: Keys, prefix_len: NDArray[np.uint8], since: int, flags: int) -> Index:
        """Row of each of `keys` (unique, in any order); those without one get it.

        New rows have counters of zero, because an element the last reading did not have began
        after it, at zero; `since` is the time of that reading.
        """
        at = np.searchsorted(self.keys, keys)
        known = np.zeros(len(keys), bool)
        inside = at < len(self)
        known[inside] = self.keys[at[inside]] == keys[inside]
        if known.all():
            return at
        fresh = ~known
        count = int(fresh.sum())
        zeros = np.zeros((count, 4), np.uint64)
        times = np.full(count, since, np.int64)
        self._insert(
            keys[fresh], prefix_len[fresh], zeros, zeros, times, np.full(count, flags, np.uint32)
        )
        return np.searchsorted(self.keys, keys)

    def add(self, slots: Mapping[bytes, Slot]) -> None:
        """Insert addresses that have no row yet."""
        if not slots:
            return
        values = list(slots.values())
        before = len(self)
        keys = np.frombuffer(b"".join(slots), "S16")
        zeros = np.zeros((len(values), 4), np.uint64)
        self._insert(
            keys,
            np.array([slot.prefix_len for slot in values], np.uint8),
            np.array([slot.last for slot in values], np.uint64).reshape(-1, 4),
            zeros,
            np.array([slot.since for slot in values], np.int64),
            np.array([slot.flags for slot in values], np.uint32),
        )
        assert len(self) == before + len(values)
        at = np.searchsorted(self.keys, keys)
        self.open[at] = np.array([slot.open for slot in values], np.uint64).reshape(-1, 4)
        self.upto[at] = [slot.upto for slot in values]

    def advance(self, at: Index, reading: Reading, boundary_ns: int) -> Advance:
        """Add differences of the rows `at`, in the order of the reading, to the open intervals.

        They are then known up to `boundary_ns`, or to the reading's own time after a clock was
        set back.
        """
        ts_ns = reading.ts_ns
        last, upto = self.last[at], self.upto[at]
        fell = reading.counters < last
        # Up and down are elements of different sets: each begins again on its own.
        reset = np.stack([fell[:, 0] | fell[:, 2], fell[:, 1] | fell[:, 3]], axis=1)
        # A sample taken while this reading was under way may be newer than the dump's value.
        stale = reset.any(axis=1) & (upto > reading.began_ns) & (upto <= ts_ns)
        reset[stale] = False
        base = np.where(np.concatenate([reset, reset], axis=1), np.uint64(0), last)
        current = np.where(stale[:, None], last, reading.counters)
        delta = current - base
        self.open[at] += delta
        self.last[at] = current
        whole = reset.any(axis=1)
        self.flags[at[whole]] |= np.uint32(USAGE_COUNTER_RESET)
        back = upto > ts_ns
        since = self.since[at]
        self.since[at] = np.where(back, np.minimum(since, ts_ns - 1), since)
        forward = np.where(boundary_ns >= upto, boundary_ns, ts_ns)
        self.upto[at] = np.where(stale, upto, forward)
        octets = int(delta[:, :2].sum())
        resets = int(whole.sum())
        return Advance(octets, resets, int(upto[whole].min()) if resets else 0)

    def ripe(self, end_ns: int, late_ns: int) -> NDArray[np.bool_]:
        """Which intervals have some length and began before `end_ns`, or at or after `late_ns`."""
        # Counted at an edge and never read again: its interval must have some length to be a row.
        stuck = self.open.any(axis=1) & (self.upto <= self.since) & (self.since < end_ns)
        self.upto[stuck] = self.since[stuck] + 1
        due: NDArray[np.bool_] = (self.since < end_ns) | (self.since >= late_ns)
        return due & (self.upto > self.since)

    def close(self, mask: NDArray[np.bool_]) -> None:
        """End the intervals in `mask`, now rows, and open the next ones where they end."""
        self.open[mask] = 0
        self.flags[mask] = 0
        self.since[mask] = self.upto[mask]

    def forget_idle(self, at: Index, read_ns: int) -> None:
        """Drop addresses that a reading at `read_ns`, of the rows `at`, lacks and that have nothing
        open: a new element begins at zero, as rule 2 of `volume` says.

        One whose interval a split opened after the reading stays, to know when that began.
        """
        idle = np.ones(len(self), bool)
        idle[at] = False
        idle &= ~self.last.any(axis=1) & ~self.open.any(axis=1) & (self.upto <= read_ns)
        if idle.any():
            for name in _DTYPES:
                setattr(self, name, getattr(self, name)[~idle])

    def _insert(
        self,
        keys: Keys,
        prefix_len: NDArray[np.uint8],
        last: NDArray[np.uint64],
        opened: NDArray[np.uint64],
        since: NDArray[np.int64],
        flags: NDArray[np.uint32],
    ) -> None:
        fresh = {
            "keys": keys,
            "prefix_len": prefix_len,
            "last": last,
            "open": opened,
            "since": since,
            "upto": since,
            "flags": flags,
        }
        joined = np.concatenate([self.keys, keys])
        order = np.argsort(joined, kind="stable")
        for name, values in fresh.items():
            setattr(self, name, np.concatenate([getattr(self, name), values])[order])

    def dump(self) -> dict[str, Any]:
        """JSON-able form: columns one after the other, deflated, in base 64."""
        raw = b"".join(
            np.ascontiguousarray(getattr(self, name)).astype(kind, copy=False).tobytes()
            for name, (kind, _) in _DTYPES.items()
        )
        # Level 1: the times repeat and most counters have leading zero bytes; more effort gains
        # little and this is written once a window.
        return {"rows": len(self), "columns": base64.b64encode(zlib.compress(raw, 1)).decode()}

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> Table:
        """The table `dump` wrote; raises ValueError for anything else."""
        rows = stored["rows"]
        if type(rows) is not int or not 0 <= rows <= MAX_ADDRESSES:
            raise ValueError("the volume snapshot has no usable number of rows")
        limit = rows * _ROW_BYTES
        try:
            packed = base64.b64decode(stored["columns"], validate=True)
            raw = zlib.decompressobj().decompress(packed, limit + 1)
        except (binascii.Error, zlib.error) as error:
            raise ValueError("the volume snapshot's columns are damaged") from error
        if len(raw) != limit:
            raise ValueError("the volume snapshot's columns do not have the length they state")
        table, offset = cls(), 0
        for name, (kind, width) in _DTYPES.items():
            values = np.frombuffer(raw, kind, rows * width, offset).copy()
            offset += values.nbytes
            native = values if kind == "S16" else values.astype(np.dtype(kind).newbyteorder("="))
            setattr(table, name, native.reshape(rows, width) if width > 1 else native)
        if rows and not (table.keys[1:] > table.keys[:-1]).all():
            raise ValueError("the volume snapshot's addresses are not in order")
        return table
