"""Rows of every record class for tests: deterministic, with the extremes of every type."""

from __future__ import annotations

import random
from typing import Any

from collector.wire import addr
from collector.wire.records import CLASSES, record_id

HEADER: dict[str, Any] = {
    "collector": "lns1.example.net",
    "boot": "b00t",
    "epoch": "e" * 32,
    "sequence": 7,
    "window_start_ns": 1_700_000_100_000_000_000,
    "window_end_ns": 1_700_000_400_000_000_000,
    "created_ns": 1_700_000_400_100_000_000,
}
WINDOW: dict[str, int] = {
    name: HEADER[name] for name in ("window_start_ns", "window_end_ns", "created_ns")
}
_EXTREMES: dict[str, tuple[Any, Any]] = {
    "u8": (0, 2**8 - 1),
    "u16": (0, 2**16 - 1),
    "u32": (0, 2**32 - 1),
    "u64": (0, 2**64 - 1),
    "i64": (-(2**63), 2**63 - 1),
    "str": ("", "ü" * 256),
    "id": (bytes(16), b"\xff" * 16),
    "addr": (addr.pack("192.0.2.1"), addr.pack("2001:db8::")),
}


def columns(class_name: str, rows: int, seed: int = 1) -> dict[str, list[Any]]:
    """`rows` rows of a class; the first two hold the extremes."""
    source = random.Random(f"{class_name}-{seed}")
    result: dict[str, list[Any]] = {}
    for column in CLASSES[class_name].columns:
        values: list[Any] = list(_EXTREMES[column.type][:rows])
        while len(values) < rows:
            values.append(_value(column.type, source))
        result[column.name] = values
    result["record_id"] = [record_id(class_name, seed, i) for i in range(rows)]
    return result


def all_classes(rows: int = 3, seed: int = 1) -> dict[str, dict[str, list[Any]]]:
    """Rows of every class."""
    return {name: columns(name, rows, seed) for name in CLASSES}


def _value(kind: str, source: random.Random) -> Any:
    if kind in ("id", "addr"):
        return source.randbytes(16)
    if kind == "str":
        return "".join(source.choices("abcdefgh.-é", k=source.randrange(30)))
    low, high = _EXTREMES[kind]
    return source.randint(low, high)
