"""NAT mappings of port blocks into `mapping` records: who had this range of public ports, and when.

A NAT that gives each subscriber a range of ports (RFC 6888 section 4 on logging, RFC 7422) needs no
record for each flow: one for the time in which a range was in use tells as much (RFC 6302 asks for
port and time). The kernel announces flows and no allocations, so a block is what its flows prove:

1. It begins with the first flow in it and is proven up to the last sight of one. A pause of up to
   `block_idle_ns` is part of it; after a longer one it ended with its last flow.
2. A flow of another subscriber after that last sight takes the block over.
3. Where flows of two meet in time the ports are not given in such blocks. What is in dispute is
   told flow by flow until the block was idle: nobody is named alone for another's flow.
4. Told as flows too: protocols other than TCP and UDP, which have blocks of their own each, ports
   below the first block, and what was opened from outside, as a port forward is.
5. A record has one UTC day, as sessions do. While a block grows it is told anew at every window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from collector.track.flow_config import MappingConfig
from collector.track.flow_mappings import ROW, FlowMappings, Rows, columns_of
from collector.track.flow_table import Entries, begin_of, pick
from collector.track.inside import halves
from collector.wire.columns import Columns

MAX_BLOCKS: Final = 1 << 18
"""Blocks in use at once, about 400 bytes each; flows beyond are told singly."""
LEAST_NS: Final = 10_000
"""A block's record is at least so long: look-ups take one without length for an allocation whose
release was not heard."""
MAX_REACH_NS: Final = 31 * 86_400 * 1_000_000_000
"""How far back a flow's begin is believed; what look-ups read of a block."""
_DAY_NS: Final = 86_400 * 1_000_000_000
_RANGED: Final = (6, 17)

Key = tuple[bytes, int, int]
"""Public address, protocol, first port."""


@dataclass(slots=True)
class _Held:
    """One block in use: by whom, proven from `begin` to `seen`. `start`: of the record that grows;
    `told`: its end as last told; `before_ns`: until when another had the block."""

    inside: bytes
    begin: int
    seen: int
    start: int
    before_ns: int
    told: int = 0
    shared: bool = False


