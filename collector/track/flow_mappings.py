"""NAT mappings of single flows into `mapping` records: who was behind this public address and port.

A flow's mapping is told when it is first seen open, again while it stays open, and when it ends.
The tellings are versions of one record, and the newest says how long the mapping is proven.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from collector.track.flow_table import Entries, begin_of, pick
from collector.wire.columns import Columns
from collector.wire.record_ids import id_column
from collector.wire.records import MAPPING

ROW: Final = np.dtype(
    [
        ("key", "u8"),
        ("start_ns", "i8"),
        ("end_ns", "i8"),
        ("inside_address", "V16"),
        ("public_address", "V16"),
        ("inside_port", "u2"),
        ("port_first", "u2"),
        ("port_last", "u2"),
        ("protocol", "u1"),
        ("block", "?"),
    ]
)
"""One mapping. key: tells flows apart. block: it is of a range of ports and not of a flow."""

Rows = npt.NDArray[Any]
"""A structured array of `ROW`."""


class FlowMappings:
    """Mapping rows that wait for their window, at most `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting = [np.zeros(0, ROW)]
        self._count = 0

    def add(self, entries: Entries, due: npt.NDArray[np.bool_] | None = None) -> int:
        """Notes the mappings of flows up to their `seen_ns`, or of those that are `due`; says how
        many had no room."""
        entries = entries if due is None else pick(entries, due)
        fit = entries[: max(0, self._limit - self._count)]
        rows = np.zeros(len(fit), ROW)
        rows["key"] = fit["key"]
        rows["start_ns"] = begin_of(fit)
        # Half-open, so a flow of one packet still covers the moment of that packet.
        rows["end_ns"] = np.maximum(fit["seen_ns"], rows["start_ns"] + 1)
        rows["inside_address"], rows["inside_port"] = fit["client"], fit["client_port"]
        rows["public_address"] = fit["public"]
        rows["port_first"] = rows["port_last"] = fit["public_port"]
        rows["protocol"] = fit["protocol"]
        if len(rows):
            self._waiting.append(rows)
            self._count += len(rows)
        return len(entries) - len(fit)

    def take(self, end_ns: int, now_ns: int) -> Columns:
        """Columns of the mappings proven up to `end_ns` at most, the newest of each, once."""
        return columns_of(self.due(end_ns), now_ns)

    def due(self, end_ns: int) -> Rows:
        """The same as rows, which are forgotten."""
        rows = np.concatenate(self._waiting)
        due = rows["end_ns"] <= end_ns
        self._waiting = [pick(rows, ~due)]
        self._count = len(self._waiting[0])
        rows = pick(rows, due)
        order = np.lexsort((rows["end_ns"], rows["key"]))
        keys = rows["key"][order]
        newest = np.ones(len(rows), np.bool_)
        newest[:-1] = keys[1:] != keys[:-1]
        return pick(rows, order[newest])


def columns_of(rows: Rows, now_ns: int) -> Columns:
    """`mapping` columns."""
    return {
        "record_id": id_column(MAPPING.name, [rows[name] for name in MAPPING.key]),
        "observed_ns": np.full(len(rows), now_ns, np.int64),
        "start_ns": rows["start_ns"],
        "end_ns": rows["end_ns"],
        "inside_address": rows["inside_address"],
        "inside_port": rows["inside_port"],
        "public_address": rows["public_address"],
        "protocol": rows["protocol"],
        "port_first": rows["port_first"],
        "port_last": rows["port_last"],
        "kind": ["block" if is_block else "flow" for is_block in rows["block"].tolist()],
    }
