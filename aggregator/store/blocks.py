"""Columns in, the bytes of ClickHouse's Native column format out.

The driver's own writers look for nulls in every value of a text column, which our columns cannot
hold, and write value by value: twice the CPU of clickhouse-client. These write a column as a
whole. (bench/insert.py measures both ways.) Format: integers little endian one after the other,
FixedString without lengths, String with its length in LEB128 before it.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]

_FIXED: Final = re.compile(r"FixedString\((\d+)\)")
_INTEGER: Final = re.compile(r"U?Int(?:8|16|32|64)")


class BadColumn(ValueError):
    """Values that do not fit the column's type; the message has none of them."""


def constant(value: bytes, rows: int) -> Array:
    """A column of one value, at the cost of one value."""
    cell = np.empty((), dtype=object)
    cell[()] = value
    return np.broadcast_to(cell, (rows,))


def column_bytes(kind: str, values: Array) -> bytes | None:
    """The column on the wire, or None for a type that is left to the driver.

    Integers come as an integer array that fits the type, text as an object array of bytes, text
    of a fixed width so or as an array of void items of that width.
    """
    if _INTEGER.fullmatch(kind):
        return _integers(kind, values)
    fixed = _FIXED.fullmatch(kind)
    if fixed is None and kind != "String":
        return None
    if fixed is not None and values.dtype == np.dtype(f"V{fixed[1]}"):
        return values.tobytes()
    items = [values[0]] if values.strides == (0,) and len(values) else values.tolist()
    try:
        if fixed is None:
            data = b"".join(map(_Prefixed().__getitem__, items))
        else:
            data = b"".join(items)
            if set(map(len, items)) - {int(fixed[1])}:
                raise BadColumn(f"a value for {kind} has another length")
    except TypeError:
        raise BadColumn(f"a value for {kind} is not bytes") from None
    return data * len(values) if len(items) != len(values) else data


def _integers(kind: str, values: Array) -> bytes:
    wanted = np.dtype(kind.lower()).newbyteorder("<")
    if values.dtype == wanted:
        return values.tobytes()
    if values.dtype.kind not in "iu":
        raise BadColumn(f"a column for {kind} is not of integers")
    limits = np.iinfo(wanted)
    if len(values) and not limits.min <= int(values.min()) <= int(values.max()) <= limits.max:
        raise BadColumn(f"a value does not fit {kind}")
    return values.astype(wanted).tobytes()


class _Prefixed(dict[bytes, bytes]):
    """Text with its length before it, each distinct value encoded once."""

    def __missing__(self, value: bytes) -> bytes:
        size, prefix = len(value), bytearray()
        while size >= 0x80:
            prefix.append(size & 0x7F | 0x80)
            size >>= 7
        prefix.append(size)
        made = self[value] = bytes(prefix) + value
        return made
