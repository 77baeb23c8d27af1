"""Columns: lists and arrays by column name into Arrow, every value checked against records.py.

The limits are those of the record classes; an error names the column and never the value, because
values are personal data and errors are logged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa

from collector.wire.batch import BatchError
from collector.wire.records import (
    CLASSES,
    MAX_STRING_BYTES,
    SCHEMA_VERSION,
    Column,
    RecordClass,
)

Columns: TypeAlias = Mapping[str, Sequence[Any] | np.ndarray[Any, Any]]
"""Column name to values, all of one length: a list, or an array of integers or 16-byte items."""
Rows: TypeAlias = Columns | pa.RecordBatch
"""Rows of one class: columns, or what `record_batch` made of them."""

_ID_BYTES: Final = 16
_INTEGER_TYPES: Final[Mapping[str, tuple[pa.DataType, int, int]]] = {
    "u8": (pa.uint8(), 0, 2**8 - 1),
    "u16": (pa.uint16(), 0, 2**16 - 1),
    "u32": (pa.uint32(), 0, 2**32 - 1),
    "u64": (pa.uint64(), 0, 2**64 - 1),
    "i64": (pa.int64(), -(2**63), 2**63 - 1),
}
_ARROW_TYPES: Final[Mapping[str, pa.DataType]] = {
    "id": pa.binary(_ID_BYTES),
    "addr": pa.binary(_ID_BYTES),
    "str": pa.string(),
    **{name: entry[0] for name, entry in _INTEGER_TYPES.items()},
}

_NOTHING: Final[Mapping[str, str | bytes]] = {"str": "", "id": bytes(16), "addr": bytes(16)}


@cache
def schema(class_name: str, version: int = SCHEMA_VERSION) -> pa.Schema:
    """The Arrow schema of a record class: every column that a schema version had, in order, none
    nullable, no metadata."""
    return pa.schema(
        [
            pa.field(column.name, _ARROW_TYPES[column.type], nullable=False)
            for column in CLASSES[class_name].columns
            if column.since <= version
        ]
    )


def completed(class_name: str, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of an older schema version with the columns they lack, as 0, empty or sixteen zeros."""
    wanted = schema(class_name)
    if batch.schema.equals(wanted):
        return batch
    arrays = [
        batch.column(column.name)
        if column.name in batch.schema.names
        else _array(CLASSES[class_name], column, [_NOTHING.get(column.type, 0)] * batch.num_rows)
        for column in CLASSES[class_name].columns
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=wanted)


def record_batch(class_name: str, rows: Rows) -> pa.RecordBatch:
    """Columns of one class as Arrow, every value checked; raises BatchError as `encode` does."""
    wanted = schema(class_name)
    if isinstance(rows, pa.RecordBatch):
        if not rows.schema.equals(wanted, check_metadata=True):
            raise BatchError("columns", f"{class_name}: another schema")
        return rows
    record_class = CLASSES[class_name]
    if rows.keys() != set(record_class.names):
        odd = sorted(rows.keys() ^ set(record_class.names))
        raise BatchError("columns", f"{class_name}: missing or unknown columns {odd}")
    if len({len(values) for values in rows.values()}) != 1:
        raise BatchError("columns", f"{class_name}: columns of different lengths")
    arrays = [_array(record_class, column, rows[column.name]) for column in record_class.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=wanted)


def bad_rows(class_name: str, columns: Columns) -> list[int]:
    """Ascending indices of the rows with a value that does not fit its column.

    For the caller that would rather lose a row, and say so, than a window: only columns that
    fail as a whole are looked at value by value.
    """
    record_class = CLASSES[class_name]
    bad: set[int] = set()
    for column in record_class.columns:
        values = columns[column.name]
        try:
            _array(record_class, column, values)
        except BatchError:
            bad.update(i for i, value in enumerate(values) if not _fits(column, value))
    return sorted(bad)


def _fits(column: Column, value: object) -> bool:
    if column.type in _INTEGER_TYPES:
        _, low, high = _INTEGER_TYPES[column.type]
        integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
        return integer and low <= int(value) <= high  # type: ignore[call-overload]
    if column.type == "str":
        try:
            return isinstance(value, str) and len(value.encode()) <= MAX_STRING_BYTES
        except UnicodeEncodeError:
            return False
    return isinstance(value, bytes) and len(value) == _ID_BYTES


def _array(
    record_class: RecordClass, column: Column, values: Sequence[Any] | np.ndarray[Any, Any]
) -> pa.Array[Any]:
    """One column as Arrow. Errors name the column only: values are personal data."""
    try:
        if column.type in _INTEGER_TYPES:
            array = _integers(column, values)
        elif column.type == "str":
            array = _strings(values)
        else:
            array = _fixed(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError):
        what = f"{record_class.name}.{column.name}: a value does not fit {column.type}"
        raise BatchError("value", what) from None
    return array


