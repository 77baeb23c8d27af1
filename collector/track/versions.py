"""Row versions on their way from a tracker to the window: what is due by a window's end leaves.

A record may be written several times (open, proof, end); all versions share their `record_id`, and
`observed_ns` of each is later than that of the one before, so the newest is well defined.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from collector.wire.records import CLASSES, MAX_STRING_BYTES, record_id

Row = dict[str, Any]
Columns = dict[str, list[Any]]

MAX_MEMORY: Final = 65_536
"""Record ids whose last `observed_ns` is remembered after their rows left. Older ids are of
records long closed, and a version of them written now is later anyway."""


def clip(text: str) -> str:
    """`text` cut to what a string column holds, never inside a character."""
    data = text.encode("utf-8", "replace")
    if len(data) <= MAX_STRING_BYTES:
        return data.decode("utf-8")
    return data[:MAX_STRING_BYTES].decode("utf-8", "ignore")


_SHAPES: Final = {
    name: (each.key, tuple(column.name for column in each.columns if column.type == "str"))
    for name, each in CLASSES.items()
}
"""Columns of a record's identity, and those that hold text, by class."""


class Versions:
    """Rows of some record classes that wait for their window to close."""

    def __init__(self, *class_names: str) -> None:
        self._pending: dict[str, list[Row]] = {name: [] for name in class_names}
        self._last: OrderedDict[bytes, int] = OrderedDict()
        self._newest: dict[bytes, Row] = {}

    def add(self, class_name: str, row: Row, observed_ns: int, ident: bytes = b"") -> bytes:
        """Queues a version; `row` has every column but `record_id` and `observed_ns`.

        `ident`: what this gave for the record before, which saves making it. Returns the record id.
        """
        key, texts = _SHAPES[class_name]
        ident = ident or record_id(class_name, *[row[name] for name in key])
        # The store keeps microseconds: versions closer than one would tie there.
        observed_ns = max(observed_ns, self._last.pop(ident, observed_ns - 1000) + 1000)
        self._last[ident] = observed_ns
        while len(self._last) > MAX_MEMORY:
            self._last.popitem(last=False)
        full: Row = {"record_id": ident, "observed_ns": observed_ns, **row}
        for name in texts:
            # A character has at most four bytes, so a shorter text fits.
            if len(full[name]) > MAX_STRING_BYTES // 4 or not full[name].isascii():
                full[name] = clip(full[name])
        self._pending[class_name].append(full)
        self._newest[ident] = full
        return ident

    def waiting(self, class_name: str) -> int:
        """Rows of a class that have not left yet."""
        return len(self._pending[class_name])

    def amend(self, ident: bytes, column: str, value: Any) -> None:
        """Sets a column on the newest version of that record, if it has not left yet."""
        row = self._newest.get(ident)
        if row is not None:
            row[column] = value

    def take(self, end_ns: int) -> dict[str, Columns]:
        """Removes and returns, by class and column, the versions observed before `end_ns`."""
        out: dict[str, Columns] = {}
        for name, rows in self._pending.items():
            due = [row for row in rows if row["observed_ns"] < end_ns]
            self._pending[name] = [row for row in rows if row["observed_ns"] >= end_ns]
            for row in due:
                if self._newest.get(row["record_id"]) is row:
                    del self._newest[row["record_id"]]
            out[name] = {column: [row[column] for row in due] for column in CLASSES[name].names}
        return out

    def snapshot(self) -> dict[str, object]:
        """JSON-able state; bytes as hex."""
        return {
            "pending": {
                name: [
                    {k: v.hex() if isinstance(v, bytes) else v for k, v in row.items()}
                    for row in rows
                ]
                for name, rows in self._pending.items()
            },
            "last": [[ident.hex(), at] for ident, at in self._last.items()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what `snapshot` wrote."""
        for name in self._pending:
            binary = {c.name for c in CLASSES[name].columns if c.type in ("id", "addr")}
            self._pending[name] = [
                {k: bytes.fromhex(v) if k in binary else v for k, v in row.items()}
                for row in state["pending"].get(name, [])
            ]
        self._newest = {row["record_id"]: row for rows in self._pending.values() for row in rows}
        self._last = OrderedDict((bytes.fromhex(ident), at) for ident, at in state["last"])
