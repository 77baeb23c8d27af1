"""NAT events that routers export into `mapping` records: sessions, bindings and blocks of ports.

RFC 8158 section 5.3 numbers the events. A create opens a mapping, a delete closes it; what is open
is told again every hour, as proven until the last word of its exporter. A delete whose create is
not known proves the moment before it. A create over an open mapping of the same public port closes
that one: its delete was lost.
"""

from __future__ import annotations

import base64
import zlib
from collections import Counter
from typing import Any, Final

import numpy as np

from collector.parse.export_records import Rows
from collector.track.export_usage import subscribers
from collector.track.inside import Prefixes
from collector.wire.columns import Columns
from collector.wire.records import MAPPING, record_id

CREATES: Final = frozenset((1, 4, 6, 8, 10))
DELETES: Final = frozenset((2, 5, 7, 9, 11))
BLOCK, BLOCK_OVER = 16, 17
EXHAUSTED: Final = frozenset((3, 12, 13))
"""Addresses, ports or a quota ran out: counted, since no mapping came of it."""
MAX_OPEN: Final = 1 << 20
MAX_WAITING: Final = 1 << 19
REFRESH_NS: Final = 3600 * 10**9

_OPEN: Final = np.dtype(
    [
        ("inside_address", "V16"),
        ("public_address", "V16"),
        ("inside_port", "u2"),
        ("port_first", "u2"),
        ("port_last", "u2"),
        ("protocol", "u1"),
        ("start_ns", "i8"),
        ("told_ns", "i8"),
    ]
)
_ROW: Final = (
    *("start_ns", "end_ns", "inside_address", "inside_port", "public_address"),
    *("protocol", "port_first", "port_last", "kind"),
)
_Public = tuple[bytes, int, int]
"""Public address, protocol (0 for all), first port: of these one inside holds one at a time."""
_Held = tuple[bytes, int, int, int]
"""Inside address and port, last public port, start."""


