"""Decoded Arrow columns in, what the tables hold out: microseconds, bytes for text, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from aggregator.store.blocks import constant
from aggregator.store.schema import SCHEMA_NUMBER, stored_name
from collector.wire.batch import Header

Array = np.ndarray[Any, Any]


def stored_columns(batch: pa.RecordBatch) -> dict[str, Array]:
    """Columns of a decoded class under their stored names: microseconds, bytes for text,
    void items of sixteen bytes for ids and addresses."""
    columns = {}
    for position, field in enumerate(batch.schema):
        array = batch.column(position)
        if pa.types.is_string(field.type):
            values = array.cast(pa.binary()).to_numpy(zero_copy_only=False)
        elif pa.types.is_fixed_size_binary(field.type):
            values = _fixed(array)
        else:
            values = array.to_numpy(zero_copy_only=False)
        if field.name.endswith("_ns"):
            values = values // 1000
        columns[stored_name(field.name)] = values
    return columns


def _fixed(array: pa.Array[Any]) -> Array:
    """The sixteen-byte values in place, as void items; a null or a gap is not in them."""
    raw = array.buffers()[1]
    if raw is None:
        return np.empty(0, "V16")
    return np.frombuffer(memoryview(raw), "V16", count=len(array), offset=16 * array.offset)


def provenance(header: Header, rows: int) -> dict[str, Array]:
    return {
        "collector": constant(header.collector.encode(), rows),
        "boot": constant(header.boot.encode(), rows),
        "batch": constant(bytes.fromhex(header.batch), rows),
        "schema_version": np.full(rows, SCHEMA_NUMBER, np.uint8),
    }


def text_column(values: Sequence[str]) -> Array:
    column = np.empty(len(values), dtype=object)
    column[:] = [value.encode() for value in values]
    return column


def lists(columns: Mapping[str, Array]) -> dict[str, list[Any]]:
    """Columns as lists, text decoded again, for the attributor."""
    text = {"subscriber", "certainty", "source"}
    return {
        name: [value.decode() for value in values] if name in text else values.tolist()
        for name, values in columns.items()
    }
