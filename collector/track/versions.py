"""Row versions on their way from a tracker to the window: what is due by a window's end leaves.

A record may be written several times (open, proof, end); all versions share their `record_id`, and
`observed_ns` of each is later than that of the one before, so the newest is well defined.
"""

from __future__ import annotations

from collections import OrderedDict
from operator import itemgetter
from typing import Any, Final

from collector.wire.records import CLASSES, MAX_STRING_BYTES, RecordClass, record_id

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


class _Shape:
    """Where a class has what: its identity, its texts, and its columns without the common ones."""

    def __init__(self, record_class: RecordClass) -> None:
        self.names = record_class.names
        self.key = itemgetter(*record_class.key)
        self.values = itemgetter(*self.names[2:])
        texts = [n for n, c in enumerate(record_class.columns) if c.type == "str"]
        self.clipped, self.texts = texts, itemgetter(*texts)


class Versions:
    """Rows of some record classes that wait for their window to close."""

    def __init__(self, *class_names: str) -> None:
        self._shapes = {name: _Shape(CLASSES[name]) for name in class_names}
        self._pending: dict[str, list[list[Any]]] = {name: [] for name in class_names}
        self._last: OrderedDict[bytes, int] = OrderedDict()
        self._newest: dict[bytes, list[Any]] = {}

    def add(self, class_name: str, row: Row, observed_ns: int, ident: bytes = b"") -> bytes:
        """Queues a version; `row` has every column but `record_id` and `observed_ns`.

        `ident`: what this gave for the record before, which saves making it. Returns the record id.
        """
        shape = self._shapes[class_name]
        ident = ident or record_id(class_name, *shape.key(row))
        # The store keeps microseconds: versions closer than one would tie there.
        observed_ns = max(observed_ns, self._last.pop(ident, observed_ns - 1000) + 1000)
        self._last[ident] = observed_ns
        while len(self._last) > MAX_MEMORY:
            self._last.popitem(last=False)
        full = [ident, observed_ns, *shape.values(row)]
        text = "".join(shape.texts(full))
        if len(text) > MAX_STRING_BYTES or not text.isascii():
            for place in shape.clipped:
                full[place] = clip(full[place])
        self._pending[class_name].append(full)
        self._newest[ident] = full
        return ident

    def again(self, class_name: str, row: list[Any]) -> None:
        """Queues a version made of the last one of its record, with a later `observed_ns`."""
        self._last[row[0]] = row[1]
        self._last.move_to_end(row[0])
        self._newest[row[0]] = row
        self._pending[class_name].append(row)

    def newest(self, ident: bytes) -> list[Any] | None:
        """The newest version of that record that has not left yet, in the class's columns."""
        return self._newest.get(ident)

    def waiting(self, class_name: str) -> int:
        """Rows of a class that have not left yet."""
        return len(self._pending[class_name])

    def amend(self, class_name: str, ident: bytes, column: str, value: Any) -> None:
        """Sets a column on the newest version of that record, if it has not left yet."""
        row = self._newest.get(ident)
        if row is not None:
            row[self._shapes[class_name].names.index(column)] = value

    def take(self, end_ns: int) -> dict[str, Columns]:
        """Removes and returns, by class and column, the versions observed before `end_ns`."""
        out: dict[str, Columns] = {}
        for name, rows in self._pending.items():
            due = [row for row in rows if row[1] < end_ns]
            self._pending[name] = [row for row in rows if row[1] >= end_ns]
            for row in due:
                if self._newest.get(row[0]) is row:
                    del self._newest[row[0]]
            columns = (
                map(list, zip(*due, strict=True)) if due else ([] for _ in CLASSES[name].names)
            )
            out[name] = dict(zip(CLASSES[name].names, columns, strict=True))
        return out

    def snapshot(self) -> dict[str, object]:
        """JSON-able state; bytes as hex."""
        return {
            "pending": {
                name: [[v.hex() if isinstance(v, bytes) else v for v in row] for row in rows]
                for name, rows in self._pending.items()
            },
            "last": [[ident.hex(), at] for ident, at in self._last.items()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what `snapshot` wrote."""
        for name in self._pending:
            binary = [c.type in ("id", "addr") for c in CLASSES[name].columns]
            self._pending[name] = [
                [bytes.fromhex(v) if is_hex else v for v, is_hex in zip(row, binary, strict=True)]
                for row in state["pending"].get(name, [])
            ]
        self._newest = {row[0]: row for rows in self._pending.values() for row in rows}
        self._last = OrderedDict((bytes.fromhex(ident), at) for ident, at in state["last"])
