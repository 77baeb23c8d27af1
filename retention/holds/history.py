"""Rows of bindings, mappings and sessions in, who had what when out. Pure.

Of several versions of a record the newest counts. A tenure is [start, end) of one row, never
longer than the row proves; a slice that is still open is provisional: it reaches to when it was
last written, and to the end of its UTC day once no later version is to be expected.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from collector.wire.addr import MAPPED, network
from retention.holds.columns import HISTORY_COLUMNS, SPANS, end_of_day
from retention.holds.instants import Interval
from retention.holds.matcher import Columns, match
from retention.holds.needles import Prefix, merged
from retention.holds.scope import MAX_IPV4, MAX_IPV6
from retention.model import DAY_US, ScopeItem

Histories: TypeAlias = Mapping[str, Columns]
"""Class ("binding", "mapping", "session") to `HISTORY_COLUMNS` of rows that could matter."""

SETTLED_US: Final = DAY_US // 2
"""From the end of an open slice's day until it is taken for whole: collectors that were cut off
send within hours, and no partition of that day is destroyed before another day has passed."""
NOTHING: Final[Histories] = {
    name: dict.fromkeys(columns, ()) for name, columns in HISTORY_COLUMNS.items()
}


class Tenure(NamedTuple):
    """[start, end) in microseconds; provisional: the end may turn out later."""

    start: int
    end: int
    provisional: bool = False

    def within(self, other: Tenure) -> Tenure:
        """The instants of both; empty if end <= start."""
        return Tenure(
            max(self.start, other.start),
            min(self.end, other.end),
            self.provisional or other.provisional,
        )

    def __bool__(self) -> bool:
        return self.start < self.end


class Tenures:
    """Tenures of one identifier, to be compared with many others; provisional ones stay apart."""

    def __init__(self, tenures: Iterable[Tenure] = ()) -> None:
        self._all = list(tenures)
        self._merged: tuple[list[Interval], list[Interval]] | None = None

    def add(self, tenure: Tenure) -> None:
        """Take one more."""
        self._all.append(tenure)
        self._merged = None

    def merged(self) -> list[Tenure]:
        """The same instants in as few tenures as can be."""
        return [
            Tenure(start, end, bool(provisional))
            for provisional, each in enumerate(self._joined())
            for start, end in each
        ]

    def common(self, other: Tenure) -> list[Tenure]:
        """What they have in common with another."""
        found = []
        for provisional, intervals in enumerate(self._joined()):
            first = bisect_right(intervals, other.start, key=lambda each: each[1])
            for start, end in intervals[first:]:
                if start >= other.end:
                    break
                found.append(other.within(Tenure(start, end, bool(provisional))))
        return [each for each in found if each]

    def _joined(self) -> tuple[list[Interval], list[Interval]]:
        if self._merged is None:
            final = merged((each.start, each.end) for each in self._all if not each.provisional)
            rest = merged((each.start, each.end) for each in self._all if each.provisional)
            self._merged = final, rest
        return self._merged


def tenure_of(item: ScopeItem) -> Tenure:
    """The interval of a scope item."""
    return Tenure(item.from_us, item.to_us)


@dataclass(frozen=True, slots=True)
class Row:
    """One row. session_id and subscriber are empty where its class has none."""

    tenure: Tenure
    subscriber: str
    session_id: bytes
    prefix: Prefix | None
    """Of a binding what was held; of a mapping the inside address."""
    acct_session_id: str = ""


class History:
    """The rows of one class that say something, searchable in the ways resolution needs."""

    def __init__(self, record_class: str, columns: Columns, now_us: int) -> None:
        self.record_class = record_class
        self.columns = columns
        self._now_us = now_us
        self.rows: list[Row | None] = [None] * len(columns["record_id"])
        self._by_subscriber: dict[str, list[Row]] = {}
        self._by_session: dict[bytes, list[Row]] = {}
        self._by_prefix: dict[int, dict[bytes, list[Row]]] = {}
        for position in self._newest():
            row = self._row(position)
            if row.tenure:
                self.rows[position] = row
                self._index(row)

    def matching(self, item: ScopeItem) -> list[Row]:
        """Rows that an item matches, by the one matcher."""
        asked = ScopeItem(
            item.kind, item.value, item.from_us, item.to_us, (self.record_class,), item.ports
        )
        mask = match(self.record_class, self.columns, {"": [asked]})[""]
        found = (self.rows[position] for position in mask.nonzero()[0].tolist())
        return [row for row in found if row is not None]

    def of_subscriber(self, name: str) -> Sequence[Row]:
        """Rows that name a subscriber."""
        return self._by_subscriber.get(name, ()) if name else ()

    def of_session(self, session_id: bytes) -> Sequence[Row]:
        """Rows of a session, by its hash."""
        return self._by_session.get(session_id, ())

    def of_prefix(self, prefix: Prefix) -> list[Row]:
        """Rows whose prefix holds another."""
        base, length = prefix
        found: list[Row] = []
        for own, rows in self._by_prefix.items():
            if own <= length:
                found += rows.get(network(base, own), ())
        return found

    def _newest(self) -> list[int]:
        """Positions of the newest version of each record."""
        newest: dict[tuple[Any, Any], int] = {}
        ids, collectors = self.columns["record_id"], self.columns["collector"]
        seen = self.columns.get("observed_us")
        for position in range(len(ids)):
            key = (collectors[position], ids[position])
            other = newest.get(key)
            if other is None or (seen is not None and seen[other] <= seen[position]):
                newest[key] = position
        return list(newest.values())

    def _row(self, position: int) -> Row:
        def value(name: str) -> Any:
            column = self.columns.get(name)
            return None if column is None else column[position]

        address = value("inside_address") if self.record_class == "mapping" else value("address")
        length = 128 if self.record_class == "mapping" else min(int(value("prefix_len") or 0), 128)
        return Row(
            self._tenure(position),
            str(value("subscriber") or ""),
            bytes(value("session_id") or b""),
            None if address is None else (network(address.ljust(16, b"\0"), length), length),
            str(value("acct_session_id") or ""),
        )

    def _tenure(self, position: int) -> Tenure:
        span = SPANS[self.record_class]
        start = int(self.columns[span.start][position])
        end = max(int(self.columns[name][position]) for name in span.ends)
        if not span.open_day:
            return Tenure(start, max(end, start + 1))
        if end:
            return Tenure(start, end)  # empty for a slice that was withdrawn
        midnight = end_of_day(start)
        if self._now_us >= midnight + SETTLED_US:
            return Tenure(start, midnight)
        observed = int(self.columns["observed_us"][position])
        return Tenure(start, min(midnight, max(observed, start + 1)), provisional=True)

    def _index(self, row: Row) -> None:
        if row.subscriber:
            self._by_subscriber.setdefault(row.subscriber, []).append(row)
        if row.session_id:
            self._by_session.setdefault(row.session_id, []).append(row)
        if row.prefix and self.record_class == "binding":
            base, length = row.prefix
            self._by_prefix.setdefault(length, {}).setdefault(base, []).append(row)


def text_of(prefix: Prefix) -> str | None:
    """A prefix as a scope item has it; None for one wider than anybody can hold."""
    base, length = prefix
    if base[:12] == MAPPED and length >= 96:
        if length - 96 < MAX_IPV4:
            return None
        return str(ipaddress.IPv4Network((base[12:], length - 96)))
    return str(ipaddress.IPv6Network((base, length))) if length >= MAX_IPV6 else None