def _integers(column: Column, values: Sequence[Any] | np.ndarray[Any, Any]) -> pa.Array[Any]:
    arrow, low, high = _INTEGER_TYPES[column.type]
    kind = arrow.to_pandas_dtype()
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        if len(values) and not low <= int(values.min()) <= int(values.max()) <= high:
            raise OverflowError
        return _made(arrow, np.ascontiguousarray(values, kind))
    items = values.tolist() if isinstance(values, np.ndarray) else values
    # numpy would cut 1.5 to 1 and take True, so look at the types first.
    for each in set(map(type, items)):
        if each is bool or not issubclass(each, int | np.integer):
            raise TypeError
    if len(items) and not low <= min(items) <= max(items) <= high:
        raise OverflowError
    return _made(arrow, np.fromiter(items, kind, len(items)))


def _strings(values: Sequence[Any] | np.ndarray[Any, Any]) -> pa.Array[Any]:
    items = values.tolist() if isinstance(values, np.ndarray) else values
    if not all(issubclass(kind, str) for kind in set(map(type, items))):
        raise TypeError
    text = "".join(items)
    data = text.encode()
    whole = items if len(data) == len(text) else [item.encode() for item in items]
    ends = np.zeros(len(items) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, whole), np.int64, len(items)), out=ends[1:])
    if ends[-1] >= 2**31 or np.diff(ends).max(initial=0) > MAX_STRING_BYTES:
        raise ValueError
    return _made(pa.string(), ends.astype(np.int32), data)


def _fixed(values: Sequence[Any] | np.ndarray[Any, Any]) -> pa.Array[Any]:
    """16-byte values from a list of bytes, or an array of S16, V16 or shape (rows, 16) of uint8."""
    arrow = pa.binary(_ID_BYTES)
    if isinstance(values, np.ndarray) and values.dtype != np.dtype(object):
        kind = (values.dtype.kind, values.dtype.itemsize, values.shape[1:])
        if kind not in (("S", 16, ()), ("V", 16, ()), ("u", 1, (16,))):
            raise TypeError
        # The raw memory, because items of S16 lose their trailing zero bytes.
        return _made(arrow, np.frombuffer(np.ascontiguousarray(values).tobytes(), f"V{_ID_BYTES}"))
    items = values.tolist() if isinstance(values, np.ndarray) else values
    if not all(issubclass(kind, bytes) for kind in set(map(type, items))):
        raise TypeError
    if set(map(len, items)) - {_ID_BYTES}:
        raise ValueError
    return _made(arrow, np.frombuffer(b"".join(items), f"V{_ID_BYTES}"))


def _made(
    arrow: pa.DataType, values: np.ndarray[Any, Any], data: bytes | None = None
) -> pa.Array[Any]:
    """An array of the memory of `values`, which with `data` are the ends of its strings.

    Not by `pa.array`, which imports pandas where that is installed: 40 MB and a second.
    """
    buffers = [None, pa.py_buffer(values.data.cast("B") if values.size else b"")]
    if data is None:
        return pa.Array.from_buffers(arrow, len(values), buffers)
    return pa.Array.from_buffers(arrow, len(values) - 1, [*buffers, pa.py_buffer(data)])


def string_lengths(array: pa.Array[Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Bytes of each string of a column without nulls.

    From Arrow's own offsets: its compute module, which would tell too, takes 9 MB of memory.
    """
    offsets = array.buffers()[1]
    if offsets is None or not len(array):
        return np.zeros(0, np.int64)
    ends = np.frombuffer(memoryview(offsets), np.int32)[array.offset :].astype(np.int64)
    return ends[1 : len(array) + 1] - ends[: len(array)]


def longest(array: pa.Array[Any]) -> int:
    """Bytes of the longest string in the column, 0 where it has no rows."""
    return int(string_lengths(array).max(initial=0))


def concat(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Batches of one schema, at least one, one after the other."""
    if len(batches) == 1:
        return batches[0]
    joined: pa.RecordBatch = pa.concat_batches(batches)  # type: ignore[attr-defined]
    return joined


def compact(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows in memory of their own.

    Arrow pads what it writes of a slice with the bytes next to it, which belong to other rows, so
    the bytes would depend on what the slice was cut from, and hold what was not meant to be sent.
    """
    rows: pa.RecordBatch = pa.concat_batches([batch.slice(0, 0), batch])  # type: ignore[attr-defined]
    return rows
