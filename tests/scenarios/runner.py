"""Traffic of a case in, its records by the code that meters live out, and what differs."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from collector.parse.link import LINK_ETHERNET, Frame
from collector.replay import records
from collector.wire.records import CLASSES
from tests.scenarios.case import Case

Row = dict[str, Any]

_PCAP: Final = struct.Struct("<IHHiIII")
_PCAP_MAGIC_NS: Final = 0xA1B23C4D
_PACKET: Final = struct.Struct("<IIII")
_SECOND_NS: Final = 1_000_000_000


def write_pcap(path: Path, frames: Iterable[tuple[int, bytes]]) -> None:
    """A capture with nanoseconds, by which others and our own reader get the same frames."""
    with path.open("wb") as file:
        file.write(_PCAP.pack(_PCAP_MAGIC_NS, 2, 4, 0, 0, 262_144, LINK_ETHERNET))
        for ts_ns, data in frames:
            seconds, rest = divmod(ts_ns, _SECOND_NS)
            file.write(_PACKET.pack(seconds, rest, len(data), len(data)) + data)


def rows_of(case: Case, frames: Iterable[Frame]) -> list[Row]:
    """The newest version of each record, in order of its time."""
    newest: dict[tuple[str, str], Row] = {}
    for name, row in records(frames, case.classes, case.settings.replay()):
        key = (name, str(row.get("record_id", len(newest))))
        if key not in newest or row["observed_ns"] > newest[key]["observed_ns"]:
            newest[key] = {"class": name, **row}
    return sorted(newest.values(), key=_order)


def _order(row: Row) -> tuple[Any, ...]:
    kind = CLASSES[row["class"]]
    return (row[kind.time], row["class"], *(str(row[name]) for name in kind.key))


def differences(expected: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """What does not agree, in words; empty where each line has its record and none is left."""
    left = list(rows)
    told = []
    for number, line in enumerate(expected, 1):
        wrong = {n: _wrong(line, row) for n, row in enumerate(left)}
        agreeing = [n for n, fields in wrong.items() if not fields]
        if agreeing:
            left.pop(agreeing[0])
            continue
        nearest = min(wrong, key=lambda n: len(wrong[n]), default=None)
        if nearest is None:
            told.append(f"line {number}: no record is left for it")
            continue
        row = left.pop(nearest)
        told += [
            f"line {number}: {name} is {row.get(name)!r}, not {line[name]!r}"
            for name in wrong[nearest]
        ]
    told += [f"a record that no line expects: {row}" for row in left]
    return told


def _wrong(line: Row, row: Row) -> list[str]:
    return [name for name, value in line.items() if not _agrees(value, row.get(name))]


def _agrees(expected: Any, found: Any) -> bool:
    if isinstance(expected, list) and not isinstance(found, list):
        low, high = expected
        return found is not None and low <= found <= high
    return bool(expected == found)
