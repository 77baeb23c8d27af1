"""Closed intervals into the columns of the `usage` class, without a line of Python for each row.

The hash of a row's identity is the exception: it is one call a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collector.track.volume_table import Index, Keys, Table
from collector.wire.columns import Columns
from collector.wire.records import USAGE

COUNTERS: Final = ("up_bytes", "down_bytes", "up_packets", "down_packets")
"""Order of the four counters wherever they are columns."""


@dataclass(frozen=True, slots=True)
class Closed:
    """One interval that a split closed."""

    address: bytes
    prefix_len: int
    start_ns: int
    end_ns: int
    counters: tuple[int, ...]
    flags: int

    def to_json(self) -> list[object]:
        """JSON-able form, bytes as hex."""
        return [
            self.address.hex(),
            self.prefix_len,
            self.start_ns,
            self.end_ns,
            list(self.counters),
            self.flags,
        ]

    @classmethod
    def from_json(cls, data: list[Any]) -> Closed:
        """What `to_json` wrote; raises ValueError for anything else."""
        address, prefix_len, start, end, counters, flags = data
        return cls(bytes.fromhex(address), prefix_len, start, end, tuple(counters), flags)


def columns_of(
    closed: Sequence[Closed],
    table: Table,
    at: Index,
    now_ns: int,
    flow_counts: Mapping[tuple[bytes, int], int],
) -> tuple[Columns, int]:
    """Rows of what splits closed and of the open intervals `at`; and the flows without a row."""
    keys = np.concatenate(
        [np.frombuffer(b"".join(row.address for row in closed), "S16"), table.keys[at]]
    )
    counters = np.concatenate(
        [np.array([r.counters for r in closed], np.uint64).reshape(-1, 4), table.open[at]]
    )
    lengths = _joined([row.prefix_len for row in closed], table.prefix_len[at])
    start = _joined([row.start_ns for row in closed], table.since[at])
    end = _joined([row.end_ns for row in closed], table.upto[at])
    flows, unplaced = _place(flow_counts, keys, lengths)
    columns: Columns = {
        "record_id": record_ids(start, end, keys, lengths),
        "observed_ns": np.full(len(keys), now_ns, np.int64),
        "start_ns": start,
        "end_ns": end,
        "address": keys.view("V16"),
        "prefix_len": lengths,
        **{name: counters[:, i] for i, name in enumerate(COUNTERS)},
        "flows": flows,
        "flags": _joined([row.flags for row in closed], table.flags[at]),
    }
    return columns, unplaced


def record_ids(
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    keys: Keys,
    lengths: NDArray[np.uint8],
) -> NDArray[np.void]:
    """`records.record_id("usage", start, end, address, prefix length)` of each row, as V16.

    Most rows share an interval, so its part of the hash is made once and copied: 1 µs a row
    rather than 4.
    """
    raw = keys.tobytes()
    heads: dict[tuple[int, int], Any] = {}
    tails = {length: _part(str(length).encode()) for length in set(lengths.tolist())}
    size = (16).to_bytes(4, "big")
    out = bytearray()
    rows = zip(start.tolist(), end.tolist(), lengths.tolist(), strict=True)
    for i, (begin, stop, length) in enumerate(rows):
        head = heads.get((begin, stop))
        if head is None:
            head = hashlib.blake2b(digest_size=16, person=USAGE.name.encode())
            head.update(_part(str(begin).encode()) + _part(str(stop).encode()))
            heads[begin, stop] = head
        digest = head.copy()
        digest.update(size + raw[16 * i : 16 * i + 16] + tails[length])
        out += digest.digest()
    return np.frombuffer(bytes(out), "V16")


def _part(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _joined(first: Sequence[int], rest: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([np.array(first, rest.dtype), rest])


def _place(
    flow_counts: Mapping[tuple[bytes, int], int],
    keys: Keys,
    lengths: NDArray[np.uint8],
) -> tuple[NDArray[np.uint32], int]:
    """The flows of each row: all on the last row of the address. Also those that found no row."""
    flows = np.zeros(len(keys), np.uint32)
    total = sum(flow_counts.values())
    if not flow_counts or not len(keys):
        return flows, total
    wanted = np.frombuffer(b"".join(a + bytes((n,)) for a, n in flow_counts), "S17")
    counted = np.fromiter(flow_counts.values(), np.uint32, len(flow_counts))
    raw = np.concatenate(
        [np.frombuffer(keys.tobytes(), np.uint8).reshape(-1, 16), lengths[:, None]], axis=1
    )
    have = np.ascontiguousarray(raw).view("S17").reshape(-1)
    order = np.argsort(have, kind="stable")
    at = np.searchsorted(have[order], wanted, side="right") - 1
    found = at >= 0
    found[found] = have[order][at[found]] == wanted[found]
    rows = order[at[found]]
    flows[rows] = counted[found]
    return flows, total - int(counted[found].sum())
