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


@dataclass(slots=True)
class Slot:
    """One address's open interval; counters in the order of `Reading.counters`."""

    prefix_len: int
    last: list[int]
    open: list[int]
    since: int
    upto: int
    flags: int


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

    def within(self, first: bytes, last: bytes) -> range:
        """Rows of the addresses first to last, both included."""
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

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Drop the rows outside `mask`."""
        for name in _DTYPES:
            setattr(self, name, getattr(self, name)[mask])

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
