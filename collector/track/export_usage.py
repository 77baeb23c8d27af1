"""Flows that routers export into `usage` rows: bytes of each subscriber over one window.

A flow is told when it ends, or when its exporter's timer runs out, so a row begins with the first
of its flows, at most at the day's start, and ends with the window. Where an address changed hands
within a window its row is split there, by when each flow was last seen: a flow over the change is
the later holder's, which is as exact as a router's timer.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from collector.parse.export_records import Rows
from collector.track.inside import Prefixes, halves
from collector.wire.addr import MAPPED, network
from collector.wire.columns import Columns
from collector.wire.records import USAGE, USAGE_FROM_EXPORT, record_id

DAY_NS: Final = 86_400 * 10**9
MAX_ADDRESSES: Final = 1 << 20
COUNTERS: Final = ("up_bytes", "down_bytes", "up_packets", "down_packets", "flows")

_PART: Final = np.dtype(
    [
        ("address", "V16"),
        ("first_ns", "i8"),
        ("last_ns", "i8"),
        *((name, "u8") for name in COUNTERS),
    ]
)
_COMPACT: Final = 1 << 18
"""Parts that wait before those of one address and moment are added up."""


class ExportUsage:
    """Sums by address until the window takes them. `counts`: bytes as those of a stage."""

    def __init__(self, access: Prefixes, ipv6_prefix_len: int) -> None:
        self._access = access
        self._length = ipv6_prefix_len
        self._parts: list[npt.NDArray[Any]] = []
        self._waiting = 0
        self._changes: dict[bytes, list[int]] = {}
        self.outside = 0
        self.dropped = 0

    def changed(self, address: bytes, ts_ns: int) -> None:
        """The address, as usage is keyed, changed hands."""
        if len(self._changes) < MAX_ADDRESSES:
            self._changes.setdefault(address, []).append(ts_ns)

    def add(self, rows: Rows, ts_ns: int) -> None:
        """Takes flows in; those with no subscriber at either end are counted as outside.

        A flow of a NAT names the inside address before it or after it, by its direction.
        """
        source, up = _inside(rows, "src", "nat_src", self._access)
        target, down = _inside(rows, "dst", "nat_dst", self._access)
        self.outside += int(np.count_nonzero(~up & ~down))
        for who, sent, got, here in (
            (source, "bytes", "back_bytes", up),
            (target, "back_bytes", "bytes", down),
        ):
            picked = rows[here]
            if not len(picked):
                continue
            part = np.zeros(len(picked), _PART)
            part["address"] = who[here]
            # The exporter's clock may be off: nothing ends after it was told.
            last = picked["last_ns"]
            part["last_ns"] = np.where((last > 0) & (last < ts_ns), last, ts_ns)
            first = picked["first_ns"]
            part["first_ns"] = np.where(
                (first > 0) & (first < part["last_ns"]), first, part["last_ns"]
            )
            part["up_bytes"], part["down_bytes"] = picked[sent], picked[got]
            packets = sent.replace("bytes", "packets"), got.replace("bytes", "packets")
            part["up_packets"], part["down_packets"] = picked[packets[0]], picked[packets[1]]
            part["flows"] = 1
            self._parts.append(part)
            self._waiting += len(part)
        if self._waiting > _COMPACT:
            self._compact()

    def take(self, end_ns: int, now_ns: int) -> Columns:
        """Rows of the window that ends; forgets the changes before it."""
        sums: dict[tuple[bytes, int], list[int]] = {}
        since = (end_ns - 1) // DAY_NS * DAY_NS
        if self._parts:
            self._compact()
            self._sum(self._parts[0], sums)
        rows: list[list[Any]] = []
        for (address, segment), (first, *counters) in sorted(sums.items()):
            cuts = self._changes.get(address, [])
            start = max(first, since, cuts[segment - 1] if segment else 0)
            end = min(cuts[segment], end_ns) if segment < len(cuts) else end_ns
            rows.append([min(start, end - 1), end, address, *counters])
        self._parts, self._waiting = [], 0
        self._changes = {a: [t for t in ts if t >= end_ns] for a, ts in self._changes.items()}
        self._changes = {a: ts for a, ts in self._changes.items() if ts}
        return self._columns(rows, now_ns)

    def _sum(self, part: npt.NDArray[Any], sums: dict[tuple[bytes, int], list[int]]) -> None:
        """Adds a part to the sums by address and segment between two changes."""
        columns = zip(*(part[name].tolist() for name in _PART.names or ()), strict=True)
        for inside, first, last, *counters in columns:
            address = _keyed(inside, self._length)
            cuts = self._changes.get(address)
            key = (address, bisect_right(cuts, last) if cuts else 0)
            known = sums.get(key)
            if known is None:
                if len(sums) >= MAX_ADDRESSES:
                    self.dropped += 1
                    continue
                sums[key] = [first, *counters]
            else:
                known[0] = min(known[0], first)
                for at, value in enumerate(counters, 1):
                    known[at] += value

    def _compact(self) -> None:
        """Adds up the parts of one address and one second, where changes are told apart still."""
        parts = np.concatenate(self._parts)
        keys = np.zeros(len(parts), [("address", "V16"), ("second", ">i8")])
        keys["address"], keys["second"] = parts["address"], parts["last_ns"] // 10**9
        order = np.argsort(keys.view("S24"), kind="stable")
        keys, parts = keys[order], parts[order]
        raw = np.ascontiguousarray(keys).view(np.uint8).reshape(-1, 24)
        begins = np.flatnonzero(np.r_[True, (raw[1:] != raw[:-1]).any(axis=1)])
        small = parts[begins]
        small["first_ns"] = np.minimum.reduceat(parts["first_ns"], begins)
        small["last_ns"] = np.maximum.reduceat(parts["last_ns"], begins)
        for name in COUNTERS:
            small[name] = np.add.reduceat(parts[name], begins)
        self._parts, self._waiting = [small], len(small)
        if len(small) > MAX_ADDRESSES:
            self.dropped += len(small) - MAX_ADDRESSES
            self._parts = [small[:MAX_ADDRESSES]]

    def _columns(self, rows: list[list[Any]], now_ns: int) -> Columns:
        start, end, address, *counters = map(list, zip(*rows, strict=True)) if rows else [[]] * 8
        lengths = [128 if each[:12] == MAPPED else self._length for each in address]
        columns: Columns = {
            "record_id": [
                record_id(USAGE.name, *key)
                for key in zip(start, end, address, lengths, strict=True)
            ],
            "observed_ns": [now_ns] * len(rows),
            "start_ns": start,
            "end_ns": end,
            "address": address,
            "prefix_len": lengths,
            **dict(zip(COUNTERS, counters, strict=True)),
            "flags": [USAGE_FROM_EXPORT] * len(rows),
        }
        return columns


def _inside(
    rows: Rows, plain: str, translated: str, access: Prefixes
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """The address at one end of each flow, after translation where it is one of ours then, and
    whether it is a subscriber's."""
    behind = subscribers(rows[translated], access)
    found = np.where(behind, rows[translated], rows[plain])
    return found, behind | subscribers(rows[plain], access)


def subscribers(addresses: npt.NDArray[Any], access: Prefixes) -> npt.NDArray[np.bool_]:
    """Which of the addresses are there and inside."""
    return access.contains(addresses) & halves(addresses).any(axis=1)


def _keyed(address: bytes, length: int) -> bytes:
    return address if address[:12] == MAPPED else network(address, length)