class ExportMappings:
    """Open mappings and rows that wait. counts: events by what became of them."""

    def __init__(self, access: Prefixes) -> None:
        self._access = access
        self._open: dict[_Public, _Held] = {}
        self._told: dict[_Public, int] = {}
        self._rows: list[tuple[Any, ...]] = []
        self.counts: Counter[str] = Counter(
            dict.fromkeys(
                ("created", "deleted", "without_create", "replaced", "exhausted", "outside")
                + ("unread", "lost", "flows"),
                0,
            )
        )

    def __len__(self) -> int:
        """Mappings open now."""
        return len(self._open)

    def events(self, rows: Rows, ts_ns: int) -> None:
        """Takes NAT events in, in order."""
        inside = subscribers(rows["src"], self._access)
        columns = ("event", "src", "nat_src", "sport", "nat_sport", "port_first", "port_last")
        values = zip(
            *(rows[name].tolist() for name in (*columns, "protocol", "first_ns")),
            inside.tolist(),
            strict=True,
        )
        for event, src, public, sport, nat_port, first, last, protocol, at, is_ours in values:
            # An exporter whose clock is ahead cannot know what is to come.
            at = min(at, ts_ns) or ts_ns
            if event in EXHAUSTED:
                self.counts["exhausted"] += 1
            elif not is_ours:
                self.counts["outside"] += 1
            elif event in (BLOCK, BLOCK_OVER) and 0 < first <= last:
                self._event(event == BLOCK, (public, protocol, first), (src, 0, last, at))
            elif event in CREATES or event in DELETES:
                port = nat_port or sport
                self._event(event in CREATES, (public, protocol, port), (src, sport, port, at))
            else:
                self.counts["unread"] += 1

    def flows(self, rows: Rows, ts_ns: int) -> None:
        """Mappings of plain flows that name the address after translation."""
        inside = subscribers(rows["src"], self._access)
        differ = (rows["nat_src"].view("V16") != rows["src"].view("V16")) & (rows["nat_sport"] > 0)
        there = rows["nat_src"].copy().view(np.uint8).reshape(-1, 16).any(axis=1)
        picked = rows[inside & differ & there]
        columns = ("src", "nat_src", "sport", "nat_sport", "protocol", "first_ns", "last_ns")
        for src, public, sport, port, protocol, first, last in zip(
            *(picked[name].tolist() for name in columns), strict=True
        ):
            end = min(last, ts_ns) or ts_ns
            self.counts["flows"] += 1
            self._put((public, protocol, port), (src, sport, port, min(first or end, end)), end)

    def take(self, end_ns: int, now_ns: int, heard_ns: int) -> Columns:
        """Rows of mappings that ended, or are due to be told, by `end_ns`; `heard_ns` is the last
        word of the exporters, until when what is open is proven."""
        for public, held in self._open.items():
            if heard_ns - self._told.get(public, 0) >= REFRESH_NS:
                self._told[public] = heard_ns
                self._put(public, held, heard_ns)
        rows, self._rows = self._rows, []
        newest = {(r[0], *r[2:7]): r for r in sorted(rows, key=lambda r: r[1])}
        values = list(newest.values())
        columns: Columns = {name: [row[at] for row in values] for at, name in enumerate(_ROW)}
        key = zip(*(columns[name] for name in MAPPING.key), strict=True)
        return {
            "record_id": [record_id(MAPPING.name, *each) for each in key],
            "observed_ns": [now_ns] * len(values),
            **columns,
        }

    def _event(self, is_create: bool, public: _Public, held: _Held) -> None:
        known = self._open.get(public)
        if is_create:
            if known is not None:
                if known[:3] == held[:3]:
                    return  # said twice
                self.counts["replaced"] += 1
                self._over(public, known, held[3])
            elif len(self._open) >= MAX_OPEN:
                self.counts["lost"] += 1
                return
            self.counts["created"] += 1
            self._open[public] = held
            return
        self.counts["deleted"] += 1
        if known is None or known[0] != held[0]:
            self.counts["without_create"] += 1
            known = (*held[:3], held[3] - 1)
            self._put(public, known, held[3])
        else:
            self._over(public, known, held[3])

    def _over(self, public: _Public, held: _Held, end_ns: int) -> None:
        del self._open[public]
        self._told.pop(public, None)
        self._put(public, held, end_ns)

    def _put(self, public: _Public, held: _Held, end_ns: int) -> None:
        """A row, half-open, so that a mapping of a moment covers it."""
        if len(self._rows) >= MAX_WAITING:
            self.counts["lost"] += 1
            return
        address, protocol, first = public
        inside, port, last, start = held
        kind = "block" if last > first or (port == 0 and protocol == 0) else "flow"
        end = max(end_ns, start + 1)
        self._rows.append((start, end, inside, port, address, protocol, first, last, kind))

    def snapshot(self) -> dict[str, object]:
        """What is open, JSON-able; rows that wait are not in it, so take it after `take`."""
        table = np.zeros(len(self._open), _OPEN)
        for at, (public, held) in enumerate(self._open.items()):
            address, protocol, first = public
            inside, port, last, start = held
            table[at] = (
                *(inside, address, port, first, last, protocol, start),
                self._told.get(public, 0),
            )
        packed = base64.b64encode(zlib.compress(table.tobytes(), 1)).decode()
        return {"count": len(table), "open": packed}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what `snapshot` wrote; raises ValueError or zlib.error for anything else."""
        count = int(state["count"])
        if not 0 <= count <= 2 * MAX_OPEN:
            raise ValueError("more mappings than can be open")
        data = zlib.decompressobj().decompress(
            base64.b64decode(state["open"]), count * _OPEN.itemsize + 1
        )
        table = np.frombuffer(data, _OPEN, count)
        self._open, self._told = {}, {}
        for inside, address, port, first, last, protocol, start, told in table.tolist():
            self._open[address, protocol, first] = (inside, port, last, start)
            if told:
                self._told[address, protocol, first] = told
