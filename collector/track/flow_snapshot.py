"""What is told so far of open flows, as text that survives a restart.

Addresses are left out: the next dump brings them again, and a state file without them is no record
of who spoke to whom. Columns are packed one by one, since those of one kind compress well: 36 bytes
a flow with random counters up to a million.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from collector.track.flow_table import COUNTERS, ENTRY, Entries

VERSION: Final = 1
_COLUMNS: Final = ("key", "start_ns", "first_ns", "mapped_ns", *COUNTERS)
_LEVEL: Final = 1
"""zlib's fastest: 100,000 flows in 0.13 s of CPU, which a window can bear."""


def dump(live: Entries) -> dict[str, object]:
    """A JSON-able form of flows that are open, sorted by key."""
    return {
        "version": VERSION,
        "flows": len(live),
        "columns": {name: _pack(live[name]) for name in _COLUMNS},
    }


def load(snapshot: Mapping[str, object], limit: int) -> Entries:
    """Entries sorted by key, the first `limit`; raises ValueError for what `dump` did not write."""
    count, columns = snapshot.get("flows"), snapshot.get("columns")
    if snapshot.get("version") != VERSION:
        raise ValueError("a flow snapshot of another version")
    # Twice the limit: it may have been lowered between two runs, but not to nothing.
    if type(count) is not int or not 0 <= count <= 2 * limit or not isinstance(columns, Mapping):
        raise ValueError("a flow snapshot without its columns, or too large")
    entries = np.zeros(count, ENTRY)
    for name in _COLUMNS:
        entries[name] = _unpack(columns.get(name), count, ENTRY[name])
    keys = entries["key"]
    if (keys[1:] <= keys[:-1]).any():
        raise ValueError("a flow snapshot out of order")
    return entries[:limit]


def _pack(column: npt.NDArray[Any]) -> str:
    """Differences where they help (keys are sorted), bytes of one rank together, zlib, base64."""
    gaps = np.diff(column.view(np.uint64), prepend=np.uint64(0)).astype("<u8")
    planes = np.ascontiguousarray(gaps).view(np.uint8).reshape(-1, 8).T
    return base64.b64encode(zlib.compress(planes.tobytes(), _LEVEL)).decode("ascii")


def _unpack(
    text: object, count: int, dtype: np.dtype[np.generic]
) -> np.ndarray[tuple[int], np.dtype[np.generic]]:
    if not isinstance(text, str):
        raise ValueError("a flow snapshot lacks a column")
    try:
        unpacker = zlib.decompressobj()
        planes = unpacker.decompress(base64.b64decode(text, validate=True), count * 8 + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError("a flow snapshot has a damaged column") from error
    if len(planes) != count * 8:
        raise ValueError("a flow snapshot has a column of another length")
    gaps = np.frombuffer(planes, np.uint8).reshape(8, count).T
    return np.cumsum(np.ascontiguousarray(gaps).view("<u8").ravel(), dtype=np.uint64).view(dtype)