class BlockMappings:
    """Blocks in use, and rows that wait for their window. `shared`: blocks in dispute now."""

    def __init__(self, config: MappingConfig, limit: int) -> None:
        self._config = config
        self._flows = FlowMappings(limit)
        self._limit, self._max_rows = min(limit, MAX_BLOCKS), limit
        self._dropped = 0
        self._open: dict[Key, _Held] = {}
        self._closed: list[tuple[Any, ...]] = []

    @property
    def shared(self) -> int:
        return sum(held.shared for held in self._open.values())

    def __len__(self) -> int:
        """Blocks in use."""
        return len(self._open)

    def add(self, entries: Entries, due: npt.NDArray[np.bool_] | None = None) -> int:
        """Takes flows for a proof of their blocks up to their `seen_ns`; those that are told singly
        only if `due`. Says how many mappings had no room."""
        first, size = self._config.block_first, self._config.block_ports
        ports = entries["public_port"].astype(np.int64) - first
        in_block = np.isin(entries["protocol"], _RANGED) & ~entries["inbound"] & (ports >= 0)
        single = ~in_block if due is None else ~in_block & due
        dropped = self._flows.add(pick(entries, single))
        entries, ports = pick(entries, in_block), ports[in_block]
        if not len(entries):
            return dropped
        firsts = ports // size * size + first
        # In dispute: told whether due or not, since the block's record was to tell of them.
        dropped += self._flows.add(pick(entries, ~self._hold_all(entries, firsts)))
        rows, self._dropped = self._dropped, 0
        return dropped + rows

    def _hold_all(self, entries: Entries, firsts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which flows the records of blocks tell of; bool[n]. In the order of their begins."""
        client, public = halves(entries["client"]), halves(entries["public"])
        parts = (*client.T, *public.T, entries["protocol"], firsts)
        order = np.lexsort(parts)
        edge = np.zeros(len(order), np.bool_)
        for each in parts:
            ordered = each[order]
            edge[1:] |= ordered[1:] != ordered[:-1]
        edge[0] = True
        at = np.flatnonzero(edge)
        begins = np.minimum.reduceat(begin_of(entries)[order], at)
        ends = np.maximum.reduceat(entries["seen_ns"][order], at)
        chosen = order[at]
        columns = (entries["public"], entries["protocol"], firsts, entries["client"])
        groups = [column[chosen].tolist() for column in columns]
        held = np.zeros(len(at), np.bool_)
        for group in np.argsort(begins, kind="stable").tolist():
            address, protocol, first, inside = (column[group] for column in groups)
            begin, end = int(begins[group]), int(ends[group])
            held[group] = self._hold((address, protocol, first), inside, begin, end)
        told = np.zeros(len(entries), np.bool_)
        told[order] = held[np.cumsum(edge) - 1]
        return told

    def _hold(self, key: Key, inside: bytes, begin: int, end: int) -> bool:
        """Takes [begin, end] for a proof that `inside` had the block; false where it is none."""
        begin, end = max(begin, end - MAX_REACH_NS), max(end, begin + LEAST_NS)
        held = self._open.get(key)
        if held is None:
            return self._begin(key, inside, begin, end, 0)
        free = begin - held.seen > self._config.block_idle_ns
        if free or (held.inside != inside and not held.shared and begin >= held.seen):
            self._over(key, held)
            return self._begin(key, inside, begin, end, held.seen)
        if held.inside != inside and not held.shared and end > held.begin:
            self._tell(key, held, held.seen)
            held.shared = True
        if held.shared or held.inside != inside:
            held.seen = max(held.seen, end) if held.shared else held.seen
            return False
        held.seen = max(held.seen, end)
        if begin >= held.begin:
            return True
        if begin < held.before_ns:
            return False
        # A long flow, first seen after short ones of the same holder.
        if held.told:
            self._put(key, inside, begin, held.begin)
        else:
            held.start = begin
        held.begin = begin
        return True

    def _begin(self, key: Key, inside: bytes, begin: int, end: int, before_ns: int) -> bool:
        if key not in self._open and len(self._open) >= self._limit:
            return False
        self._open[key] = _Held(inside, begin, end, begin, before_ns)
        return True

    def _over(self, key: Key, held: _Held) -> None:
        if not held.shared:
            self._tell(key, held, held.seen)

    def _tell(self, key: Key, held: _Held, end: int) -> None:
        """Rows of what is proven up to `end` and was not told."""
        if end > max(held.told, held.start):
            held.start, held.told = self._put(key, held.inside, held.start, end), end

    def _put(self, key: Key, inside: bytes, start: int, end: int) -> int:
        """A row for each day of [start, end); gives the start of the last."""
        address, protocol, first = key
        last = min(first + self._config.block_ports - 1, 65_535)
        while (midnight := (start // _DAY_NS + 1) * _DAY_NS) < end:
            self._put(key, inside, start, midnight)
            start = midnight
        if len(self._closed) < self._max_rows:
            end = max(end, start + LEAST_NS)
            row = (0, start, end, inside, address, 0, first, last, protocol, True)
            self._closed.append(row)
        else:
            self._dropped += 1
        return start

    def take(self, end_ns: int, now_ns: int) -> Columns:
        """Columns of what is proven up to `end_ns` at most: blocks that grew, and single flows."""
        for key, held in list(self._open.items()):
            if not held.shared:
                self._tell(key, held, min(held.seen, end_ns))
            if end_ns - held.seen > self._config.block_idle_ns:
                del self._open[key]
        rows: Rows = np.array(self._closed, ROW)
        due = rows["end_ns"] <= end_ns
        self._closed = rows[~due].tolist()
        return columns_of(np.concatenate((self._flows.due(end_ns), rows[due])), now_ns)
